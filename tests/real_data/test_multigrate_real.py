"""Real cells measured together go through Multigrate and come out better than their principal components."""

import json
import warnings

import mudata
import numpy as np
import pytest

import mocli
from mocli.report.file import validate

pytestmark = pytest.mark.real_data


@pytest.fixture
def integrate(tmp_path):
    def run(data, **options):
        mocli.integrate(
            [data],
            output=tmp_path / "o.h5mu",
            model="multigrate",
            label_key="cell_type_gated",
            html=False,
            threads=1,
            metrics="all",
            device="cpu",
            **options,
        )
        report = json.loads((tmp_path / "o.report.json").read_text())
        validate(report)
        base = report["baselines"]["principal_components"]["metrics"]
        return {k: (v["value"], base[k]["value"]) for k, v in report["metrics"].items() if k in base}

    return run


def test_batches_mix_and_types_stay_apart(shared_data, integrate):
    found = integrate(shared_data / "citeseq_pbmc10x_2batch.h5mu", batch_key="batch", max_steps=300)
    ours, theirs = found["silhouette"]
    assert ours > theirs
    ours, theirs = found["kbet_batch"]
    assert ours > theirs + 0.2


def test_a_mosaic_of_real_cells_shares_its_labels(shared_data, integrate, tmp_path):
    with warnings.catch_warnings(), mudata.set_options(pull_on_update=False):
        warnings.simplefilter("ignore")
        data = mudata.read_h5mu(shared_data / "citeseq_pbmc10x_2batch.h5mu")
        part = np.random.default_rng(0).permutation(data.n_obs) % 3
        rna, prot = data["rna"][part != 1].copy(), data["prot"][part != 2].copy()
        mudata.MuData({"rna": rna, "prot": prot}).write_h5mu(tmp_path / "mosaic.h5mu")
    found = integrate(tmp_path / "mosaic.h5mu", batch_key="batch", max_steps=300)
    for key in ("label_transfer[rna->prot]", "label_transfer[prot->rna]", "mixing"):
        ours, theirs = found[key]
        assert ours < theirs if key == "mixing" else ours > theirs, key
    assert found["label_transfer[prot->rna]"][0] > 0.5
