"""`--gene-sets` of every subcommand that trains."""

import pytest

from mocli import log
from mocli.__main__ import main
from mocli.data.demo import write_demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, n_cells=120)
    genes = ["CD4", "CD8A", "CD19", "MS4A1", "CD3E", "CD14"]
    (folder / "sets.gmt").write_text("\n".join(f"S{k}\t\t" + "\t".join(genes[k:]) for k in range(3)) + "\n")
    return folder


def dry(*words):
    code = main([str(w) for w in (*words, "--dry-run", "--device", "cpu")])
    log.teardown()
    return code


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("integrate", []),
        ("impute", ["--from", "rna", "--to", "prot"]),
        ("simulate", ["--label-key", "cell_type"]),
        ("perturb", ["--to", "cell_type=lymph_b"]),
        ("gene2peak", ["--from", "rna", "--to", "prot", "--method", "correlation"]),
    ],
)
def test_every_training_reads_them(demo, tmp_path, capsys, command, words):
    suffix = {"impute": "h5ad", "integrate": "h5mu", "simulate": "h5mu"}.get(command, "tsv")
    given = [demo / "rna.h5ad", demo / "prot.h5ad", "--links", demo / "rna-prot.tsv"]
    given += ["-m", "sccross", "--gene-sets", demo / "sets.gmt", "-o", tmp_path / f"o.{suffix}"]
    assert dry(command, *given, *words) == 0
    out = capsys.readouterr().out
    assert "rna: " in out
    assert "3 gene sets" in out


def test_a_benchmark_gives_them_to_models_that_take_them(demo, tmp_path, capsys):
    given = ["benchmark", demo / "rna.h5ad", demo / "prot.h5ad", "--links", demo / "rna-prot.tsv"]
    given += ["--gene-sets", demo / "sets.gmt", "--seeds", "0", "-o", tmp_path / "b.tsv"]
    assert dry(*given, "--models", "sccross,scmodal") == 0
    runs = {
        line.split()[3]: line for line in capsys.readouterr().out.splitlines() if line.startswith("would run")
    }
    assert f"--gene-sets {demo / 'sets.gmt'}" in runs["sccross"]
    assert "--gene-sets" not in runs["scmodal"]
    assert dry(*given, "--models", "scmodal") == 2
    assert "no model of this benchmark uses gene sets" in capsys.readouterr().err
    given[given.index(demo / "sets.gmt")] = demo / "absent.gmt"
    assert dry(*given, "--models", "sccross") == 3
    assert "absent.gmt" in capsys.readouterr().err
