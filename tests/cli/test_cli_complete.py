"""What a shell proposes while a command is typed."""

import pytest

from mocli.__main__ import main
from mocli.data.demo import write_demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, n_cells=60)
    return folder


@pytest.fixture
def complete(demo, monkeypatch, capsys):
    def ask(line):
        monkeypatch.chdir(demo)
        monkeypatch.setenv("_MOCLI_COMPLETE", "complete_bash")
        words = f"mocli {line}"
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        assert main([]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out.split()

    return ask


@pytest.mark.parametrize(
    ("line", "proposed"),
    [
        ("integ", {"integrate"}),
        ("integrate --pair", {"--pairing", "--pair-key"}),
        ("integrate --pairing un", {"unpaired"}),
        ("integrate -m multi", {"multidgd", "multigrate"}),
        ("integrate multiome.h5mu --label-key cell", {"cell_type"}),
        ("integrate multiome.h5mu --layer r", {"rna="}),
        ("integrate multiome.h5mu --kind rna=p", {"rna=prot"}),
        ("impute multiome.h5mu --to at", {"atac"}),
        ("impute x=rna.h5ad --from ", {"x"}),
        ("perturb multiome.h5mu --from cell_type=lymph", {"cell_type=lymph_a", "cell_type=lymph_b"}),
        ("benchmark multiome.h5mu --models scmodal,multid", {"scmodal,multidgd"}),
        ("integrate absent.h5mu --label-key c", set()),
        ("integrate genes.tsv --label-key c", set()),
        ("params multi", {"multidgd", "multigrate"}),
    ],
)
def test_proposals(complete, line, proposed):
    assert proposed <= set(complete(line))
    if not proposed:
        assert complete(line) == []
