"""Choosing a model without labels."""

import json

import pytest

import mocli
from mocli.errors import UsageError
from mocli.models.base import Draws
from mocli.models.registry import available, load_class
from mocli.tasks.integrate import work
from mocli.tasks.integrate.work import label_free_ranks


def test_ranks_are_means_over_the_measures_that_all_have():
    ranks = label_free_ranks(
        {
            "a": {"neighbor_conservation[rna]": 0.5, "mixing": 10.0, "link_concordance[rna-prot]": 0.1},
            "b": {"neighbor_conservation[rna]": 0.4, "mixing": 30.0, "link_concordance[rna-prot]": 0.2},
            "c": {"neighbor_conservation[rna]": 0.3, "mixing": 20.0},
        }
    )
    assert ranks == {"a": 1.0, "b": 2.5, "c": 2.5}


SMALL = {"n_hidden": 8, "n_latent": 3, "batch_size": 16}


@pytest.fixture
def choose(unpaired, tmp_path):
    """Integrate two small modalities by the best model; the report."""

    def integrate(output="o.h5mu", **options):
        defaults = {
            "links": unpaired / "links.tsv",
            "threads": 1,
            "device": "cpu",
            "html": False,
            "umap": False,
        }
        inputs = [unpaired / "rna.h5ad", unpaired / "prot.h5ad"]
        settings = {"model": "best", "max_steps": 3, "params": SMALL, **defaults, **options}
        return mocli.integrate(inputs, output=tmp_path / output, metrics="none", clusters=None, **settings)

    return integrate


@pytest.fixture
def tried(monkeypatch):
    """Names and settings of the models that were trained for a short time, in order."""
    trials, run_trial = {}, work._tried

    def noting(run, trial):
        trials[trial.plan.traits.name] = trial
        return run_trial(run, trial)

    monkeypatch.setattr(work, "_tried", noting)
    return trials


def test_the_best_of_short_trainings_is_trained_and_the_table_says_why(choose, tmp_path, check_report, tried):
    choose()
    report = check_report(tmp_path / "o.report.json")
    told = report["tables"]["model_choice"]
    assert {row[0] for row in told["rows"]} == {"sccross", "scmodal"}, "the aligner has no steps"
    first = min(told["rows"], key=lambda row: row[-1])[0]
    assert report["model"]["name"] == first
    assert "by short trainings, without labels" in report["model"]["reason"]
    assert json.loads((tmp_path / "o.model" / "model.json").read_text())["model"] == first
    assert {trial.request.train.preset for trial in tried.values()} == {"fast"}


def test_trials_are_compared_with_each_other_not_with_baselines(choose, tried, monkeypatch):
    from mocli.tasks.score.evaluate import Judge

    monkeypatch.setattr(Judge, "baseline", lambda *_: pytest.fail("no baseline decides which model is best"))
    choose()
    assert len(tried) == 2


def test_candidates_that_cannot_do_what_is_asked_are_not_trained(choose, tried):
    report = choose(sample=1).report
    able = [n for n, traits in available().items() if issubclass(load_class(traits.model), Draws)]
    assert report["model"]["name"] in able
    assert "accepts all options" in report["model"]["reason"]
    assert not tried, "one candidate is left"


def test_the_model_to_start_from_is_the_only_candidate(choose, tried, tmp_path):
    choose("first.h5mu", model="sccross")
    assert choose(init_from=tmp_path / "first.model").report["model"]["name"] == "sccross"
    assert not tried


def test_a_value_that_no_candidate_takes_is_refused_before_any_training(choose, tried):
    with pytest.raises(UsageError, match="hyper-parameter"):
        choose(params={"n_latent": -3})
    assert not tried


def test_choosing_takes_from_the_time_allowed():
    class Told:
        options = type("", (), {"max_time": 100.0})
        report = type("", (), {"timing": {"choose_s": 30.0}})

    assert work.time_left(Told) == 70.0


def test_only_integrations_are_compared(unpaired, tmp_path):
    with pytest.raises(UsageError, match="compares integrations"):
        mocli.impute(
            [unpaired / "rna.h5ad", unpaired / "prot.h5ad"], links=unpaired / "links.tsv", source="rna",
            target="prot", model="best", output=tmp_path / "o.h5ad",
        )  # fmt: skip


def test_gene2peak_says_so_too(paired, tmp_path):
    with pytest.raises(UsageError, match="compares integrations"):
        mocli.gene2peak(
            paired / "data.h5mu", links=paired / "links.tsv", model="best", output=tmp_path / "o.tsv"
        )
