"""Several files with the same modality, as typed: one atlas of all cells."""

import json
import warnings

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mocli.__main__ import main
from mocli.data.files.inputs import sha256
from mocli.report.file import validate

QUICK = ["--max-steps", "30", "-s", "n_hidden=16", "--n-latent", "4", "--batch-size", "32", "--threads", "1"]
QUICK += ["--device", "cpu", "--no-html"]


def measure(cells, features, *, seed, **obs):
    rng = np.random.default_rng(seed)
    kind = np.arange(len(cells)) % 3
    rate = rng.gamma(0.5, 1.0, size=(3, len(features)))[kind] + 0.05
    table = pd.DataFrame({"cell_type": pd.Categorical([f"t{k}" for k in kind]), **obs}, index=list(cells))
    return ad.AnnData(
        sparse.csr_matrix(rng.poisson(rate).astype(np.float32)), table, pd.DataFrame(index=features)
    )


def read(path):
    with warnings.catch_warnings(), md.set_options(pull_on_update=False):
        warnings.simplefilter("ignore")
        return md.read_h5mu(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """cite.h5mu and multiome.h5mu, whose barcodes recur."""
    folder = tmp_path_factory.mktemp("atlas")
    genes = [f"GENE{i}" for i in range(30)]
    a, b = [f"BC{i}" for i in range(50)], [f"BC{i}" for i in range(30, 90)]
    made = {
        "cite": {
            "rna": measure(a, genes, seed=0, donor="d1"),
            "prot": measure(a[::-1], [f"Prot{i}" for i in range(8)], seed=1),
        },
        "multiome": {
            "rna": measure(b, [*genes[::-1], "extra"], seed=2, lane=1.0),
            "atac": measure(b, [f"chr1:{200 * i}-{200 * i + 99}" for i in range(40)], seed=3),
        },
    }
    with warnings.catch_warnings(), md.set_options(pull_on_update=False):
        warnings.simplefilter("ignore")
        for name, modalities in made.items():
            md.MuData(modalities).write_h5mu(folder / f"{name}.h5mu")
    return folder


def test_an_atlas_of_two_experiments(folder, tmp_path, capsys):
    inputs = [folder / "cite.h5mu", folder / "multiome.h5mu"]
    before = [sha256(path) for path in inputs]
    argv = [
        "integrate",
        *inputs,
        "-m",
        "multigrate",
        "--batch-key",
        "input",
        "--label-key",
        "cell_type",
        *QUICK,
    ]
    assert main([*map(str, argv), "-o", str(tmp_path / "atlas.h5mu")]) == 0
    said = capsys.readouterr().err
    assert "20 cell names recur in files that hold different cells" in said
    assert "30 features are in all of its 2 files (cite.h5mu has 30, multiome.h5mu has 31)" in said
    assert [sha256(path) for path in inputs] == before

    out, (cite, multiome) = read(tmp_path / "atlas.h5mu"), map(read, inputs)
    cells = [
        *(f"{c}-cite" for c in cite["rna"].obs_names),
        *(f"{c}-multiome" for c in multiome["rna"].obs_names),
    ]
    assert list(out.obs_names) == list(out["rna"].obs_names) == cells
    assert list(out["prot"].obs_names) == cells[:50][::-1]
    assert list(out["atac"].obs_names) == cells[50:]
    assert list(out.obs["input"]) == ["cite"] * 50 + ["multiome"] * 60
    assert np.isfinite(out.obsm["X_multigrate"]).all()
    assert out.obsm["X_multigrate"].shape == (110, 4)
    # one place for a cell, whatever was measured of it
    place = pd.DataFrame(out["rna"].obsm["X_multigrate"], index=out["rna"].obs_names)
    np.testing.assert_array_equal(place.loc[out["prot"].obs_names], out["prot"].obsm["X_multigrate"])
    np.testing.assert_array_equal(
        out["rna"].X.toarray(),
        np.vstack([d["rna"][:, out["rna"].var_names].X.toarray() for d in (cite, multiome)]),
    )
    added = {"modality", "multigrate_louvain", "louvain"}
    assert set(out["rna"].obs) == {"cell_type", "donor", "lane", "input"} | added
    assert out["rna"].obs["donor"].isna().tolist() == [False] * 50 + [True] * 60

    report = json.loads((tmp_path / "atlas.report.json").read_text())
    validate(report)
    found = [(i["modality"], i["n_obs"], i["path"], i["sha256"]) for i in report["inputs"]]
    assert found == [
        ("rna", 50, str(inputs[0]), before[0]),
        ("rna", 60, str(inputs[1]), before[1]),
        ("prot", 50, str(inputs[0]), before[0]),
        ("atac", 60, str(inputs[1]), before[1]),
    ]


def test_the_plan_names_all_files_and_what_is_lost(folder, tmp_path, capsys):
    argv = [
        "integrate",
        folder / "cite.h5mu",
        folder / "multiome.h5mu",
        "-o",
        tmp_path / "o.h5mu",
        "--dry-run",
    ]
    assert main([*map(str, argv), "--batch-key", "input"]) == 0
    plan = capsys.readouterr().out
    assert f"110 cells x 30 rna features from {folder / 'cite.h5mu'}, {folder / 'multiome.h5mu'}" in plan
    assert "cells are mosaic" in plan
    assert not (tmp_path / "o.h5mu").exists()


def test_a_name_for_two_files(folder, tmp_path):
    for name in ("cite", "multiome"):
        read(folder / f"{name}.h5mu")["rna"].write_h5ad(tmp_path / f"{name}.h5ad")
    read(folder / "cite.h5mu")["prot"].write_h5ad(tmp_path / "prot.h5ad")
    # the proteins are of all cells of cite and of 20 names that multiome has as well: they are cite's
    argv = ["integrate", f"rna={tmp_path / 'cite.h5ad'}", f"rna={tmp_path / 'multiome.h5ad'}"]
    argv += [str(tmp_path / "prot.h5ad"), "-m", "multigrate", *QUICK, "-o", str(tmp_path / "o.h5mu")]
    assert main(argv) == 0
    out = read(tmp_path / "o.h5mu")
    assert list(out["prot"].obs_names) == [f"BC{i}-cite" for i in reversed(range(50))]
    assert out.n_obs == 110


@pytest.mark.parametrize(
    ("inputs", "code", "words"),
    [
        (["cite.h5mu", "cite.h5mu"], 2, "given twice"),
        (["x=cite.h5mu::prot", "x=multiome.h5mu::atac"], 2, "measure different things"),
        (["x=cite.h5mu::rna", "x=multiome.h5mu::atac", "--kind", "x=other"], 3, "no feature in common"),
    ],
)
def test_what_cannot_be_joined(folder, tmp_path, capsys, monkeypatch, inputs, code, words):
    monkeypatch.chdir(folder)
    assert main(["integrate", *inputs, "-o", str(tmp_path / "o.h5mu"), "-n"]) == code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "o.h5mu").exists()


def test_imputing_from_several_files(folder, tmp_path):
    """Cells without proteins get them from the rna that both files have."""
    links = tmp_path / "l.tsv"
    links.write_text("rna\tprot\n" + "".join(f"GENE{i}\tProt{i}\n" for i in range(8)))
    inputs = [folder / "cite.h5mu", f"{folder / 'multiome.h5mu'}::rna", "--links", links]
    argv = ["impute", *inputs, "--from", "rna", "--to", "prot", "-m", "scmodal", *QUICK, "--max-steps", "5"]
    assert main([*map(str, argv), "-o", str(tmp_path / "filled.h5mu")]) == 0
    out = read(tmp_path / "filled.h5mu")
    assert [n for n in out["prot_imputed"].obs_names if n.endswith("-multiome")] == list(
        out["rna"].obs_names[50:]
    )
    assert np.isfinite(out["prot_imputed"].X).all()


def test_runs_of_one_modality_are_joined_and_the_run_is_the_batch(tmp_path, capsys):
    """Two h5ad of the same features: one command, no link table, no name."""
    genes = [f"ENSG{i:011d}" for i in range(30)]
    for k in (1, 2):
        cells = [f"r{k}_{i}" for i in range(50)]
        measure(cells, genes, seed=k, donor=["d1", "d2"] * 25).write_h5ad(tmp_path / f"run{k}.h5ad")
    inputs = [str(tmp_path / f"run{k}.h5ad") for k in (1, 2)]
    output = tmp_path / "o.h5mu"
    assert main(["integrate", *inputs, "-m", "multigrate", "-o", str(output), "--no-umap", *QUICK]) == 0
    said = capsys.readouterr().err
    assert "files with the same modality are joined" in said
    assert "batch: obs['input'], the input that a cell comes from" in said
    assert "'donor'" not in said
    model = json.loads((tmp_path / "o.model" / "model.json").read_text())
    batch = next(entry for entry in model["covariates"] if entry["key"] == "batch")
    assert (batch["column"], batch["levels"]) == ("input", ["run1", "run2"])
    assert read(output)["rna"].n_obs == 100
    # asked for none, there is none, and what looks like one is mentioned
    plan = ["integrate", *inputs, "-m", "multigrate", "-o", str(tmp_path / "p.h5mu"), "--dry-run"]
    assert main([*plan, "--batch-key", "none"]) == 0
    assert "batch:" not in capsys.readouterr().out
    assert main(["integrate", inputs[0], *plan[3:]]) == 0
    assert "obs has 'donor' (2 levels), which is not used" in capsys.readouterr().out
    assert main(["integrate", inputs[0], *plan[3:], "--batch-key", "donor"]) == 0
    assert "not used" not in capsys.readouterr().out
