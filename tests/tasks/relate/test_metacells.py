"""Genes and peaks over metacells: planted pairs, backgrounds, p of pairs that are chance."""

import numpy as np
import pytest
from scipy import sparse

from mocli.tasks.relate.metacells import Metacells, score_pairs
from mocli.tasks.relate.scope import FeaturePairs

N, GENES, PEAKS, CHROMS = 400, 60, 180, 6


@pytest.fixture(scope="module")
def cells():
    """Six kinds of cells; every gene has three peaks on its chromosome, of which the first follows it."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 6, N)
    gene = rng.gamma(1.0, 1.0, (6, GENES))
    peak = rng.gamma(1.0, 0.3, (6, PEAKS))
    peak[:, ::3] = 0.3 * gene / gene.mean(0)
    x = sparse.csr_matrix(rng.poisson(gene[kind]).astype(np.float32))
    y = sparse.csr_matrix(rng.poisson(peak[kind]).astype(np.float32))
    home = np.repeat(np.arange(GENES) % CHROMS, 3)
    first = np.repeat(np.arange(GENES), 3)
    return x, y, FeaturePairs(first, np.arange(PEAKS), home=home), np.arange(GENES) % CHROMS


def test_planted_pairs_come_first_and_chance_pairs_are_by_chance(cells):
    scores = score_pairs(*cells)
    planted = np.arange(PEAKS) % 3 == 0
    assert np.median(scores.z[planted]) > 1.2
    assert abs(np.median(scores.z[~planted])) < 0.5
    assert (scores.p[planted] < 0.05).mean() > 0.4
    assert (scores.p[~planted] < 0.05).mean() < 0.12
    x, y = cells[0].toarray(), cells[1].toarray()
    single = np.array([np.corrcoef(x[:, k // 3], y[:, k])[0, 1] for k in range(PEAKS)])
    assert np.median(scores.correlation[planted]) > np.median(single[planted]) + 0.2


def test_metacells_are_means_over_cells_of_a_kind(cells):
    x = cells[0]
    weights = Metacells.of(sparse.csr_matrix(np.log1p(x.toarray())), seed=0).weights
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    assert (weights.diagonal() > 0).all()
    unit = Metacells(weights).average(x)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=0), 1, rtol=1e-4)
    by_hand = np.sqrt(weights.toarray() @ x.toarray())
    expected = np.corrcoef(by_hand.T)
    np.testing.assert_allclose(unit.T @ unit, expected, atol=1e-4)


def test_the_same_seed_gives_the_same_bytes_and_order_does_not_matter(cells):
    x, y, pairs, home = cells
    one, two = score_pairs(x, y, pairs, home, seed=3), score_pairs(x, y, pairs, home, seed=3)
    np.testing.assert_array_equal(one.z, two.z)
    np.testing.assert_array_equal(one.p, two.p)


def test_a_feature_that_is_nowhere_seen_has_no_score(cells):
    x, y, pairs, home = cells
    silent = y.copy().tolil()
    silent[:, 5] = 0
    scores = score_pairs(x, silent.tocsr(), pairs, home)
    assert np.isnan(scores.z[5])
    assert np.isnan(scores.p[5])
    assert np.isfinite(np.delete(scores.z, 5)).all()
