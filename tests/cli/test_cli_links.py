"""`mocli links build` and `mocli links check` as a user runs them."""

import io
import json

import pandas as pd
import pytest

from mocli import log
from mocli.__main__ import main
from mocli.cli import links as command
from mocli.data.demo import write_demo
from mocli.tasks.links import build as task


@pytest.fixture(autouse=True)
def quiet_after():
    yield
    log.teardown()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    import anndata as ad
    import numpy as np
    from scipy import sparse

    folder = tmp_path_factory.mktemp("links")
    rng = np.random.default_rng(0)
    names = {
        "rna": ["CD3E", "CD3D", "CD19", "ACTB", "MALAT1", "RPL3"],
        "prot": ["CD3_TotalSeqB", "CD19", "IgG1", "Odd"],
        "atac": ["chr1:900-1100", "chr1:9000-9100", "chr2:5-9"],
    }
    for name, features in names.items():
        x = rng.poisson(2.0, (20, len(features))).astype(np.float32)
        x[:, 0] += np.arange(20)
        var = pd.DataFrame(index=features)
        ad.AnnData(sparse.csr_matrix(x), var=var).write_h5ad(folder / f"{name}.h5ad")
    (folder / "genes.bed").write_text("1\t1000\t5000\tCD3E\t0\t+\n2\t1\t100\tCD19\t0\t-\n")
    return folder


def run(capsys, *args):
    code = main([str(arg) for arg in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_build_writes_the_table_and_says_what_it_did(data, tmp_path, capsys):
    path = tmp_path / "links.tsv"
    code, out, err = run(capsys, "links", "build", data / "prot.h5ad", data / "rna.h5ad", "-o", path)
    assert (code, out) == (0, "")
    table = pd.read_csv(path, sep="\t")
    assert table.columns.tolist() == ["prot", "rna", "weight"]
    assert list(zip(table["prot"], table["rna"], table["weight"], strict=True)) == [
        ("CD3_TotalSeqB", "CD3E", 0.5),
        ("CD3_TotalSeqB", "CD3D", 0.5),
        ("CD19", "CD19", 1.0),
    ]
    assert "2 of 4 prot features <-> 3 of 6 rna features" in err
    assert "IgG1" in err
    assert "'Odd'" in err
    assert f"wrote {path}" in err


def test_a_built_table_serves_integrate(data, tmp_path, capsys):
    path = tmp_path / "links.tsv"
    files = [data / "prot.h5ad", data / "rna.h5ad"]
    assert run(capsys, "links", "build", *files, "-o", path)[0] == 0
    asked = [*files, "--links", path, "-m", "scmodal", "-o", tmp_path / "out.h5mu", "-n"]
    code, out, _ = run(capsys, "integrate", *asked)
    assert code == 0
    assert "3 links" in out


def test_stdout_holds_the_table_alone(data, capsys):
    args = ["links", "build", data / "rna.h5ad", data / "atac.h5ad", "--genes", data / "genes.bed"]
    code, out, err = run(capsys, *args, "--mode", "window", "--decay", "1000", "-o", "-")
    assert code == 0
    table = pd.read_csv(io.StringIO(out), sep="\t")
    assert table.columns.tolist() == ["rna", "atac", "weight"]
    assert table["weight"].tolist() == [1.0, pytest.approx(3.355e-4), pytest.approx(0.913)]
    assert "links (window)" in err
    assert "wrote" not in err


def test_quiet_says_nothing_and_an_option_reaches_the_task(data, capsys):
    args = ["links", "build", data / "rna.h5ad", data / "atac.h5ad", "--genes", data / "genes.bed", "-o", "-"]
    code, out, err = run(capsys, *args, "--mode", "promoter", "--promoter", "50", "-q")
    assert (code, err) == (0, "")
    assert out.splitlines() == ["rna\tatac\tweight", "CD3E\tchr1:900-1100\t1"]


def test_mistakes_end_with_their_codes(data, tmp_path, capsys):
    pair = [data / "rna.h5ad", data / "atac.h5ad"]
    code, _, err = run(capsys, "links", "build", *pair, "-o", tmp_path / "x.tsv")
    assert code == 2
    assert "--gtf" in err
    code, _, err = run(capsys, "links", "build", *pair, "--mode", "promotr", "-o", "-")
    assert code == 2
    assert "did you mean 'promoter'" in err
    code, _, err = run(capsys, "links", "build", *pair, "--genes", data / "absent.gtf", "-o", "-")
    assert code == 3
    assert "absent.gtf" in err
    existing = tmp_path / "links.tsv"
    existing.write_text("mine")
    code, _, err = run(capsys, "links", "build", data / "prot.h5ad", data / "rna.h5ad", "-o", existing)
    assert code == 2
    assert "--force" in err
    assert existing.read_text() == "mine"
    assert run(capsys, "links", "build", data / "prot.h5ad", data / "rna.h5ad")[0] == 2


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "links.tsv"
    path.write_text("rna\tprot\nCD19\tCD19\nCD19\tCD19\nCD3E\tCD3_TotalSeqB\nCD3Z\tOdd\n")
    return path


def test_check_prints_numbers_and_findings(data, table, capsys):
    code, out, err = run(capsys, "links", "check", table, data / "rna.h5ad", data / "prot.h5ad")
    assert code == 0
    assert "rna <-> prot: 2 links of 3 rows" in out
    assert "1 rows occur in the table more than once" in out
    line = next(line for line in out.splitlines() if line.startswith("not found"))
    assert line.split()[2:4] == ["rna", "CD3Z"]
    assert "nearest: CD3" in line
    assert "repeated" in err
    assert out.splitlines()[-1] == "look first: rna and prot have few links (2)"


def test_check_ends_with_ready_where_a_table_fits(tmp_path, capsys):
    write_demo(tmp_path / "demo", n_cells=60)
    files = [tmp_path / "demo" / name for name in ("rna-prot.tsv", "rna.h5ad", "prot.h5ad")]
    code, out, _ = run(capsys, "links", "check", *files)
    assert (code, out.splitlines()[-1]) == (0, "ready: the table fits the data")


def test_check_as_json(data, table, capsys):
    code, out, _ = run(capsys, "links", "check", table, data / "rna.h5ad", data / "prot.h5ad", "--json")
    assert code == 0
    audit = json.loads(out)
    assert audit["n_repeated"] == 1
    assert audit["edges"][0]["source"] == {
        "modality": "rna",
        "n_features": 6,
        "n_linked": 2,
        "n_unmatched": 1,
        "n_constant": 0,
        "n_many": 0,
    }
    assert [p["feature"] for p in audit["problems"]] == ["CD3Z"]


def test_findings_are_cut_unless_all_are_asked_for(data, tmp_path, capsys):
    path = tmp_path / "links.tsv"
    rows = [f"ZZ{k}\tCD19\n" for k in range(30)]
    path.write_text("rna\tprot\nCD19\tCD19\n" + "".join(rows))
    args = ["links", "check", path, data / "rna.h5ad", data / "prot.h5ad"]
    short, full = run(capsys, *args)[1], run(capsys, *args, "-v")[1]
    assert "10 more" in short
    assert sum(line.startswith("not found") for line in full.splitlines()) == 30


def test_a_table_that_matches_nothing_ends_with_3(data, tmp_path, capsys):
    path = tmp_path / "links.tsv"
    path.write_text("rna\tprot\nQQQ\tWWW\n")
    code, _, err = run(capsys, "links", "check", path, data / "rna.h5ad", data / "prot.h5ad")
    assert code == 3
    assert "no link matches" in err


def test_the_group_alone_shows_its_help(capsys):
    code, out, _ = run(capsys, "links")
    assert code == 0
    assert "build" in out
    assert "check" in out


def test_the_modes_of_the_command_are_those_of_the_task():
    assert command.MODES == task.MODES
