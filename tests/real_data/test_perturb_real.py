"""Perturbations of real cells whose answer is known."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu

import mocli

pytestmark = pytest.mark.real_data

INTERFERON = ("ISG15", "IFI6", "IFIT1", "IFIT3", "MX1", "ISG20")
QUICK = {"html": False, "threads": 1, "device": "cpu"}


def test_interferon_genes_take_cells_to_the_stimulated_ones(shared_data, tmp_path):
    mocli.perturb(
        [shared_data / "kang_ifnb_pbmc_labelled.h5ad"], output=tmp_path / "o.tsv", model="multigrate",
        source="condition=ctrl", target="condition=stim", screen="all", effect="log-shift=1",
        direction="up", group_key="cell_type", max_steps=250, **QUICK,
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "o.tsv", sep="\t")
    assert "CD8 T cells" not in set(table["group"])  # 94 cells
    mine = table[table["group"] == "all"]
    told = np.isin(mine["feature"], INTERFERON)
    found = mannwhitneyu(mine["shift"][told], mine["shift"][~told], alternative="greater")
    assert told.sum() == 6
    assert found.statistic / told.sum() / (~told).sum() >= 0.8
    assert found.pvalue < 0.01
    still = table["n_changed"] == 0
    assert (table.loc[still, ["shift", "cosine_shift"]] == 0).all(axis=None)


def test_without_cd4_rna_there_is_less_cd4_protein(shared_data, tmp_path):
    mocli.perturb(
        [shared_data / "eccite_pbmc_49adt.h5mu"], output=tmp_path / "o.tsv", model="multigrate",
        features="CD4", target_modality="prot", direction="down", max_steps=400, **QUICK,
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "o.tsv", sep="\t").set_index("target")
    assert table.loc["prot_CD4", "change"] < 0
    assert table["change"].idxmin() == "prot_CD4"
