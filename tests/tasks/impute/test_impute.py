"""`mocli impute` from files to files: what is written, what is promised of it, what is refused."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pytest

from mocli.data.demo import write_demo
from mocli.data.files.inputs import open_inputs
from mocli.errors import InputError, Interrupted, MocliError, UsageError
from mocli.tasks.impute.impute import impute
from mocli.tasks.impute.work import impute_values
from mocli.tasks.infer.align import align
from mocli.tasks.integrate.integrate import integrate
from mocli.tasks.run.paths import CALIBRATION
from mocli.tasks.trained.calibration import load_calibrations
from mocli.tasks.trained.saved import load_model
from mocli.tasks.trained.stack import WAYS

ROOT = Path(__file__).resolve().parents[3]
PARAMS = {"n_hidden": 32, "n_latent": 6, "batch_size": 64}
QUICK = {"model": "scmodal", "params": PARAMS, "max_steps": 30, "threads": 1, "device": "cpu", "html": False}
# from a model nothing is trained
ROUNDED = 5e-4
"""Values are written with the eleven bits that compress well."""
GIVEN = {"threads": 1, "device": "cpu", "html": False}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, n_cells=150, trimodal=True)
    return folder


@pytest.fixture(scope="module")
def paired_run(demo, tmp_path_factory):
    """Peaks to expression on cells measured in both, a fifth of them held out."""
    output = tmp_path_factory.mktemp("paired") / "out.h5mu"
    options = {**QUICK, "html": True}
    result = impute(
        [demo / "multiome.h5mu"],
        links=[demo / "rna-atac.tsv"],
        output=output,
        source="atac",
        target="rna",
        evaluate=True,
        **options,
    )
    return result, output


@pytest.fixture(scope="module")
def unpaired_run(demo, tmp_path_factory):
    """Expression to proteins on other cells, with a schedule that learns something."""
    output = tmp_path_factory.mktemp("unpaired") / "out.h5ad"
    result = impute(
        [demo / "rna.h5ad", demo / "prot.h5ad"],
        links=[demo / "rna-prot.tsv"],
        output=output,
        source="rna",
        target="prot",
        **{**QUICK, "max_steps": 300},
    )
    return result, output


@pytest.fixture
def query(demo, unpaired_run, tmp_path):
    """Impute proteins from the model of the unpaired run."""
    _, trained = unpaired_run

    def run(name="query.h5ad", inputs=None, target="prot", **options):
        inputs = [demo / "rna.h5ad"] if inputs is None else inputs
        given = {"from_model": trained.with_suffix(".model"), "target": target, **GIVEN, **options}
        result = impute(inputs, output=tmp_path / name, **given)
        return result, ad.read_h5ad(tmp_path / name)

    return run


def test_imputed_values_are_drawn_where_cells_lie(demo, query, tmp_path):
    cells = ad.read_h5ad(demo / "rna.h5ad")
    cells.obsm["spatial"] = np.random.default_rng(0).uniform(size=(cells.n_obs, 2))
    cells.write_h5ad(tmp_path / "rna.h5ad")
    result, _ = query(inputs=[tmp_path / "rna.h5ad"], features="CD4,CD8", html=True)
    page = next(path for path in result.files if path.suffix == ".html").read_text()
    assert all(f"rna in the tissue, by imputed {name}" in page for name in ("CD4", "CD8"))


def test_cells_in_memory_are_imputed_as_those_of_a_file(query, demo, unpaired_run):
    _, filled = query(cells="all")
    cells = ad.read_h5ad(demo / "rna.h5ad")
    model = unpaired_run[1].with_suffix(".model")
    values = impute_values(model, cells, "prot")
    assert list(values.names) == list(filled.var_names)
    np.testing.assert_allclose(values.values, filled.X, rtol=ROUNDED, atol=ROUNDED)
    np.testing.assert_allclose(values.upper, filled.layers["upper"], rtol=ROUNDED, atol=ROUNDED)
    some = impute_values(load_model(model), cells, "prot", features=values.names[3:5], scale="counts")
    assert some.values.shape == (cells.n_obs, 2)
    assert some.lower is None
    with pytest.raises(UsageError, match="no modality 'atac'"):
        impute_values(model, cells, "atac")
    with pytest.raises(InputError, match="features of the model's 'rna'"):
        impute_values(model, ad.AnnData(cells.X, var={"x": range(cells.n_vars)}), "prot")


def test_values_of_cells_that_taught_the_model_are_told_to_be_too_good(query, demo, paired_run, tmp_path):
    told = "of cells whose rna the model was trained on: if they are the same"

    def warnings(cells):
        model = paired_run[1].with_suffix(".model")
        options = {
            "from_model": model,
            "source": "atac",
            "target": "rna",
            "cells": "all",
            **GIVEN,
            "html": True,
        }
        report = impute([cells], output=tmp_path / "again.h5ad", force=True, **options).report
        return [line for line in report["warnings"] if told in line]

    with mudata.set_options(pull_on_update=False):
        source = mudata.read_h5mu(demo / "multiome.h5mu")["atac"].copy()
    source.write_h5ad(tmp_path / "same.h5ad")
    assert len(warnings(f"atac={tmp_path / 'same.h5ad'}")) == 1
    assert "How well every feature is predicted" in (tmp_path / "again.report.html").read_text()
    source.obs_names = [f"new{i}" for i in range(source.n_obs)]
    source.write_h5ad(tmp_path / "other.h5ad")
    assert not warnings(f"atac={tmp_path / 'other.h5ad'}")
    # proteins were measured in other cells: those of rna did not teach what they are
    result, _ = query(cells="all")
    assert not [line for line in result.report["warnings"] if "the model was trained on" in line]


def filled(read, output, name):
    return read(output)[name]


# what is written


def test_paired_cells_are_held_out_predicted_and_compared(paired_run, read, check_report):
    result, output = paired_run
    assert set(result.files) == {p for p in output.parent.rglob("*") if p.is_file()}
    report = check_report(output.with_name("out.report.json"))
    assert report["status"] == "ok"
    assert {o["path"] for o in report["outputs"]} == {
        str(output.with_name(n)) for n in ("out.model", "out.h5mu", "out.report.html")
    }
    new = filled(read, output, "rna_imputed")
    assert new.shape == (30, 400)
    assert new.obs["imputed"].all()
    measured = read(output)["atac"]
    assert list(new.obs_names) == [n for n in measured.obs_names if n in set(new.obs_names)]
    for statistic in ("pearson", "spearman", "r2"):
        for which in ("median", "worst"):
            assert report["metrics"][f"imputation_{statistic}_{which}[atac->rna]"]["n"] == 30
    assert set(report["baselines"]) == {"mean", "readout", "linked_feature", "ridge"}
    assert report["baselines"]["mean"]["metrics"]["imputation_pearson_median[atac->rna]"]["value"] is None
    assert report["metrics"]["interval_coverage[atac->rna]"]["value"] == pytest.approx(
        new.var["coverage"].mean()
    )
    assert {"decode_s", "compress_s", "encode_s", "evaluate_s", "write_s"} <= set(report["timing"])


def test_a_baseline_of_some_features_stands_beside_the_model_over_the_same(paired_run, read):
    result, output = paired_run
    new = filled(read, output, "rna_imputed")
    key = "imputation_pearson_median[atac->rna]"
    linked, ridge = (result.report["baselines"][name] for name in ("linked_feature", "ridge"))
    n = int(re.search(r"over ([\d,]+) features", linked["metrics"][key]["definition"])[1].replace(",", ""))
    assert 0 < n < new.n_vars
    there = linked["model_metrics"][key]
    assert f"over {n:,} features that vary, those that the baseline has" in there["definition"]
    assert np.isfinite(there["value"])
    assert there["value"] != result.report["metrics"][key]["value"]
    # of all features nothing is said twice
    assert key not in result.report["baselines"]["mean"].get("model_metrics", {})
    assert ridge["metrics"][key]["value"] is not None


def test_figures_are_those_of_the_values_in_the_file(paired_run, read):
    """Hidden cells: predicted, measured and their correlation, by numpy alone."""
    result, output = paired_run
    new = filled(read, output, "rna_imputed")
    x, y = new.X, new.layers["observed"]
    assert np.isfinite(y).all()
    varies = (y.std(0) > 0) & (x.std(0) > 0)
    for j in np.flatnonzero(varies)[:40]:
        assert new.var["pearson"].iloc[j] == pytest.approx(np.corrcoef(x[:, j], y[:, j])[0, 1], abs=1e-3)
    np.testing.assert_allclose(new.var["rmse"], np.sqrt(np.square(x - y).mean(0)), rtol=1e-3)
    sse, sst = np.square(x - y).sum(0), np.square(y - y.mean(0)).sum(0)
    np.testing.assert_allclose(new.var["r2"][sst > 0], (1 - sse / np.maximum(sst, 1e-9))[sst > 0], atol=5e-3)
    assert (new.var["better_than_mean"] == (new.var["r2"] > 0)).all()
    median = result.report["metrics"]["imputation_pearson_median[atac->rna]"]["value"]
    assert median == pytest.approx(np.nanmedian(new.var["pearson"]))


def test_layers_hold_an_interval_around_the_value(paired_run, unpaired_run, read):
    for new in (filled(read, paired_run[1], "rna_imputed"), ad.read_h5ad(unpaired_run[1])):
        lower, upper = new.layers["lower"], new.layers["upper"]
        assert (lower <= upper).all()
        assert (lower >= 0).all()
        assert (new.X >= 0).all()
        assert np.isfinite(upper).all()
        # offsets may leave the prediction outside where errors lean to one side, but rarely do
        assert ((lower <= new.X) & (upper >= new.X)).mean() > 0.9
        assert new.X.dtype == lower.dtype == np.float32


def test_the_measured_modalities_come_through(paired_run, demo, read):
    before, after = read(demo / "multiome.h5mu"), read(paired_run[1])
    assert list(after.mod) == ["rna", "atac", "rna_imputed"]
    for name in ("rna", "atac"):
        assert (after[name].X != before[name].X).nnz == 0
        assert after[name].obs.equals(before[name].obs)
        assert after[name].var.equals(before[name].var)
    assert after["atac"].obsm["X_scmodal"].shape == (150, 6)
    assert {"chrom", "start", "end", "strand", "pearson", "spearman", "r2", "rmse", "coverage"} <= set(
        after["rna_imputed"].var.columns
    )
    told = after["rna_imputed"].uns["mocli"]
    assert told["model"] == "scmodal"


def test_the_report_to_read_has_its_table_and_pictures(paired_run):
    result, output = paired_run
    table = result.report["tables"]["features"]
    assert table["columns"][:2] == ["feature", "Pearson"]
    assert len(table["rows"]) == 200
    pearson = [row[1] for row in table["rows"]]
    known = [p for p in pearson if p is not None]
    assert known == sorted(known)
    html = output.with_name("out.report.html").read_text()
    for words in ("How well every feature is predicted", "Imputed against measured", table["title"]):
        assert words in html
    html = re.sub(r"base64,[^\"']+", "", html)
    assert "nan" not in html.lower().split("<h2>results</h2>")[1].split("</section>")[0].replace("nanog", "")


def test_the_first_line_says_how_well_and_whether_better_than_the_simple_way(paired_run, demo, tmp_path):
    result, output = paired_run
    key, report = "imputation_pearson_median[atac->rna]", result.report
    own, ridge = report["metrics"][key]["value"], report["baselines"]["ridge"]["metrics"][key]["value"]
    said = report["conclusion"]
    assert said.startswith(f"Imputed rna correlates with measured values of 30 cells by {own:.2f}")
    if ridge > own:
        assert "no better than ridge from paired cells" in said
    assert "better than" in said
    # of cells that cannot be compared it says what is known
    later = impute(
        [f"{demo / 'multiome.h5mu'}::atac"], from_model=output.with_suffix(".model"), target="rna",
        output=tmp_path / "q.h5ad", **GIVEN,
    )  # fmt: skip
    assert "30 cells held out of training" in later.report["conclusion"]
    unpredicted = int((ad.read_h5ad(tmp_path / "q.h5ad").var["r2"] <= 0).sum())
    told = [w for w in later.report["warnings"] if "predicted no better than by their mean" in w]
    assert [w.split(" of ")[0] for w in told] == ([f"{unpredicted:,}"] if unpredicted else [])


def test_values_of_paired_cells_come_from_ways_weighed_by_what_they_predict(paired_run, demo, tmp_path, read):
    result, output = paired_run
    ways = {row[0]: row[1] for row in result.report["tables"]["route"]["rows"]}
    assert list(ways) == list(WAYS)
    assert all(weight >= 0 for weight in ways.values())
    assert load_model(output.with_suffix(".model")).stacks.keys() == {("atac", "rna")}
    key = "imputation_r2_median[atac->rna]"
    ridge = result.report["baselines"]["ridge"]["metrics"][key]["value"]
    assert result.report["metrics"][key]["value"] > ridge - 0.01
    # cells of a query are imputed by what was kept
    again = impute(
        [f"{demo / 'multiome.h5mu'}::atac"], from_model=output.with_suffix(".model"), target="rna",
        output=tmp_path / "q.h5ad", **GIVEN,
    )  # fmt: skip
    assert again.report["tables"]["route"] == result.report["tables"]["route"]
    new, every = filled(read, output, "rna_imputed"), ad.read_h5ad(tmp_path / "q.h5ad")
    np.testing.assert_allclose(every[new.obs_names].X, new.X, rtol=ROUNDED, atol=ROUNDED)


def test_cells_far_from_all_training_cells_are_named_and_less_sure(paired_run, demo, tmp_path, read):
    cells = read(demo / "multiome.h5mu")["atac"].copy()
    strange = np.arange(12)
    x = cells.X.toarray()
    # peaks of these cells mean others
    x[strange] = x[strange][:, np.random.default_rng(0).permutation(cells.n_vars)]
    cells.X = x
    cells.write_h5ad(tmp_path / "strange.h5ad")
    result = impute(
        [f"atac={tmp_path / 'strange.h5ad'}"], from_model=paired_run[1].with_suffix(".model"), target="rna",
        output=tmp_path / "o.h5ad", **GIVEN,
    )  # fmt: skip
    new = ad.read_h5ad(tmp_path / "o.h5ad")
    far = new.obs["far_from_training"].to_numpy()
    assert far[strange].mean() > 0.7
    assert far[12:].mean() < 0.25
    assert any("lie further from the training cells" in w for w in result.report["warnings"])
    width = (new.layers["upper"] - new.layers["lower"]).mean(1)
    assert np.median(width[strange]) > np.median(width[12:])
    # lower ends cannot go below 0, so that widths grow by less
    widening = new.obs["interval_widening"].to_numpy()
    assert np.median(widening[strange]) > 1.03 * np.median(widening[12:])


def test_unpaired_cells_get_intervals_from_partners_and_are_told_so(unpaired_run, demo, check_report):
    result, output = unpaired_run
    check_report(output.with_name("out.report.json"))
    new = ad.read_h5ad(output)
    rna = ad.read_h5ad(demo / "rna.h5ad")
    assert list(new.obs_names) == list(rna.obs_names)
    assert list(new.var_names) == list(ad.read_h5ad(demo / "prot.h5ad").var_names)
    assert new.obs["imputed"].all()
    assert "observed" not in new.layers
    assert not any("interval_coverage" in name for name in result.report["metrics"])
    assert set(result.report["tables"]) == {"route"}
    (kept,) = {c.basis for c in load_calibrations(output.with_suffix(".model")).values()}
    for words in ("nearest to them in smoothed linked features", "no true pairs are known", "150 prot cells"):
        assert words in kept
    assert kept in output.with_suffix(".log").read_text()


def test_partner_intervals_hold_what_was_hidden(unpaired_run, demo):
    """The demo knows the proteins of every cell; no part of mocli was told."""
    _, output = unpaired_run
    new = ad.read_h5ad(output)
    saved = load_model(output.with_suffix(".model"))
    (file,) = open_inputs([f"prot={demo / 'prot.h5ad'}"], kinds={})
    x = align(saved, "prot", file, layers={}, warn=print).read()
    measured = saved.readouts["prot"].measured(x, "log", np.arange(new.n_vars))
    row = {cell: i for i, cell in enumerate(file.obs["true_cell"])}
    true = measured[[row[cell] for cell in new.obs["true_cell"]]]
    inside = (true >= new.layers["lower"]) & (true <= new.layers["upper"])
    assert 0.85 < inside.mean() < 0.97
    assert np.percentile(inside.mean(0), 5) > 0.7


# from a model


def test_a_model_gives_the_same_values_in_a_new_process(unpaired_run, demo, tmp_path):
    _, trained = unpaired_run
    code = """
import sys
from mocli.tasks.impute.impute import impute
impute([sys.argv[1]], from_model=sys.argv[2], target="prot", output=sys.argv[3], threads=1, device="cpu",
       html=False)
"""
    alone = tmp_path / "alone.model"
    shutil.copytree(trained.with_suffix(".model"), alone)
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, demo / "rna.h5ad", alone, tmp_path / "again.h5ad"],
        cwd=ROOT,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    first, again = ad.read_h5ad(trained), ad.read_h5ad(tmp_path / "again.h5ad")
    np.testing.assert_array_equal(again.X, first.X)
    for name in ("lower", "upper"):
        np.testing.assert_array_equal(again.layers[name], first.layers[name])


def test_some_cells_get_what_they_get_among_all(query, unpaired_run, demo, tmp_path):
    rows = np.array([100, 3, 50, 7])
    ad.read_h5ad(demo / "rna.h5ad")[rows].copy().write_h5ad(tmp_path / "few.h5ad")
    result, new = query(inputs=[f"rna={tmp_path / 'few.h5ad'}"])
    np.testing.assert_allclose(new.X, ad.read_h5ad(unpaired_run[1]).X[rows], rtol=ROUNDED, atol=1e-5)
    assert result.report["model"]["name"] == "scmodal"
    assert [p.suffix for p in result.files] == [".log", ".h5ad", ".json", ".json"]
    assert not (tmp_path / "query.model").exists()


def test_the_model_is_not_touched(query, unpaired_run, sha256):
    folder = unpaired_run[1].with_suffix(".model")
    before = {p.name: sha256(p) for p in folder.iterdir()}
    query()
    assert {p.name: sha256(p) for p in folder.iterdir()} == before


def test_features_asked_for_are_columns_of_the_whole(query, unpaired_run, tmp_path):
    whole = ad.read_h5ad(unpaired_run[1])
    names = [whole.var_names[j] for j in (17, 2, 9)]
    (tmp_path / "names.txt").write_text("\ufeff" + "\r\n".join(names) + "\r\n\n", encoding="utf-8")
    for given in (names, ",".join(names), tmp_path / "names.txt", [*names, names[0]]):
        _, new = query(features=given, force=True)
        assert list(new.var_names) == names
        np.testing.assert_allclose(new.X, whole[:, names].X, rtol=ROUNDED, atol=1e-5)
        np.testing.assert_allclose(
            new.layers["upper"], whole[:, names].layers["upper"], rtol=ROUNDED, atol=1e-5
        )


def test_scales_say_the_same_in_other_units(query, unpaired_run):
    saved = load_model(unpaired_run[1].with_suffix(".model"))
    log, counts = (query(scale=s, name=f"{s}.h5ad")[1] for s in ("log", "counts"))
    result, scaled = query(scale="scaled", name="scaled.h5ad")
    mean, deviation = saved.readouts["prot"].moments("log")
    np.testing.assert_allclose(scaled.X, (log.X - mean) / deviation, rtol=2e-3, atol=5e-3)
    assert (counts.X >= 0).all()
    # means of counts at the median depth: about as deep as the training cells
    assert np.median(counts.X.sum(1)) == pytest.approx(saved.readouts["prot"].depth, rel=0.1)
    assert "lower" in counts.layers
    # intervals calibrated on the log scale, in the other unit
    for end in ("lower", "upper"):
        np.testing.assert_allclose(
            scaled.layers[end], (log.layers[end] - mean) / deviation, rtol=5e-3, atol=2e-2
        )
    assert not any("no prediction intervals" in w for w in result.report["warnings"])
    # what matters to training alone is said to change nothing
    result, _ = query(max_steps=5)
    assert any("have no effect: --max-steps" in w for w in result.report["warnings"])


def test_another_coverage_than_the_models_is_said(query):
    result, _ = query(coverage=0.5)
    assert any("coverage of 0.9, not 0.5" in w for w in result.report["warnings"])


def test_a_model_without_calibration_has_no_intervals(query, unpaired_run, tmp_path):
    bare = tmp_path / "bare.model"
    shutil.copytree(unpaired_run[1].with_suffix(".model"), bare)
    (bare / CALIBRATION).unlink()
    result, new = query(from_model=bare)
    assert set(new.layers) == set()
    assert any("no prediction intervals" in w for w in result.report["warnings"])
    assert result.report["advice"].startswith("Nothing measured here says how far a feature can be trusted")
    (bare / CALIBRATION).write_bytes(b"rubbish")
    with pytest.raises(InputError, match="calibration cannot be read"):
        query(from_model=bare, force=True)


@pytest.fixture
def multiome(demo, paired_run, tmp_path):
    """Impute expression from the model of the paired run."""

    def run(name="m.h5mu", inputs=None, **options):
        inputs = [demo / "multiome.h5mu"] if inputs is None else inputs
        given = {"from_model": paired_run[1].with_suffix(".model"), "source": "atac", "target": "rna"}
        return impute(inputs, output=tmp_path / name, **{**given, **GIVEN, **options}), tmp_path / name

    return run


def test_all_cells_with_what_was_observed(multiome, demo, read):
    result, path = multiome(cells="all")
    new = filled(read, path, "rna_imputed")
    assert new.shape == (150, 400)
    assert not new.obs["imputed"].any()
    saved = load_model(_model_of(result))
    measured = read(demo / "multiome.h5mu")["rna"]
    counts = measured.X.toarray()
    expected = np.log1p(counts / np.maximum(counts.sum(1, keepdims=True), 1) * saved.readouts["rna"].depth)
    np.testing.assert_allclose(new.layers["observed"], expected, rtol=ROUNDED)


def _model_of(result):
    return Path(result.report["model"]["reason"].removeprefix("the model of "))


def test_mosaic_cells_are_filled_where_they_lack_it(multiome, demo, tmp_path, read):
    both = read(demo / "multiome.h5mu")
    both["rna"][:100].copy().write_h5ad(tmp_path / "rna.h5ad")
    both["atac"].copy().write_h5ad(tmp_path / "atac.h5ad")
    inputs = [tmp_path / "rna.h5ad", tmp_path / "atac.h5ad"]
    lacking = filled(read, multiome(inputs=inputs)[1], "rna_imputed")
    assert list(lacking.obs_names) == list(both["atac"].obs_names[100:])
    assert lacking.obs["imputed"].all()
    everyone = filled(read, multiome(inputs=inputs, cells="all", name="all.h5mu")[1], "rna_imputed")
    assert list(everyone.obs["imputed"]) == [False] * 100 + [True] * 50
    observed = everyone.layers["observed"]
    assert np.isfinite(observed[:100]).all()
    assert np.isnan(observed[100:]).all()
    np.testing.assert_allclose(everyone.X[100:], lacking.X, rtol=ROUNDED, atol=1e-5)


def test_evaluation_of_given_cells(multiome, check_report):
    _, path = multiome(evaluate=True)
    report = check_report(path.with_name("m.report.json"))
    assert report["metrics"]["imputation_pearson_median[atac->rna]"]["n"] == 150
    assert set(report["baselines"]) == {"mean", "readout", "linked_feature"}
    coverage = report["metrics"]["interval_coverage[atac->rna]"]["value"]
    assert 0.88 < coverage < 1


def test_a_target_measured_for_some_features_only(multiome, demo, tmp_path, read):
    """What was not measured is not a zero: neither observed, nor scored."""
    both = read(demo / "multiome.h5mu")
    absent = [n for j, n in enumerate(both["rna"].var_names) if j % 4 == 0]
    both["rna"][:, [n not in set(absent) for n in both["rna"].var_names]].copy().write_h5ad(
        tmp_path / "rna.h5ad"
    )
    both["atac"].copy().write_h5ad(tmp_path / "atac.h5ad")
    inputs = [tmp_path / "rna.h5ad", tmp_path / "atac.h5ad"]
    result, path = multiome(inputs=inputs, evaluate=True, html=True)
    new = filled(read, path, "rna_imputed")
    gone = new.var_names.isin(absent)
    assert np.isnan(new.layers["observed"][:, gone]).all()
    assert np.isfinite(new.layers["observed"][:, ~gone]).all()
    assert np.isfinite(new.X).all()
    for column in ("pearson", "rmse", "coverage"):
        assert new.var[column][gone].isna().all()
    assert not new.var["better_than_mean"][gone].any()
    covered = result.report["metrics"]["interval_coverage[atac->rna]"]["value"]
    assert covered == pytest.approx(new.var["coverage"][~gone].mean())


# three modalities


def test_modalities_that_no_table_joins(demo, tmp_path, check_report):
    output = tmp_path / "three.h5ad"
    result = impute(
        [demo / "adt.h5ad", demo / "gex.h5ad", demo / "atac.h5ad"],
        links=[demo / "adt-gex.tsv", demo / "gex-atac.tsv"],
        output=output,
        source="atac",
        target="prot",
        **QUICK,
    )
    check_report(output.with_name("three.report.json"))
    new = ad.read_h5ad(output)
    assert list(new.obs_names) == list(ad.read_h5ad(demo / "atac.h5ad").obs_names)
    assert np.isfinite(new.X).all()
    assert set(new.layers) == set()
    assert any("no prediction intervals for atac -> prot" in w for w in result.report["warnings"])
    assert result.report["conclusion"].endswith("how well they match measured values is not known.")
    assert set(result.files) == {p for p in tmp_path.rglob("*") if p.is_file()}
    # the same model fills another modality
    again = tmp_path / "again.h5ad"
    impute([demo / "gex.h5ad"], from_model=output.with_suffix(".model"), target="atac", output=again, **GIVEN)
    assert ad.read_h5ad(again).shape == (150, ad.read_h5ad(demo / "atac.h5ad").n_vars)


# sameness


def test_a_calibrated_run_may_be_repeated_to_the_same_bytes(demo, tmp_path, sha256):
    def once(**options):
        result = impute(
            [demo / "multiome.h5mu"],
            links=[demo / "rna-atac.tsv"],
            output=tmp_path / "o.h5ad",
            source="rna",
            target="atac",
            provenance=False,
            evaluate=True,
            **{**QUICK, "max_steps": 5, **options},
        )
        named = [p for p in result.files if p.suffix in (".h5ad", ".safetensors") or p.name == "model.json"]
        assert len(named) == 5
        return {p.name: sha256(p) for p in named}

    first = once()
    assert once(force=True) == first
    assert once(force=True, seed=1) != first


def interrupt_at(monkeypatch, at):
    from mocli.models.scmodal.model import Scmodal

    original, seen = Scmodal.prepare, []

    def prepare(self, batch):
        seen.append(1)
        if len(seen) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch)

    monkeypatch.setattr(Scmodal, "prepare", prepare)


def test_a_resumed_run_equals_an_undisturbed_one(demo, tmp_path, monkeypatch, sha256):
    def once(name, **options):
        output = tmp_path / name / "o.h5ad"
        output.parent.mkdir(exist_ok=True)
        given = {**QUICK, "max_steps": 12, "provenance": False, "evaluate": True, **options}
        impute(
            [demo / "multiome.h5mu"], links=[demo / "rna-atac.tsv"], output=output,
            source="rna", target="atac", **given,
        )  # fmt: skip
        model = output.with_suffix(".model")
        return [sha256(output), *(sha256(p) for p in sorted(model.iterdir()))]

    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)
        with pytest.raises(Interrupted):
            once("broken")
    assert (tmp_path / "broken" / "o.ckpt").is_dir()
    # cells that were held out then must not be trained on now, nor the other way round
    with pytest.raises(UsageError, match="cells"):
        once("broken", hold_out=0.3)
    assert once("broken") == once("whole")
    assert not (tmp_path / "broken" / "o.ckpt").exists()


# what is refused


def test_a_write_that_fails_leaves_a_report_and_no_part_of_a_file(query, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", str(tmp_path / "query.h5ad"))

    from mocli.tasks.impute import write as module

    original = module._blocks

    def breaks(*asked):
        yield next(iter(original(*asked)))
        full()

    monkeypatch.setattr(module, "_blocks", breaks)
    monkeypatch.setattr(module, "blocks_of", lambda n, _: (slice(i, min(i + 50, n)) for i in range(0, n, 50)))
    with pytest.raises((OSError, MocliError)):
        query()
    assert {p.name for p in tmp_path.iterdir()} == {"query.log", "query.report.json", "query_mqc.json"}
    report = json.loads((tmp_path / "query.report.json").read_text())
    assert report["status"] == "error"
    assert report["error"]["exit_code"] == 4
    assert "disk is full" in report["error"]["message"]


def test_after_a_failed_write_the_same_command_succeeds(demo, tmp_path, monkeypatch):
    from mocli.tasks.impute import write as module

    def once():
        return impute(
            [demo / "multiome.h5mu"], links=[demo / "rna-atac.tsv"], output=tmp_path / "o.h5mu",
            source="atac", target="rna", evaluate=True, **{**QUICK, "max_steps": 3},
        )  # fmt: skip

    with monkeypatch.context() as patch:
        patch.setattr(
            module, "_write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        with pytest.raises(OSError, match="No space"):
            once()
    assert (tmp_path / "o.model" / CALIBRATION).exists()
    once()


def files_in(folder):
    return {p.name for p in folder.rglob("*")} - {"o.log", "o.report.json", "o_mqc.json"}


@pytest.fixture
def refused(demo, tmp_path, monkeypatch):
    """Run what must be refused before anything is trained."""

    def nothing(*_, **__):
        raise AssertionError("trained before it refused")

    import mocli.tasks.trained.train as module

    monkeypatch.setattr(module, "train_model", nothing)

    def run(error, match, inputs=("multiome.h5mu",), links=("rna-atac.tsv",), **options):
        with pytest.raises(error, match=match) as found:
            impute(
                [demo / name for name in inputs],
                links=[demo / name for name in links],
                output=tmp_path / "o.h5mu",
                **{**QUICK, **options},
            )
        assert files_in(tmp_path) == set()
        report = tmp_path / "o.report.json"
        if report.exists():
            assert json.loads(report.read_text())["error"]["exit_code"] == found.value.exit_code
        return found.value

    return run


def test_nothing_is_missing(refused):
    error = refused(UsageError, "nothing is missing", source="rna", target="atac", hold_out=0)
    assert error.exit_code == 2
    assert "--cells all" in error.hint


def test_cells_said_to_be_unpaired_all_lack_the_other_modality(demo, tmp_path):
    inputs = [f"{demo / 'multiome.h5mu'}::rna", f"{demo / 'multiome.h5mu'}::atac"]
    plan = impute(
        inputs, links=[demo / "rna-atac.tsv"], pairing="unpaired", source="rna", target="atac",
        output=tmp_path / "o.h5mu", hold_out=0, dry_run=True,
    ).plan  # fmt: skip
    assert any("cells are unpaired (as asked" in line for line in plan)


def test_nothing_is_missing_from_a_model(multiome):
    with pytest.raises(UsageError, match="nothing is missing") as error:
        multiome()
    assert "--evaluate" in error.value.hint


def test_modalities_that_are_not_there(refused):
    error = refused(UsageError, "'prot' is not among the inputs", source="rna", target="prot")
    assert error.found == "rna, atac"
    error = refused(UsageError, "'rnaa' is not among the inputs", source="rnaa", target="atac")
    assert "did you mean 'rna'" in error.hint
    refused(UsageError, "which modality is imputed from which")


def test_modalities_that_the_model_does_not_have(query, demo):
    with pytest.raises(UsageError, match="the model has no modality 'atac'"):
        query(target="atac")
    with pytest.raises(UsageError, match="the model has no modality 'gex'"):
        query(source="gex")
    with pytest.raises(InputError, match="no input is the model's 'rna'"):
        query(inputs=[demo / "prot.h5ad"], source="rna", force=True)


def test_features_that_are_not_there(refused, query):
    error = refused(
        InputError, "1 of the features asked for", source="atac", target="rna", features="CD3E,CD8AA"
    )
    assert error.found == "CD8AA"
    assert "did you mean 'CD8A'" in error.hint
    with pytest.raises(InputError, match="2 of the features"):
        query(features=["a", "b"])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"coverage": 0}, "--coverage"),
        ({"coverage": 1}, "--coverage"),
        ({"coverage": float("nan")}, "--coverage"),
        ({"scale": "raw"}, "--scale"),
        ({"cells": "some"}, "--cells"),
        ({"hold_out": "2"}, "--hold-out"),
        ({"features": ""}, "--features"),
    ],
    ids=str,
)
def test_values_that_cannot_be_meant(refused, options, match):
    refused(UsageError, match, source="atac", target="rna", **options)


def test_a_hold_out_that_no_cell_has(refused):
    error = refused(InputError, "no cell has batch = x", source="atac", target="rna", hold_out="batch=x")
    assert "batch_1" in error.found


def test_an_evaluation_without_pairs(refused):
    inputs, links = ("rna.h5ad", "prot.h5ad"), ("rna-prot.tsv",)
    refused(InputError, "--evaluate needs cells", inputs, links, source="rna", target="prot", evaluate=True)


def test_a_value_held_out_is_evaluated(demo, tmp_path):
    output = tmp_path / "o.h5ad"
    result = impute(
        [demo / "multiome.h5mu"], links=[demo / "rna-atac.tsv"], output=output, source="rna", target="atac",
        hold_out="batch=batch_1", evaluate=True, **{**QUICK, "max_steps": 3},
    )  # fmt: skip
    new = ad.read_h5ad(output)
    assert set(new.obs["batch"]) == {"batch_1"}
    assert result.report["metrics"]["interval_coverage[rna->atac]"]["n"] == new.n_obs


def test_counts_of_what_was_no_count(demo, tmp_path):
    """Log values of proteins: log and scaled can be had, counts cannot."""
    a = ad.read_h5ad(demo / "prot.h5ad")
    a.X = np.log1p(a.X.toarray() / 3).astype(np.float32)
    a.write_h5ad(tmp_path / "prot.h5ad")
    options = {**QUICK, "max_steps": 3, "links": [demo / "rna-prot.tsv"], "source": "rna", "target": "prot"}
    inputs = [demo / "rna.h5ad", tmp_path / "prot.h5ad"]
    with pytest.raises(UsageError, match="cannot be imputed") as error:
        impute(inputs, output=tmp_path / "o.h5ad", scale="counts", **options)
    assert error.value.expected == "log or scaled"
    impute(inputs, output=tmp_path / "o.h5ad", scale="scaled", **options)
    assert "lower" in ad.read_h5ad(tmp_path / "o.h5ad").layers


def test_a_dry_run_names_what_a_real_one_writes(demo, tmp_path):
    options = {**QUICK, "max_steps": 3, "links": [demo / "rna-atac.tsv"], "source": "atac", "target": "rna"}
    for wrong in ({}, {"evaluate": True, "features": "NOPE"}, {"evaluate": True, "hold_out": "batch=nobody"}):
        with pytest.raises((UsageError, InputError)):
            impute([demo / "multiome.h5mu"], output=tmp_path / "o.h5mu", dry_run=True, **options, **wrong)
    options["evaluate"] = True
    dry = impute([demo / "multiome.h5mu"], output=tmp_path / "o.h5mu", dry_run=True, **options)
    assert list(tmp_path.iterdir()) == []
    impute([demo / "multiome.h5mu"], output=tmp_path / "o.h5mu", **options)
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == set(dry.files)


def test_links_of_paired_cells_are_not_said_to_change_nothing(demo, tmp_path):
    options = {"links": demo / "rna-atac.tsv", "output": tmp_path / "o.h5mu", "dry_run": True}
    plan = impute(
        demo / "multiome.h5mu", source="rna", target="atac", model="multigrate", cells="all", **options
    ).plan
    assert not any("--links changes nothing" in line for line in plan), "they are a way of imputing"
    plan = integrate(demo / "multiome.h5mu", model="multigrate", **options).plan
    assert any("--links changes nothing" in line for line in plan)


def test_inputs_never_change(multiome, demo, sha256):
    before = {p: sha256(p) for p in demo.iterdir()}
    multiome(cells="all")
    assert {p: sha256(p) for p in demo.iterdir()} == before
