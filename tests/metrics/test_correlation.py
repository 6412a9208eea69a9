"""Correlations of sparse columns against scipy on dense ones; nulls by hand and by brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from mocli.metrics.correlation import (
    OwnNull,
    draw_panel,
    empirical_p,
    false_discovery_rate,
    outlier_p,
    rank_dense,
    rank_sparse,
    unit_dense,
    unit_sparse,
)


def random_sparse(rng, n, m, density, *, negative=False, counts=False):
    dense = rng.poisson(1.5, size=(n, m)) + 1.0 if counts else rng.exponential(size=(n, m))
    dense *= rng.random((n, m)) < density
    return dense * rng.choice([-1, 1], size=(n, m)) if negative else dense


@pytest.mark.parametrize("density", [0.02, 0.3, 1.0])
@pytest.mark.parametrize(("negative", "counts"), [(False, True), (False, False), (True, True)])
def test_pearson_and_spearman_equal_scipy(density, negative, counts):
    rng = np.random.default_rng(0)
    x = random_sparse(rng, 120, 7, density, negative=negative, counts=counts)
    x[0] = 1.0  # none is constant
    y = np.round(rng.normal(size=(120, 5)), 1)  # with ties
    columns = sparse.csc_matrix(x)
    r = unit_sparse(columns).times(unit_dense(y))
    rho = unit_sparse(rank_sparse(columns)).times(unit_dense(rank_dense(y)))
    for i in range(7):
        for j in range(5):
            assert r[i, j] == pytest.approx(stats.pearsonr(x[:, i], y[:, j]).statistic, abs=1e-10)
            assert rho[i, j] == pytest.approx(stats.spearmanr(x[:, i], y[:, j]).statistic, abs=1e-10)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-2, 3), min_size=1, max_size=12))
def test_ranks_of_one_column(values):
    x = np.asarray(values, dtype=float)[:, None]
    ranks = rank_sparse(sparse.csc_matrix(x)) @ np.ones(1)
    expected = stats.rankdata(x[:, 0])
    zero = (x[:, 0] < 0).sum() + ((x == 0).sum() + 1) / 2
    assert ranks == pytest.approx(np.where(x[:, 0] == 0, 0.0, expected - zero))


def test_stored_zeros_and_repeated_entries_change_nothing():
    x = sparse.coo_matrix(([1.0, 2.0, 0.0, 4.0, 1.0], ([0, 0, 1, 2, 3], [0, 0, 0, 0, 0])), shape=(5, 1))
    twice = sparse.csr_matrix((x.data, (x.row, x.col)), shape=x.shape)
    messy = sparse.csc_matrix((x.data, x.row, [0, 5]), shape=(5, 1))
    y = unit_dense(np.arange(5.0)[:, None] ** 2)
    for prepare in (lambda m: m, rank_sparse):
        clean = unit_sparse(prepare(twice.tocsc())).times(y)
        assert unit_sparse(prepare(messy)).times(y) == pytest.approx(clean)
    assert messy.data.tolist() == [1.0, 2.0, 0.0, 4.0, 1.0]


def test_a_constant_side_has_no_correlation():
    x = sparse.csc_matrix(np.array([[0.0, 2.0, 1.0], [0.0, 2.0, 0.0], [0.0, 2.0, 3.0]]))
    y = unit_dense(np.array([[1.0, 0.1], [2.0, 0.1], [4.0, 0.1]], dtype=np.float32))
    r = unit_sparse(x).times(y)
    assert np.isfinite(r).tolist() == [[False, False], [False, False], [True, False]]


def test_empirical_p_by_hand():
    null = np.array([-3.0, 1.0, 2.0, 0.5], dtype=np.float32)
    p = empirical_p(null, np.array([2.5, -2.0, 0.0, 4.0, np.nan]))
    assert p[:4].tolist() == [2 / 5, 3 / 5, 1.0, 1 / 5]
    assert np.isnan(p[4])
    assert np.isnan(empirical_p(np.zeros(0, np.float32), np.ones(2))).all()


def test_outliers_of_one_normal_law_have_uniform_p():
    r = np.random.default_rng(4).normal(size=(3000, 15))
    z = (r[:, 0] - r[:, 1:].mean(axis=1)) / r[:, 1:].std(axis=1, ddof=1)
    assert stats.kstest(outlier_p(z, np.full(3000, 14)), "uniform").pvalue > 0.01
    # the same as a t test of one value against the others
    expected = stats.ttest_ind(r[0, :1], r[0, 1:]).pvalue
    assert outlier_p(z[:1], np.array([14]))[0] == pytest.approx(expected)


def test_fdr_equals_scipy_and_counts_the_pairs_left_out():
    p = np.random.default_rng(1).random(50) ** 2
    assert false_discovery_rate(p) == pytest.approx(stats.false_discovery_control(p))
    holes = np.concatenate([p, [np.nan]])
    assert false_discovery_rate(holes)[:50] == pytest.approx(stats.false_discovery_control(p))
    padded = stats.false_discovery_control(np.concatenate([p, np.ones(450)]))[:50]
    assert false_discovery_rate(p, 500) == pytest.approx(padded)
    assert np.isnan(false_discovery_rate(np.full(3, np.nan))).all()


def test_a_panel_is_drawn_from_every_decile_of_the_rate():
    rng = np.random.default_rng(2)
    rate = rng.random(2000)
    rate[:100] = 0.0
    eligible = rng.random(2000) < 0.8
    panel = draw_panel(rate, eligible, 30, rng)
    assert panel.n_bins == 10
    assert np.bincount(panel.bins[panel.features]).tolist() == [30] * 10
    assert eligible[panel.features].all()
    assert (rate[panel.features] > 0).all()
    borders = np.quantile(rate[eligible & (rate > 0)], np.arange(1, 10) / 10)
    assert (panel.bins == np.searchsorted(borders, rate)).mean() > 0.99


def test_one_rate_is_one_bin():
    panel = draw_panel(np.ones(300), np.ones(300, bool), 100, np.random.default_rng(0))
    assert (panel.n_bins, len(panel.features)) == (1, 100)
    none = draw_panel(np.zeros(5), np.ones(5, bool), 100, np.random.default_rng(0))
    assert (none.n_bins, len(none.features)) == (1, 0)


def test_own_null_against_brute_force():
    rng = np.random.default_rng(3)
    r, bins, usable = rng.normal(size=60), rng.integers(0, 3, 60), rng.random(60) < 0.8
    r[5] = np.nan
    null = OwnNull(r, bins, usable, 3)
    known = usable & np.isfinite(r)
    values, of_bin, member = rng.normal(size=9), np.arange(9) % 3, np.full(9, -1)
    member[0] = np.flatnonzero(known & (bins == 0))[0]
    found, count = null.standardise(values, of_bin, member)
    for z, n, value, k, m in zip(found, count, values, of_bin, member, strict=True):
        others = r[known & (bins == k) & (np.arange(60) != m)]
        assert z == pytest.approx((value - others.mean()) / others.std(ddof=1))
        assert n == len(others)
    z, of_bin = null.members()
    for one, place in zip(z, np.flatnonzero(known), strict=True):
        others = r[known & (bins == bins[place]) & (np.arange(60) != place)]
        assert one == pytest.approx((r[place] - others.mean()) / others.std(ddof=1))


def test_too_few_matched_features_give_nothing():
    null = OwnNull(np.arange(9.0), np.zeros(9, int), np.ones(9, bool), 1)
    assert np.isnan(null.standardise(np.ones(1), np.zeros(1, int), np.full(1, -1))[0]).all()
    assert len(null.members()[0]) == 0
    empty = OwnNull(np.zeros(0), np.zeros(0, int), np.zeros(0, bool), 1)
    assert np.isnan(empty.standardise(np.ones(1), np.zeros(1, int), np.full(1, -1))[0]).all()
