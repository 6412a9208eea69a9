"""Accuracy beside simple ways, with coverage measured on cells that intervals have not seen."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import Ridge

from mocli.metrics import conformal
from mocli.tasks.impute import accuracy as accuracy
from mocli.tasks.impute.holdout import HoldOut
from mocli.tasks.impute.report import _statistics
from mocli.tasks.infer.predictor import link_columns

N, P = 110, 7


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    predicted = rng.normal(size=(N, P)).astype(np.float32)
    measured = (predicted + rng.normal(size=(N, P))).astype(np.float32)
    return predicted, measured


def evaluate(predicted, measured, baselines=None, **options):
    given = {"n_vars": P, "n_cells": N, "coverage": 0.9, "floor": None, "seed": 0, **options}
    return accuracy.evaluate(lambda c: measured[:, c], lambda c: predicted[:, c], baselines or {}, **given)


def test_coverage_is_that_of_cells_left_out(values):
    predicted, measured = values
    found = evaluate(predicted, measured)
    order = np.random.default_rng(0).permutation(N)
    inside = np.zeros((N, P), bool)
    for fold in np.array_split(order, accuracy.FOLDS):
        rest = ~np.isin(np.arange(N), fold)
        lower, upper = conformal.fit(predicted[rest], measured[rest], coverage=0.9).interval(predicted[fold])
        inside[fold] = (measured[fold] >= lower) & (measured[fold] <= upper)
    np.testing.assert_allclose(found.coverage, inside.mean(0))
    assert 0.85 < found.coverage.mean() < 0.97
    assert found.intervals.n == N
    whole = conformal.fit(predicted, measured, coverage=0.9)
    np.testing.assert_array_equal(found.intervals.lower, whole.lower)


def test_blocks_of_features_change_nothing(values, monkeypatch):
    predicted, measured = values
    beside = {"half": lambda c: predicted[:, c] / 2}
    whole = evaluate(predicted, measured, beside, floor=-1.0)
    monkeypatch.setattr(accuracy, "COLUMNS", 3)
    parts = evaluate(predicted, measured, beside, floor=-1.0)
    for name in ("pearson", "spearman", "rmse", "mae", "r2", "n"):
        np.testing.assert_array_equal(getattr(parts.accuracy, name), getattr(whole.accuracy, name))
        np.testing.assert_array_equal(
            getattr(parts.baselines["half"], name), getattr(whole.baselines["half"], name)
        )
    np.testing.assert_array_equal(parts.coverage, whole.coverage)
    for name in ("lower", "upper", "floor"):
        np.testing.assert_array_equal(getattr(parts.intervals, name), getattr(whole.intervals, name))
    columns = np.array([6, 0])
    taken = parts.intervals.take(columns)
    for end, of in zip(
        taken.interval(predicted[:, columns]), whole.intervals.interval(predicted), strict=True
    ):
        np.testing.assert_array_equal(end, of[:, columns])


def test_a_feature_not_measured_is_undefined(values):
    predicted, measured = values
    measured = measured.copy()
    measured[:, 2] = np.nan
    found = evaluate(predicted, measured)
    assert np.isnan(found.coverage[2])
    assert np.isnan(found.accuracy.rmse[2])
    assert np.isfinite(np.delete(found.coverage, 2)).all()
    assert np.isinf(found.intervals.upper[2])


def test_the_mean_for_every_cell():
    predict = accuracy.mean_baseline(np.arange(5, dtype=np.float32), 3)
    np.testing.assert_array_equal(predict(np.array([4, 1])), [[4, 1]] * 3)


def test_the_model_over_the_features_that_a_baseline_has(values):
    predicted, measured = values
    has = np.array([True, False, True, True, False, True, False])
    some = np.where(has, predicted / 2 + np.random.default_rng(3).normal(size=(N, P)), np.nan)
    found = evaluate(predicted, measured, {"some": lambda c: some[:, c], "all": lambda c: -predicted[:, c]})
    columns = np.arange(P)
    mine = _statistics(found.accuracy, columns, "a->b", N)
    there = _statistics(found.accuracy, columns, "a->b", N, among=found.baselines["some"])
    assert there.keys() == mine.keys()
    r = np.array([np.corrcoef(predicted[:, j], measured[:, j])[0, 1] for j in columns])
    assert mine["imputation_pearson_median[a->b]"]["value"] == pytest.approx(np.median(r), rel=1e-5)
    assert there["imputation_pearson_median[a->b]"]["value"] == pytest.approx(np.median(r[has]), rel=1e-5)
    error = np.sqrt(np.square(predicted - measured).mean(0))[has]
    assert there["imputation_rmse_worst[a->b]"]["value"] == pytest.approx(error.max(), rel=1e-5)
    assert (
        "over 4 features that vary, those that the baseline has"
        in (there["imputation_rmse_worst[a->b]"]["definition"])
    )
    # of a baseline that has them all there is nothing to add
    assert _statistics(found.accuracy, columns, "a->b", N, among=found.baselines["all"]) == {}
    some_only = _statistics(found.accuracy, columns[has], "a->b", N, among=found.baselines["some"])
    assert some_only == {}


def test_linked_features_on_the_scale_of_the_target():
    linked = np.array([[1, 2], [3, 4]], np.float32)
    mean, deviation = np.array([10, 20, 30], np.float32), np.array([1, 2, 3], np.float32)
    predict = accuracy.linked_baseline(linked, np.array([1, -1, 0]), mean, deviation)
    np.testing.assert_array_equal(predict(np.arange(3)), [[12, np.nan, 33], [14, np.nan, 39]])
    np.testing.assert_array_equal(predict(np.array([2])), [[33], [39]])
    np.testing.assert_array_equal(linked, [[1, 2], [3, 4]])


def test_the_heaviest_link_is_a_features_own():
    aggregation = sparse.csr_matrix(np.array([[0, 0.2, 0.7], [0, 0, 0], [1, 0, 0.5]]))
    np.testing.assert_array_equal(link_columns(aggregation), [2, -1, 0])


def test_ridge_is_scikit_learns_with_the_penalty_that_predicts_best():
    rng = np.random.default_rng(0)
    x, new = rng.normal(size=(90, 4)), rng.normal(size=(8, 4))
    y = x @ rng.normal(size=(4, 5)) + rng.normal(size=(90, 5))
    predict = accuracy.ridge_baseline(x, lambda c: y[:, c], new, n_vars=5, seed=0)
    columns = np.array([3, 1])
    found = predict(columns)
    candidates = [Ridge(alpha=a).fit(x, y[:, columns]).predict(new) for a in 10.0 ** np.arange(-1, 6)]
    assert min(np.abs(found - c).max() for c in candidates[:4]) < 1e-5
    assert predict(np.array([2])).shape == (8, 1)
    noise = rng.normal(size=(90, 5))
    flat = accuracy.ridge_baseline(x, lambda c: noise[:, c], new, n_vars=5, seed=0)(np.arange(5))
    assert flat.std() < 0.2


def test_drawing_rows_and_blocks(monkeypatch):
    np.testing.assert_array_equal(accuracy.rows_drawn(4, seed=0), np.arange(4))
    monkeypatch.setattr(accuracy, "MAX_CELLS", 10)
    drawn = accuracy.rows_drawn(50, seed=0)
    assert len(np.unique(drawn)) == 10
    assert list(drawn) == sorted(drawn)
    spans = list(accuracy.blocks_of(100_000, 20_000))
    assert spans[0] == slice(0, 400)
    assert spans[-1].stop == 100_000
    assert next(iter(accuracy.blocks_of(40, 10**7))) == slice(0, 16)


def test_detection_is_scikit_learns_at_the_measured_share():
    from sklearn.metrics import average_precision_score, balanced_accuracy_score, recall_score

    rng = np.random.default_rng(0)
    measured = (rng.random((80, 3)) < 0.3) * rng.gamma(2.0, 1.0, (80, 3))
    predicted = (0.3 * measured + rng.random((80, 3))).astype(np.float32)
    given = {"n_vars": 3, "n_cells": 80, "coverage": 0.9, "floor": 0.0, "seed": 0, "detect": True}
    mean = {"mean": lambda c: np.ones((80, len(c)), np.float32)}
    found = accuracy.evaluate(lambda c: measured[:, c], lambda c: predicted[:, c], mean, **given)
    for j in range(3):
        there = measured[:, j] > 0
        called = predicted[:, j] >= np.sort(predicted[:, j])[-there.sum()]
        assert found.detection.auprc[j] == pytest.approx(average_precision_score(there, predicted[:, j]))
        assert found.detection.balanced_accuracy[j] == pytest.approx(balanced_accuracy_score(there, called))
        assert found.detection.true_positive_rate[j] == pytest.approx(recall_score(there, called))
        assert found.baseline_detection["mean"].balanced_accuracy[j] == 0.5


def test_compared_cells_are_read_once_for_all_scales(monkeypatch):
    from mocli.tasks.impute import check

    read, evaluated, kept = [], [], {}

    class Target:
        absent = np.zeros(0, np.int64)

        def read(self, rows):
            read.append(rows)
            return np.ones((len(rows), 3))

    def evaluate(measured, predict, *_, **about):
        evaluated.append((measured(np.arange(3)), predict(np.arange(3))))
        return SimpleNamespace(n_cells=about["n_cells"], intervals=None, accuracy=None)

    readout = SimpleNamespace(
        by_scale=("log", "counts"), n_vars=3, floor=0.0, moments=lambda scale: None,
        measured=lambda x, scale, columns, absent: (scale, x.shape),
    )  # fmt: skip
    translation = SimpleNamespace(
        source="rna", target="prot", target_file=SimpleNamespace(kind="prot"), readout=readout,
        predictor=SimpleNamespace(name="stack"), pairs=np.stack([np.arange(80), np.arange(80)[::-1]], 1),
        aligned=lambda name: Target(), of_rows=lambda rows: lambda scale, columns: (scale, len(rows)),
        times=lambda rows: None,
    )  # fmt: skip
    work = SimpleNamespace(
        denoised=None, trained=object(), translation=translation,
        options=SimpleNamespace(
            from_model=None, scale="log", coverage=0.9, compare_groups=None, hold_out=HoldOut(0.2)
        ),
        survey=SimpleNamespace(
            compared=np.arange(70), drawn=lambda seed: np.arange(70), files=[], target_rows=None
        ),
    )  # fmt: skip
    request = SimpleNamespace(run=SimpleNamespace(seed=0), data=SimpleNamespace(label_key=None, unlabeled=()))
    run = SimpleNamespace(
        paths=SimpleNamespace(model=None),
        report=SimpleNamespace(),
        say=print,
        warn=print,
        add_output=lambda *_: None,
    )
    monkeypatch.setattr(check.accuracy, "evaluate", evaluate)
    monkeypatch.setattr(check, "simple_ways", lambda *_, **__: {})
    monkeypatch.setattr(check, "load_calibrations", lambda folder: {})
    monkeypatch.setattr(check, "save_calibrations", lambda folder, calibrations: kept.update(calibrations))
    monkeypatch.setattr(check, "fitting", lambda kept, *_, **__: None)
    check.check(run, request, work)
    assert [np.asarray(rows).tolist() for rows in read] == [list(range(79, 9, -1))]
    assert evaluated == [((s, (70, 3)), (s, 70)) for s in ("log", "counts")]
    assert {key[2] for key in kept} == {"log", "counts"}
