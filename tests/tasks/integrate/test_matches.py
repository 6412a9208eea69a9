"""`--matches` and `--modality-weights`: who lies nearest to whom, and which modality says so."""

import anndata as ad
import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

import mocli
from mocli.tasks.integrate.write import COLUMNS, match_cells


def test_matches_equal_loops_and_come_best_first():
    rng = np.random.default_rng(0)
    latent = {"rna": rng.normal(size=(40, 3)).astype("f4"), "prot": rng.normal(size=(30, 3)).astype("f4")}
    latent["rna"][5] = np.nan
    names = {m: [f"{m}{i}" for i in range(len(z))] for m, z in latent.items()}
    table = match_cells(latent, names)
    kept = [i for i in range(40) if i != 5]
    d = cdist(latent["rna"][kept].astype(float), latent["prot"].astype(float))
    pairs = {
        (f"rna{kept[i]}", f"prot{d[i].argmin()}") for i in range(39) if d[:, d[i].argmin()].argmin() == i
    }
    assert set(zip(table["cell"], table["other_cell"], strict=True)) == pairs
    assert (np.diff(table["distance"]) >= 0).all()
    np.testing.assert_allclose(table["score"], 1 - np.arange(len(table)) / len(table))
    assert list(match_cells({}, {}).columns) == list(COLUMNS)


def test_the_table_lies_beside_the_output(run, unpaired, tmp_path, check_report):
    run([unpaired / "rna.h5ad", unpaired / "prot.h5ad"], links=[unpaired / "links.tsv"], matches=True)
    table = pd.read_csv(tmp_path / "out.matches.tsv", sep="\t")
    assert tuple(table.columns) == COLUMNS
    assert 0 < len(table) <= 60
    assert table["cell"].is_unique
    assert table["other_cell"].is_unique
    report = check_report(tmp_path / "out.report.json")
    assert str(tmp_path / "out.matches.tsv") in [output["path"] for output in report["outputs"]]
    assert "mutual nearest cells" in (tmp_path / "out.log").read_text()


def test_the_modality_that_tells_types_apart_weighs_more(tmp_path, read):
    """Proteins of two types that RNA does not tell apart."""
    rng = np.random.default_rng(0)
    kind = np.arange(120) % 2
    obs = pd.DataFrame({"cell_type": np.array(["x", "y"])[kind]}, index=[f"c{i}" for i in range(120)])
    mean = {"rna": np.full((120, 60), 3.0), "prot": np.where(kind[:, None] == np.arange(12) % 2, 60.0, 3.0)}
    for name, rate in mean.items():
        var = pd.DataFrame(index=[f"{name}{j}" for j in range(rate.shape[1])])
        ad.AnnData(rng.poisson(rate).astype(np.float32), obs, var).write_h5ad(tmp_path / f"{name}.h5ad")
    done = mocli.integrate(
        [tmp_path / "rna.h5ad", tmp_path / "prot.h5ad"],
        output=tmp_path / "out.h5mu",
        model="multigrate",
        params={"n_hidden": 16, "n_latent": 4, "batch_size": 32},
        label_key="cell_type",
        modality_weights=True,
        max_steps=5,
        metrics="none",
        umap=False,
        html=False,
        device="cpu",
    )
    weights = read(tmp_path / "out.h5mu")["rna"].obs[["weight_rna", "weight_prot"]]
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    assert (weights["weight_prot"] > weights["weight_rna"]).mean() > 0.9
    rows = done.report["tables"]["modality_weights"]["rows"]
    assert [row[:2] for row in rows] == [["x", 60], ["y", 60]]
