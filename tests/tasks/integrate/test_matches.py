"""`--matches`: mutual nearest cells against loops, and the table beside the output."""

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from mocli.tasks.integrate.matches import COLUMNS, match_cells


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
