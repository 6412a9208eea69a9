"""Weights of cells by a column of obs: what they do to an integration, and what is refused."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import mocli
from mocli.errors import InputError
from mocli.models.registry import traits_of
from mocli.tasks.prepare.load import load
from mocli.tasks.prepare.plan import make_plan
from mocli.tasks.prepare.select import takes_weights
from mocli.tasks.run.options import DataOptions, TrainOptions
from mocli.types import Task


@pytest.fixture
def weighted(unpaired, tmp_path):
    """Write the two files with a column of weights each, and return their paths."""

    def write(rna, prot):
        paths = []
        for name, values in (("rna", rna), ("prot", prot)):
            one = ad.read_h5ad(unpaired / f"{name}.h5ad")
            if values is not None:
                one.obs["weight"] = values(one.n_obs) if callable(values) else values
            one.write_h5ad(tmp_path / f"{name}.h5ad")
            paths.append(tmp_path / f"{name}.h5ad")
        return paths

    return write


def losses(run, paths, links, output, **options):
    report = run(paths, links=links, output=output, model="scmodal", preset="paper", **options).report
    return report["training"]["history"]["align"], report


def test_constant_weights_change_nothing_and_others_do(run, weighted, unpaired, tmp_path):
    links = unpaired / "links.tsv"
    plain, _ = losses(run, weighted(None, None), links, tmp_path / "a.h5mu")
    same, _ = losses(
        run, weighted(lambda n: np.full(n, 4), lambda n: np.full(n, 4)), links, tmp_path / "b.h5mu",
        weight_key="weight",
    )  # fmt: skip
    for term, curve in plain.items():
        assert same[term]["value"][0] == pytest.approx(curve["value"][0], rel=1e-6), term
    other, report = losses(
        run, weighted(lambda n: np.arange(n), lambda n: np.arange(n)[::-1]), links, tmp_path / "c.h5mu",
        weight_key="weight",
    )  # fmt: skip
    assert other["critic"]["value"][0] != pytest.approx(plain["critic"]["value"][0], rel=1e-5)
    assert other["reconstruction"]["value"][0] == plain["reconstruction"]["value"][0]
    assert "cells weigh 0 to 69 in discriminators" in (tmp_path / "c.log").read_text()
    assert not any("weight-key" in w for w in report["warnings"])


def prepared(paths, links, **options):
    data = DataOptions(inputs=[str(p) for p in paths], links=[str(links)], weight_key="weight", **options)
    made = make_plan(data, TrainOptions(model="scmodal"), Task.INTEGRATE, lambda _: None)
    return load(made, None, seed=0, say=lambda _: None, warn=lambda _: None)


def test_weights_are_of_mean_1_over_all_and_keep_their_ratios(weighted, unpaired):
    paths = weighted(lambda n: np.arange(n) * 1e30, lambda n: np.full(n, 3e30))
    found = prepared(paths, unpaired / "links.tsv").bundle.weights
    rna, prot = np.arange(70.0), np.full(60, 3.0)
    mean = np.concatenate([rna, prot]).mean()
    np.testing.assert_allclose(found["rna"], rna / mean, rtol=1e-6)
    np.testing.assert_allclose(found["prot"], prot / mean, rtol=1e-6)


def test_a_cell_measured_twice_takes_the_weight_it_has(paired, tmp_path):
    import mudata as md

    data = md.read_h5mu(paired / "data.h5mu")
    values = pd.Series(np.arange(60) + 1.0, index=data["rna"].obs_names)
    data["rna"].obs["weight"] = values
    with md.set_options(pull_on_update=False):
        data.write_h5mu(tmp_path / "data.h5mu")
    options = DataOptions(inputs=[str(tmp_path / "data.h5mu")], links=[str(paired / "links.tsv")],
                          weight_key="weight")  # fmt: skip
    made = make_plan(options, TrainOptions(model="sccross"), Task.INTEGRATE, lambda _: None)
    found = load(made, None, seed=0, say=lambda _: None, warn=lambda _: None).bundle.weights
    expected = values[data["prot"].obs_names].to_numpy()
    np.testing.assert_allclose(found["prot"], expected / values.mean(), rtol=1e-6)


def one_bad(value):
    def values(n):
        found = np.ones(n)
        found[[3, 5]] = value
        return found

    return values


@pytest.mark.parametrize(
    ("prot", "found"),
    [
        (None, "no number for cell 'p0' and 59 cells more"),
        (one_bad(np.nan), "no number for cell 'p3' and 1 cells more"),
        (one_bad(-0.5), "-0.5 for cell 'p3'"),
        (one_bad(np.inf), "inf for cell 'p3'"),
        (lambda n: ["much"] * n, "no number for cell 'p0'"),
    ],
)
def test_a_weight_that_is_none_is_named(run, weighted, unpaired, prot, found):
    paths = weighted(np.ones, prot)
    with pytest.raises(InputError, match="column of 'prot' that is not a weight") as error:
        run(paths, links=unpaired / "links.tsv", weight_key="weight")
    assert error.value.found.startswith(found)
    assert (str(error.value.file), error.value.field) == (str(paths[1]), "obs['weight']")
    assert error.value.expected


def test_weights_that_are_all_0_and_a_column_that_is_not_there(run, weighted, unpaired):
    links = unpaired / "links.tsv"
    with pytest.raises(InputError, match="all cells of 'prot' have weight 0"):
        run(weighted(np.ones, np.zeros), links=links, weight_key="weight")
    with pytest.raises(InputError, match="--weight-key") as error:
        run(weighted(np.ones, np.ones), links=links, weight_key="wait")
    assert "did you mean 'weight'" in error.value.hint


def test_models_without_discriminators_say_so(paired, tmp_path):
    assert [m for m in ("scmodal", "sccross", "multigrate", "multidgd") if takes_weights(traits_of(m))] == [
        "scmodal",
        "sccross",
    ]
    lines = mocli.integrate(
        paired / "data.h5mu",
        output=tmp_path / "o.h5mu",
        model="multigrate",
        weight_key="cell_type",
        dry_run=True,
    ).plan
    assert any("multigrate has no discriminators: --weight-key changes nothing" in line for line in lines)


def test_runs_of_a_benchmark_that_train_get_the_column(weighted, unpaired, tmp_path):
    lines = mocli.benchmark(
        weighted(np.ones, np.ones), output=tmp_path / "b.tsv", links=unpaired / "links.tsv", models="scmodal",
        seeds=[0], tasks="integrate,simulate", weight_key="weight", dry_run=True,
    ).plan  # fmt: skip
    planned = [line for line in lines if line.startswith("would run")]
    assert ["--weight-key weight" in line for line in planned] == [
        "--from-model" not in line for line in planned
    ]
    assert planned


def test_a_benchmark_asks_for_the_column_before_any_run(unpaired, tmp_path):
    import mocli

    files = [unpaired / "rna.h5ad", unpaired / "prot.h5ad"]
    shared = {"links": unpaired / "links.tsv", "output": tmp_path / "b.tsv", "dry_run": True}
    with pytest.raises(InputError, match="absent"):
        mocli.benchmark(files, models="scmodal", weight_key="absent", **shared)
    plan = mocli.benchmark(files, models="scmodal", **shared).plan
    assert not any("--weight-key" in line for line in plan)
