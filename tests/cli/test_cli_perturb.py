"""`mocli perturb` as typed."""

import json

import pytest

from mocli import log
from mocli.__main__ import main
from mocli.data.demo import write_demo
from mocli.report.file import validate

SMALL = ["-s", "n_hidden=16", "--batch-size", "32", "--n-latent", "4", "--max-steps", "3"]
QUICK = ["--no-html", "--threads", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, n_cells=120)
    return folder


def call(*words):
    code = main([str(w) for w in ("perturb", *words, *QUICK)])
    log.teardown()
    return code


def test_one_modality_trains_and_screens(demo, tmp_path, capsys):
    where = ["--from", "cell_type=lymph_a", "--to", "cell_type=lymph_b", "--group-key", "batch"]
    out = tmp_path / "o.tsv"
    assert call(demo / "rna.h5ad", "-m", "multigrate", *where, "--screen", "all", "-o", out, *SMALL) == 0
    assert capsys.readouterr().out == ""
    report = json.loads((tmp_path / "o.report.json").read_text())
    validate(report)
    assert report["model"]["name"] == "multigrate"
    assert (
        len(out.read_text().splitlines()) == 1 + 400
    )  # each feature once, towards what the target cells have
    # the model is used again; names come from a file
    (tmp_path / "names.txt").write_text("CD4\nCD8A\n")
    more = [
        "--from-model",
        tmp_path / "o.model",
        "--features",
        tmp_path / "names.txt",
        "-o",
        tmp_path / "p.tsv",
    ]
    assert call(demo / "rna.h5ad", *where, *more, "--effect", "knockout") == 0
    lines = (tmp_path / "p.tsv").read_text().splitlines()
    assert {line.split("\t")[0] for line in lines[1:]} == {"CD4", "CD8A"}
    assert call(demo / "rna.h5ad", *where, "--screen", tmp_path / "names.txt", "-o", tmp_path / "q.tsv") == 2
    assert "--features" in capsys.readouterr().err


def test_mistakes_end_with_their_code(demo, tmp_path, capsys):
    out = ["-o", tmp_path / "o.tsv", "-m", "multigrate", *SMALL]
    assert call(demo / "rna.h5ad", "--to", "cell_type=lymph_x", *out) == 3
    assert "did you mean 'lymph_" in capsys.readouterr().err
    assert call(demo / "rna.h5ad", "--to", "cell_type", *out) == 2
    assert call(demo / "rna.h5ad", "--features", "CD5", "--target-modality", "rna", *out) == 3
    assert "did you mean" in capsys.readouterr().err
    assert call(demo / "rna.h5ad", "--features", "CD4", "--target-modality", "prot", *out) == 2
    assert not (tmp_path / "o.tsv").exists()
