"""`mocli impute` as typed: what it prints, how it ends, and chains of modalities that do not hold."""

import json

import anndata as ad
import pytest

from mocli import log
from mocli.__main__ import main
from mocli.data.demo import write_demo
from mocli.report.file import validate

SMALL = ["-s", "n_hidden=16", "--batch-size", "32", "--n-latent", "4"]
QUICK = ["--max-steps", "3", "--no-html", "--threads", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, n_cells=60, trimodal=True)
    return folder


@pytest.fixture(scope="module")
def model(demo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    inputs = [demo / "rna.h5ad", demo / "prot.h5ad", "--links", demo / "rna-prot.tsv"]
    argv = ["impute", *inputs, "--from", "rna", "--to", "prot", "-o", folder / "o.h5mu", *QUICK, *SMALL]
    assert main([str(a) for a in argv]) == 0
    log.teardown()
    return folder / "o.model"


class Ended:
    def __init__(self, code, err, report):
        self.code, self.err, self.report = code, err, report

    @property
    def error(self):
        return self.report["error"]


@pytest.fixture
def call(tmp_path, capsys):
    def run(command, *args, output="o.h5mu"):
        path = tmp_path / output
        code = main([str(a) for a in (command, *args, "-o", path, *QUICK)])
        log.teardown()
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        report = path.with_name(path.name.split(".")[0] + ".report.json")
        found = json.loads(report.read_text()) if report.exists() else None
        if found is not None:
            validate(found)
        if code:
            assert captured.err.count("mocli: error:") == 1
            assert not path.exists()
        return Ended(code, captured.err, found)

    return run


@pytest.mark.parametrize("command", ["integrate", "impute"])
def test_modalities_in_two_parts_are_named(call, demo, command):
    inputs = [f"{name}={demo / file}.h5ad" for name, file in
              (("rna", "rna"), ("prot", "prot"), ("gex", "gex"), ("peaks", "atac"))]  # fmt: skip
    table = demo / "gex-peaks.tsv"
    table.write_text((demo / "gex-atac.tsv").read_text().replace("atac", "peaks", 1))
    links = ["--links", demo / "rna-prot.tsv", "--links", table]
    direction = ["--from", "rna", "--to", "prot"] if command == "impute" else []
    ended = call(command, *inputs, *links, *direction, *SMALL)
    assert ended.code == 3
    assert "groups that are not connected" in ended.error["message"]
    assert ended.error["found"] == "prot - rna; gex - peaks"
    assert ended.error["field"] == "--links"
    assert "prot - rna; gex - peaks" in ended.err


def test_a_modality_that_no_link_reaches(call, demo):
    inputs = [f"rna={demo / 'rna.h5ad'}", f"prot={demo / 'prot.h5ad'}", f"peaks={demo / 'atac.h5ad'}"]
    ended = call(
        "impute", *inputs, "--links", demo / "rna-prot.tsv", "--from", "rna", "--to", "peaks", *SMALL
    )
    assert ended.code == 3
    assert "no link reaches the modality 'peaks'" in ended.error["message"]


def test_from_a_model(call, demo, model, tmp_path):
    ended = call("impute", demo / "rna.h5ad", "--from-model", model, "--features", "CD3,CD4",
                 "--scale", "counts", "--key-added", "X_mine", output="q.h5ad")  # fmt: skip
    assert ended.code == 0
    new = ad.read_h5ad(tmp_path / "q.h5ad")
    assert list(new.var_names) == ["CD3", "CD4"]
    assert set(new.layers) == {"lower", "upper"}
    assert ended.report["status"] == "ok"
    assert "million values written" not in ended.err  # of few values the pace says nothing


def test_nothing_missing_ends_with_two_and_a_hint(call, demo):
    ended = call("impute", demo / "multiome.h5mu", "--links", demo / "rna-atac.tsv", "--from", "rna",
                 "--to", "atac", "--hold-out", "0", *SMALL)  # fmt: skip
    assert ended.code == 2
    assert "nothing is missing" in ended.error["message"]
    assert "--cells all" in ended.error["hint"]


def test_one_input_and_no_model(call, demo):
    ended = call("impute", demo / "rna.h5ad", "--to", "prot", *SMALL)
    assert ended.code == 2
    assert "--from-model DIR" in ended.error["hint"]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--to", "atac"], 2, "the model has no modality 'atac'"),
        (["--from", "prott"], 2, "did you mean 'prot'"),
        (["--features", "CD3,CD44x"], 3, "1 of the features asked for"),
        (["--scale", "raw"], 2, "--scale"),
        (["--cells", "none"], 2, "--cells"),
        (["--coverage", "2"], 2, "--coverage"),
        (["--hold-out", "all"], 2, "--hold-out"),
        (["--evaluate"], 3, "--evaluate needs cells"),
        (["--layer", "rna=nope"], 3, "no layer 'nope'"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_mistakes_beside_a_model(call, demo, model, args, code, words):
    ended = call("impute", demo / "rna.h5ad", "--from-model", model, *args)
    assert ended.code == code
    assert words in " ".join(ended.err.split())


def test_a_folder_that_is_no_model(call, demo, tmp_path):
    (tmp_path / "empty").mkdir()
    ended = call("impute", demo / "rna.h5ad", "--from-model", tmp_path / "empty", "--to", "prot")
    assert ended.code == 3
    assert "holds no readable model" in ended.error["message"]
    ended = call("impute", demo / "rna.h5ad", "--from-model", demo / "rna.h5ad", "--to", "prot")
    assert (ended.code, ended.error["message"]) == (3, "a file is no model")


def test_features_of_other_names(call, demo, model, tmp_path):
    a = ad.read_h5ad(demo / "rna.h5ad")
    a.var_names = a.var_names.str.lower()
    a.write_h5ad(tmp_path / "q.h5ad")
    ended = call("impute", f"rna={tmp_path / 'q.h5ad'}", "--from-model", model, "--to", "prot")
    assert ended.code == 3
    assert "upper and lower case" in ended.error["hint"]
    assert len(ended.error["found"].split(", ")) == 5
    assert len(ended.error["expected"].split(", ")) == 5
