"""Features that differ between groups: Wilcoxon's test by scipy, and lists held against each other."""

import numpy as np
import pytest
from scipy import stats

from mocli.metrics.correlation import Differential, agreement, differential


@pytest.fixture
def values():
    """Feature 0 and 1 differ between the groups, 2 does not, 3 is constant, 4 not measured."""
    rng = np.random.default_rng(0)
    among = np.arange(120) % 3 == 0
    x = rng.normal(size=(120, 5)).astype(np.float32)
    x[among, 0] += 2
    x[among, 1] -= 2
    x[:, 3], x[:, 4] = 1.0, np.nan
    return x, among


def test_changes_and_p_are_those_of_scipy(values):
    x, among = values
    found = differential(x, among)
    expected = [stats.mannwhitneyu(x[among, j], x[~among, j], method="asymptotic").pvalue for j in range(3)]
    np.testing.assert_allclose(found.p[:3], expected, rtol=1e-4)
    np.testing.assert_allclose(found.change[:3], x[among, :3].mean(0) - x[~among, :3].mean(0), rtol=1e-4)
    assert found.p[3] == 1
    assert np.isnan(found.p[4])
    assert list(found.differs) == [True, True, False, False, False]


def test_lists_of_equal_length_are_compared():
    n = 40
    measured = Differential(np.where(np.arange(n) < 10, 1.0, 0.01), np.where(np.arange(n) < 10, 1e-6, 0.9))
    right = agreement(measured.change * 0.3, measured)
    assert (right.n, right.n_differ, right.n_both, right.same_sign) == (n, 10, 10, 1.0)
    assert right.pearson == pytest.approx(1)
    table = [[10, 0], [0, 30]]
    assert right.p == pytest.approx(stats.fisher_exact(table, "greater").pvalue)
    turned = agreement(-measured.change, measured)
    assert (turned.n_both, turned.same_sign) == (0, 0.0)
    elsewhere = agreement(np.where(np.arange(n) >= 30, 1.0, 0.0), measured)
    assert elsewhere.n_both == 0
    assert elsewhere.p > 0.9
    assert agreement(np.full(n, np.nan), measured).n == 0
