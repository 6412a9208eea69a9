"""Prediction intervals: exact ranks against loops, coverage on data whose truth is known."""

import json
import math

import numpy as np
import pytest

from mocli.metrics import conformal
from mocli.metrics.conformal import Conformal, fit


def coverage(lower, upper, measured):
    """Share of measured values inside their interval, ends included, by feature."""
    return ((lower <= measured) & (measured <= upper)).mean(0)


def n_infinite(c):
    """Features with a bound that is infinite before the floor is applied."""
    return (np.isinf(c.lower) | np.isinf(c.upper)).sum()


P = 120


def draw(kind, n, rng, p=P):
    """Predictions and measured values of one kind of noise."""
    x = rng.gamma(2.0, 1.0, size=(n, p))
    if kind == "gaussian":
        y = x + rng.normal(size=(n, p))
    elif kind == "skewed":
        y = x + rng.lognormal(sigma=1.0, size=(n, p))
    elif kind == "heteroscedastic":
        y = x + x**2 * rng.normal(size=(n, p))
    else:
        y = rng.poisson(x) * (rng.random((n, p)) < 0.04)
    return x.astype("f4"), y.astype("f4")


def loop(r, asked, *, symmetric):
    """Order statistics of one feature, counted from the definition; `asked` in thousandths."""
    n = len(r)
    rest = 1000 - asked
    if symmetric:
        k = next(k for k in range(1, n + 2) if 1000 * k >= (n + 1) * asked)
        bound = sorted(abs(v) for v in r)[k - 1] if k <= n else math.inf
        return -bound, bound
    k = next(k for k in range(1, n + 2) if 2000 * k >= (n + 1) * (2000 - rest))
    ordered = sorted(r)
    return (ordered[n - k], ordered[k - 1]) if k <= n else (-math.inf, math.inf)


@pytest.fixture(params=[2**20, 100], ids=["one block", "blocks"])
def _blocks(request, monkeypatch):
    monkeypatch.setattr(conformal, "BLOCK", request.param)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("n", [1, 2, 8, 9, 10, 18, 19, 20, 38, 39, 40, 57, 199, 399])
def test_offsets_are_the_exact_order_statistics(n, symmetric):
    x, y = draw("skewed", n, np.random.default_rng(n), p=7)
    for asked in (500, 800, 900, 950, 975, 990):
        c = fit(x, y, coverage=asked / 1000, symmetric=symmetric)
        r = y.astype(float) - x
        for j in range(7):
            low, high = loop(r[:, j], asked, symmetric=symmetric)
            assert c.lower[j] == pytest.approx(low, rel=1e-6)
            assert c.upper[j] == pytest.approx(high, rel=1e-6)
            assert c.lower[j] <= low  # rounded outwards
            assert c.upper[j] >= high
        assert n_infinite(c) in (0, 7)


def test_ranks_are_exact_where_floats_round():
    assert math.ceil((24 + 1) * 0.28) == 8  # not 7: what floats make of it
    for n in range(1, 1200):
        for percent in (7, 14, 28, 55, 56, 57, 90, 95, 99):
            expected = -(-(n + 1) * percent // 100), -(-(n + 1) * (100 + percent) // 200)
            found = [conformal._rank(n, percent / 100, symmetric=s) for s in (True, False)]
            assert tuple(found) == expected


def test_bounds_are_infinite_where_cells_are_too_few():
    x, y = draw("gaussian", 40, np.random.default_rng(0), p=3)
    assert n_infinite(fit(x[:18], y[:18])) == 3
    assert n_infinite(fit(x[:19], y[:19])) == 0  # (19 + 1) 0.05 = 1
    assert n_infinite(fit(x[:8], y[:8], symmetric=True)) == 3
    assert n_infinite(fit(x[:9], y[:9], symmetric=True)) == 0
    few = fit(x[:18], y[:18], floor=0.0)
    lower, upper = few.interval(x)
    np.testing.assert_array_equal(lower, 0)
    np.testing.assert_array_equal(upper, np.inf)
    assert (coverage(lower, upper, y.clip(0)) == 1).all()
    assert n_infinite(fit(x[:0], y[:0])) == 3


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kind", ["gaussian", "skewed", "heteroscedastic", "zero-inflated"])
@pytest.mark.parametrize("asked", [0.8, 0.9])
def test_marginal_coverage(kind, asked, symmetric):
    rng = np.random.default_rng(1)
    n, n_test = 399, 400
    x, y = draw(kind, n, rng)
    x_test, y_test = draw(kind, n_test, rng)
    c = fit(x, y, coverage=asked, symmetric=symmetric, floor=0.0 if kind == "zero-inflated" else None)
    lower, upper = c.interval(x_test)
    achieved = coverage(lower, upper, y_test)
    # of one feature: beta over calibrations, binomial over test cells; 4 standard errors of the mean
    margin = 4 * math.sqrt(asked * (1 - asked) * (1 / (n + 2) + 1 / n_test) / P)
    assert achieved.mean() >= asked - margin
    if kind != "zero-inflated":
        assert achieved.mean() <= asked + 1 / (n + 1) + margin
        assert achieved.std() < 2 * math.sqrt(asked * (1 - asked) * (1 / (n + 2) + 1 / n_test))


def test_zeros_cover_for_what_is_not_zero():
    """A baseline's constant prediction of a rare feature: errors tie, and the tie is what is covered."""
    rng = np.random.default_rng(2)
    y, y_test = (rng.poisson(3, (500, P)) * (rng.random((500, P)) < 0.02) for _ in range(2))
    x = np.full((500, P), 0.06, "f4")
    c = fit(x, y.astype("f4"), floor=0)
    lower, upper = c.interval(x)
    assert coverage(lower, upper, y_test).mean() > 0.97
    assert ((lower <= y_test) & (y_test <= upper))[y_test > 0].mean() < 0.2


def test_ties_on_the_bound_are_inside():
    """A third is no float: the bound must not round to just below the values that it stands for."""
    rng = np.random.default_rng(3)
    y = rng.integers(0, 3, (300, 50)).astype("f4")
    x = np.broadcast_to(rng.random(50).astype("f4"), y.shape)
    for symmetric in (False, True):
        c = fit(x, y, coverage=0.9, symmetric=symmetric)
        assert coverage(*c.interval(x), y).min() >= 0.9


def test_floor_lifts_the_interval_and_keeps_coverage():
    rng = np.random.default_rng(4)
    x, y = draw("zero-inflated", 300, rng)
    free, floored = fit(x, y), fit(x, y, floor=np.zeros(P))
    (low, high), (lower, upper) = free.interval(x), floored.interval(x)
    assert low.min() < 0
    np.testing.assert_array_equal(lower, low.clip(0))
    np.testing.assert_array_equal(upper, high.clip(0))
    assert (coverage(lower, upper, y) >= coverage(low, high, y)).all()
    assert (lower <= upper).all()


def test_values_that_are_not_finite_make_no_promise():
    x, y = draw("gaussian", 100, np.random.default_rng(5), p=3)
    whole = fit(x, y)
    x[3, 0], y[9, 1] = np.inf, np.nan
    for symmetric in (False, True):
        c = fit(x, y, symmetric=symmetric)
        np.testing.assert_array_equal(np.isinf(c.lower), [True, True, False])
        np.testing.assert_array_equal(np.isinf(c.upper), [True, True, False])
    lower, upper = whole.interval(x)
    assert (lower[3, 0], upper[3, 0]) == (-np.inf, np.inf)


@pytest.mark.parametrize("floor", [None, 0.0])
def test_state_round_trip(floor, tmp_path):
    from safetensors.numpy import load_file, save_file

    x, y = draw("gaussian", 100, np.random.default_rng(8), p=6)
    c = fit(x, y, coverage=0.8, floor=floor, symmetric=True)
    for one in (c, fit(x[:3], y[:3])):
        arrays, facts = one.state()
        assert all(a.dtype == np.float32 for a in arrays.values())
        save_file(arrays, tmp_path / "state.safetensors")
        facts = json.loads(json.dumps(facts))
        back = Conformal.from_state(load_file(tmp_path / "state.safetensors"), facts)
        for name, values in arrays.items():
            np.testing.assert_array_equal(getattr(back, name), values)
        assert back.state()[1] == facts
        for a, b in zip(one.interval(x), back.interval(x), strict=True):
            np.testing.assert_array_equal(a, b)


def test_refuses_what_does_not_fit():
    x, y = draw("gaussian", 50, np.random.default_rng(9), p=4)
    for asked in (0, 1, -0.5, 90, math.nan):
        with pytest.raises(ValueError, match="coverage"):
            fit(x, y, coverage=asked)
    with pytest.raises(ValueError, match="shapes"):
        fit(x, y[:, 1:])
    with pytest.raises(ValueError, match="features"):
        fit(x, y).interval(x[:, 1:])


def test_cells_that_err_more_have_wider_intervals():
    rng = np.random.default_rng(5)
    times = rng.choice([1.0, 3.0], 2_000)
    x = rng.normal(size=(2_000, 4))
    y = x + times[:, None] * rng.normal(size=x.shape)
    known, new = slice(0, 1_000), slice(1_000, None)
    held = {}
    for name, wide in (("weighted", times), ("plain", None)):
        fitted = fit(x[known], y[known], coverage=0.9, times=None if wide is None else wide[known])
        lower, upper = fitted.interval(x[new], None if wide is None else wide[new])
        inside = (lower <= y[new]) & (y[new] <= upper)
        held[name] = [inside[times[new] == t].mean() for t in (1, 3)]
    assert np.abs(np.array(held["weighted"]) - 0.9).max() < 0.03
    assert held["plain"][0] > 0.97
    assert held["plain"][1] < 0.87
