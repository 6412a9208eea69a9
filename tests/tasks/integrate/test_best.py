"""Choosing a model without labels."""

import json

import pytest

import mocli
from mocli.errors import UsageError
from mocli.tasks.integrate.best import label_free_ranks


def test_ranks_are_means_over_the_measures_that_all_have():
    ranks = label_free_ranks(
        {
            "a": {"neighbor_conservation[rna]": 0.5, "mixing": 10.0, "link_concordance[rna-prot]": 0.1},
            "b": {"neighbor_conservation[rna]": 0.4, "mixing": 30.0, "link_concordance[rna-prot]": 0.2},
            "c": {"neighbor_conservation[rna]": 0.3, "mixing": 20.0},
        }
    )
    assert ranks == {"a": 1.0, "b": 2.5, "c": 2.5}


def test_the_best_of_short_trainings_is_trained_and_the_table_says_why(unpaired, tmp_path, check_report):
    small = {"n_hidden": 8, "n_latent": 3, "batch_size": 16}
    options = {"links": unpaired / "links.tsv", "threads": 1, "device": "cpu", "html": False}
    inputs = [unpaired / "rna.h5ad", unpaired / "prot.h5ad"]
    mocli.integrate(inputs, output=tmp_path / "o.h5mu", model="best", max_steps=3, params=small, **options)
    report = check_report(tmp_path / "o.report.json")
    told = report["tables"]["model_choice"]
    assert {row[0] for row in told["rows"]} == {"sccross", "scmodal"}, "the aligner has no steps"
    first = min(told["rows"], key=lambda row: row[-1])[0]
    assert report["model"]["name"] == first
    assert json.loads((tmp_path / "o.model" / "model.json").read_text())["model"] == first


def test_only_integrations_are_compared(unpaired, tmp_path):
    with pytest.raises(UsageError, match="compares integrations"):
        mocli.impute(
            [unpaired / "rna.h5ad", unpaired / "prot.h5ad"], links=unpaired / "links.tsv", source="rna",
            target="prot", model="best", output=tmp_path / "o.h5ad",
        )  # fmt: skip
