"""Accuracy of imputed values against scipy and scikit-learn, feature by feature."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    mean_absolute_error,
    r2_score,
    recall_score,
    root_mean_squared_error,
)

from mocli.metrics import imputation
from mocli.metrics.imputation import accuracy, detection

STATISTICS = ("pearson", "spearman", "rmse", "mae", "r2")


def sample(n=80, p=13, seed=0):
    """Counts with many ties, predictions with some, as an imputation gives them."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(1.0, 2.0, size=(n, p))
    predicted = np.round(rate + rng.normal(size=(n, p)) * 0.3, 1).clip(0).astype("f4")
    return predicted, rng.poisson(rate).astype("f4")


@pytest.fixture(params=[2**20, 200, 1], ids=["one block", "blocks", "column by column"])
def _blocks(request, monkeypatch):
    monkeypatch.setattr(imputation, "BLOCK", request.param)


@pytest.mark.usefixtures("_blocks")
def test_features_equal_scipy_and_scikit_learn():
    x, y = sample()
    acc = accuracy(x, y)
    for j in range(x.shape[1]):
        a, b = x[:, j].astype(float), y[:, j].astype(float)
        assert acc.pearson[j] == pytest.approx(pearsonr(a, b).statistic, abs=1e-12)
        assert acc.spearman[j] == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
        assert acc.rmse[j] == pytest.approx(root_mean_squared_error(b, a), rel=1e-12)
        assert acc.mae[j] == pytest.approx(mean_absolute_error(b, a), rel=1e-12)
        assert acc.r2[j] == pytest.approx(r2_score(b, a), abs=1e-12)
    assert (acc.n == 80).all()
    assert acc.pearson.dtype == np.float64


def test_constants_are_undefined_and_the_mean_has_r2_zero():
    x, y = sample(n=50, p=4)
    x[:, 0] = y[:, 0].mean()  # a constant whose mean need not be exact
    x[:, 1] = 0.1
    y[:, 1] = 0.3
    y[:, 2] = 0.1
    acc = accuracy(x, y)
    np.testing.assert_array_equal(np.isnan(acc.pearson), [True, True, True, False])
    np.testing.assert_array_equal(np.isnan(acc.spearman), [True, True, True, False])
    np.testing.assert_array_equal(np.isnan(acc.r2), [False, True, True, False])
    assert acc.r2[0] == pytest.approx(0.0, abs=1e-6)
    assert acc.rmse[1] == pytest.approx(0.2, rel=1e-6)
    assert np.isfinite(acc.mae).all()


def test_perfect_and_reversed():
    y = sample()[1]
    same = accuracy(y, y)
    opposite = accuracy(-y, y)
    for values, expected in ((same.pearson, 1), (same.spearman, 1), (same.r2, 1), (same.rmse, 0)):
        np.testing.assert_allclose(values, expected, atol=1e-12)
    np.testing.assert_allclose(opposite.spearman, -1, atol=1e-12)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_cells(n):
    x, y = np.arange(3.0 * n).reshape(n, 3), np.arange(3.0 * n).reshape(n, 3) ** 2
    acc = accuracy(x, y)
    for name in ("pearson", "spearman", "r2"):
        assert np.isnan(getattr(acc, name)).all() == (n < 3)
    assert np.isnan(acc.rmse).all() == (n == 0)
    assert (acc.n == n).all()


def test_values_that_are_not_finite_spoil_their_feature_only():
    x, y = sample(p=3)
    whole = accuracy(x, y)
    x[4, 0], y[7, 1] = np.inf, np.nan
    acc = accuracy(x, y)
    for name in STATISTICS:
        values = getattr(acc, name)
        assert np.isnan(values[:2]).all()
        assert values[2] == getattr(whole, name)[2]
    assert np.isnan(detection(x, y > 0).auprc[0])


def test_extreme_float32_values():
    y = np.array([[1e38], [-1e38], [3e38], [0]], "f4")
    assert accuracy(y, y).pearson[0] == pytest.approx(1)
    assert accuracy(y * np.float32(1e-37) + 1, y).r2[0] < 1


def test_inputs_stay_and_shapes_are_checked():
    x, y = sample()
    before = x.copy(), y.copy()
    accuracy(x, y), detection(x, y > 0)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])
    with pytest.raises(ValueError, match="cells x features"):
        accuracy(x, y[:, 1:])
    with pytest.raises(ValueError, match="cells x features"):
        accuracy(x[0], y[0])


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_detection_equals_scikit_learn(decimals):
    rng = np.random.default_rng(3)
    there = rng.random((90, 9)) < rng.random(9) * 0.6 + 0.1
    score = np.round(rng.random((90, 9)) * 0.7 + there * 0.3, decimals).astype("f4")
    threshold = np.linspace(0.2, 0.8, 9)
    found = detection(score, there, threshold=threshold)
    for j in range(9):
        assert found.auprc[j] == pytest.approx(average_precision_score(there[:, j], score[:, j]), abs=1e-12)
        expected = balanced_accuracy_score(there[:, j], score[:, j] > threshold[j])
        assert found.balanced_accuracy[j] == pytest.approx(expected, abs=1e-12)
        expected = recall_score(there[:, j], score[:, j] > threshold[j])
        assert found.true_positive_rate[j] == pytest.approx(expected, abs=1e-12)
        expected = recall_score(~there[:, j], score[:, j] <= threshold[j])
        assert found.true_negative_rate[j] == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(found.prevalence, there.mean(0))


def test_detection_by_hand_and_where_there_is_nothing_to_tell_apart():
    """Scores 3 2 2 1, present at the first 2: steps at 3 (none), 2 (1 of 3) and 1 (nothing gained)."""
    score = np.array([[3, 1, 1], [2, 2, 2], [2, 3, 3], [1, 4, 4]], "f4")
    there = np.array([[0, 0, 1], [1, 0, 1], [0, 0, 1], [0, 0, 1]], bool)
    found = detection(score, there)
    np.testing.assert_allclose(found.auprc, [1 / 3, np.nan, np.nan])
    np.testing.assert_allclose(found.balanced_accuracy, [0.5, np.nan, np.nan])
    np.testing.assert_allclose(found.true_positive_rate, [1, np.nan, np.nan])
    np.testing.assert_allclose(found.prevalence, [0.25, 0, 1])
