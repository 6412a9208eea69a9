"""Real data go through from end to end; how well they integrate is measured elsewhere, with more steps."""

import json

import h5py
import numpy as np
import pytest

import mocli
from mocli.report.file import validate

pytestmark = pytest.mark.real_data

QUICK = {"n_hidden": 32, "batch_size": 64}


@pytest.fixture
def integrate(tmp_path):
    """A short run; returns the report as it lies on disk."""

    def run(inputs, *, links, max_steps=20, **options):
        result = mocli.integrate(
            inputs,
            links=links,
            output=tmp_path / "o.h5mu",
            max_steps=max_steps,
            params=QUICK,
            html=False,
            threads=1,
            metrics="all",
            device="cpu",
            **options,
        )
        report = json.loads((tmp_path / "o.report.json").read_text())
        validate(report)
        assert report["status"] == "ok"
        with h5py.File(result.output) as h5:
            for entry in report["inputs"]:
                z = h5[f"mod/{entry['modality']}/obsm/X_{report['model']['name']}"][()]
                assert z.shape == (entry["n_obs"], report["model"]["params"]["n_latent"])
                assert np.isfinite(z).all()
        return report

    return run


def measured(metrics):
    return {key.split("[")[0] for key, entry in metrics.items() if entry["value"] is not None}


def test_eccite_reports_every_metric_beside_both_baselines(shared_data, integrate):
    report = integrate(
        [shared_data / "eccite_pbmc_49adt.h5mu"],
        links=[shared_data / "eccite_pbmc_49adt.links.tsv"],
        pairing="unpaired",
        label_key="cell_type_gated",
        max_steps=60,
    )
    everything = {"foscttm", "pair_distance", "mixing", "kbet", "silhouette", "link_concordance"}
    assert {"label_transfer[rna->prot]", "label_transfer[prot->rna]"} <= set(report["metrics"])
    assert everything | {"label_transfer"} <= measured(report["metrics"])
    assert set(report["baselines"]) == {"link_features", "smoothed_link_features"}
    for baseline in report["baselines"].values():
        assert set(baseline["metrics"]) == set(report["metrics"])
        assert everything | {"label_transfer"} <= measured(baseline["metrics"])
    # what the links alone give is a property of the data, whatever the model
    alone, smoothed = (report["baselines"][k]["metrics"] for k in ("link_features", "smoothed_link_features"))
    assert alone["label_transfer[rna->prot]"]["value"] > 0.5
    assert smoothed["foscttm[rna-prot]"]["value"] < alone["foscttm[rna-prot]"]["value"] < 0.25
    assert report["links"][0]["n_matched"] > 40
    assert {i["transform"] for i in report["inputs"]} == {"lognorm", "clr"}
    losses = report["training"]["losses"]["align"]
    assert losses["reconstruction"]["last"] < losses["reconstruction"]["first"]


def test_two_studies_that_share_no_cell(shared_data, integrate):
    report = integrate(
        [
            f"rna={shared_data / 'pbmc_3tech_labelled.h5ad'}",
            f"prot={shared_data / 'adt87_pbmc_kotliarov.h5ad'}",
        ],
        links=[shared_data / "adt87_pbmc_kotliarov.links.tsv"],
    )
    assert [(i["modality"], i["n_obs"]) for i in report["inputs"]] == [("rna", 1200), ("prot", 2872)]
    assert "mixing" in measured(report["metrics"])
    assert measured(report["metrics"]).isdisjoint({"foscttm", "pair_distance"})
    assert report["links"][0]["n_matched"] > 20


def test_values_that_are_no_counts_and_few_features(shared_data, integrate):
    report = integrate(
        [shared_data / "scgem_reprogramming.h5mu"],
        links=[shared_data / "scgem_reprogramming.links.tsv"],
        pairing="unpaired",
    )
    assert [(i["modality"], i["kind"], i["n_obs"]) for i in report["inputs"]] == [
        ("rna", "rna", 177),
        ("methyl", "methyl", 177),
    ]
    assert report["inputs"][0]["values"] != "counts"
    assert {"foscttm", "mixing"} <= measured(report["metrics"])


def test_two_batches_of_cite_seq(shared_data, integrate):
    report = integrate(
        [shared_data / "citeseq_pbmc10x_2batch.h5mu"],
        links=[shared_data / "citeseq_pbmc10x_2batch.links.tsv"],
        pairing="unpaired",
        batch_key="batch",
        hvg={"rna": 1000},
    )
    link = report["links"][0]
    assert (link["n_target_matched"], link["n_matched"]) == (14, link["n_read"])
    assert "foscttm" in measured(report["metrics"])


def test_peaks_at_full_width(shared_data, integrate):
    """Forty cells, 66,484 peaks with real hg38 names, a million links' worth of table."""
    report = integrate(
        [shared_data / "multiome_pbmc_tiny40.h5mu"],
        links=[shared_data / "multiome_pbmc_tiny40.links.tsv"],
        pairing="unpaired",
        max_steps=5,
    )
    assert [i["transform"] for i in report["inputs"]] == ["lognorm", "tfidf-lsi"]
    assert report["links"][0]["n_columns"] > 1000


def test_the_files_are_untouched(shared_data, integrate):
    """The report's hash of an input is the file's own after the run."""
    import hashlib

    path = shared_data / "scgem_reprogramming.h5mu"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    report = integrate([path], links=[shared_data / "scgem_reprogramming.links.tsv"], max_steps=1)
    assert {i["sha256"] for i in report["inputs"]} == {before}
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
