"""How well the default recipe does on real cells taken apart, beside the links alone; one seed."""

import json

import anndata as ad
import numpy as np
import pytest

import mocli

pytestmark = pytest.mark.real_data


@pytest.fixture
def integrate(shared_data, tmp_path):
    """Metrics of the model and of the smoothed links, and the others alone."""

    def run(name, label, **options):
        result = mocli.integrate(
            shared_data / f"{name}.h5mu",
            links=shared_data / f"{name}.links.tsv",
            output=tmp_path / "o.h5mu",
            pairing="unpaired",
            model="scmodal",
            label_key=label,
            html=False,
            device="cpu",
            force=True,
            **options,
        )
        metrics = [result.report["metrics"]]
        metrics += [
            result.report["baselines"][k]["metrics"] for k in ("link_features", "smoothed_link_features")
        ]
        return [{key.split("[")[0] if "label" not in key else key: m["value"] for key, m in part.items()}
                for part in metrics]  # fmt: skip

    return run


@pytest.mark.slow
def test_eccite_beats_its_links(integrate):
    ours, alone, smoothed = integrate("eccite_pbmc_49adt", "cell_type_gated")
    assert ours["foscttm"] < 0.14
    assert ours["foscttm"] < smoothed["foscttm"]
    for way in ("label_transfer[rna->prot]", "label_transfer[prot->rna]"):
        assert ours[way] >= smoothed[way] - 0.02
    assert ours["mixing"] < alone["mixing"]


@pytest.mark.slow
def test_shallow_cells_find_their_partners(integrate):
    ours, alone, smoothed = integrate("snareseq_mouse_cortex", "cell_type")
    assert ours["foscttm"] < 0.30
    assert ours["foscttm"] < smoothed["foscttm"] < alone["foscttm"]
    assert ours["label_transfer[rna->atac]"] > smoothed["label_transfer[rna->atac]"]
    assert ours["mixing"] < 0.5 * smoothed["mixing"]


@pytest.mark.slow
def test_without_the_adversarial_term_modalities_mix_worse(integrate):
    whole = integrate("eccite_pbmc_49adt", "cell_type_gated", max_steps=600)[0]
    without = integrate(
        "eccite_pbmc_49adt", "cell_type_gated", max_steps=600, params={"weight_adversarial": 0.0}
    )[0]
    assert without["mixing"] > 1.2 * whole["mixing"]


@pytest.mark.slow
def test_proteins_of_another_experiment(shared_data, tmp_path):
    """Trained on one experiment, the other's proteins predicted from its RNA (issue of honest error bars)."""
    name = "citeseq_pbmc10x_2batch"
    result = mocli.impute(
        shared_data / f"{name}.h5mu",
        links=shared_data / f"{name}.links.tsv",
        output=tmp_path / "o.h5ad",
        pairing="unpaired",
        source="rna",
        target="prot",
        hold_out="batch=PBMC5k",
        evaluate=True,
        html=False,
        device="cpu",
        max_steps=500,
    )
    report = json.loads((tmp_path / "o.report.json").read_text())
    key = "imputation_pearson_median[rna->prot]"
    ours = report["metrics"][key]["value"]
    assert ours > 0.6
    assert ours > report["baselines"]["linked_feature"]["metrics"][key]["value"] + 0.1
    r2 = "imputation_r2_median[rna->prot]"
    assert report["metrics"][r2]["value"] > report["baselines"]["mean"]["metrics"][r2]["value"] + 0.1
    assert 0.87 <= report["metrics"]["interval_coverage[rna->prot]"]["value"] <= 0.93
    filled = ad.read_h5ad(result.output)
    assert filled.shape == (200, 14)
    assert set(filled.obs["batch"]) == {"PBMC5k"}
    assert (np.asarray(filled.layers["lower"]) <= np.asarray(filled.layers["upper"])).all()
