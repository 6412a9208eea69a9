"""Couplings and canonical maps against their definitions."""

import numpy as np
import pytest
import torch

from mocli.nn.transport import canonical_maps, column_correlations, cosine_cost, couple, soft_assignment


def everyone(n):
    return torch.ones(n, dtype=torch.bool)


def test_a_coupling_gives_every_cell_the_same_weight():
    torch.manual_seed(0)
    cost = cosine_cost(torch.randn(40, 6), torch.randn(30, 6))
    assert float(cost.std()) == pytest.approx(1, rel=1e-4)
    plan = couple(cost, everyone(40), everyone(30), temperature=0.3, n_iter=200)
    torch.testing.assert_close(plan.sum(1), torch.full((40,), 1 / 40), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(plan.sum(0), torch.full((30,), 1 / 30), rtol=1e-3, atol=1e-6)


def test_a_softness_near_zero_finds_the_permutation():
    torch.manual_seed(1)
    a = torch.randn(25, 8)
    order = torch.randperm(25)
    plan = couple(cosine_cost(a, a[order]), everyone(25), everyone(25), temperature=0.02, n_iter=300)
    assert torch.equal(plan.argmax(0), order)


def test_cells_without_a_direction_take_no_part():
    torch.manual_seed(2)
    a, b = torch.randn(10, 4), torch.randn(9, 4)
    a[3] = 0
    plan = couple(cosine_cost(a, b), a.any(1), b.any(1), temperature=0.2, n_iter=50)
    assert float(plan[3].sum()) == 0
    nothing = couple(cosine_cost(a * 0, b), (a * 0).any(1), b.any(1), temperature=0.2, n_iter=50)
    assert torch.isfinite(nothing).all()
    assert float(nothing.sum()) == 0


def test_cells_without_a_counterpart_are_left_out():
    """Five directions against four of them: a fifth of one side has no partner."""
    torch.manual_seed(3)
    corners = torch.eye(5)
    a = corners.repeat(20, 1) + 0.1 * torch.randn(100, 5)
    b = corners[:4].repeat(20, 1) + 0.1 * torch.randn(80, 5)
    cost, alone = cosine_cost(a, b), torch.arange(100) % 5 == 4
    balanced = couple(cost, everyone(100), everyone(80), temperature=0.2, n_iter=200)
    partial = couple(cost, everyone(100), everyone(80), temperature=0.2, n_iter=200, unmatched=0.25)
    assert float(balanced[alone].sum()) == pytest.approx(0.2, abs=0.01)
    assert float(partial[alone].sum()) < 0.1
    # as much of either side as asked for goes to the dummies
    assert float(partial.sum()) == pytest.approx(1, rel=1e-5)


def test_with_known_pairs_the_maps_are_canonical_correlation():
    from sklearn.cross_decomposition import CCA

    rng = np.random.default_rng(0)
    shared = rng.normal(size=(300, 2))
    a = np.hstack([shared + 0.3 * rng.normal(size=(300, 2)), rng.normal(size=(300, 3))])
    b = np.hstack([rng.normal(size=(300, 2)), shared + 0.3 * rng.normal(size=(300, 2))])
    plan = torch.eye(300) / 300
    maps, shifts, r = canonical_maps(
        [torch.from_numpy(a).float(), torch.from_numpy(b).float()], {(0, 1): plan}, 2, ridge=1e-6
    )
    u, v = CCA(2).fit_transform(a, b)
    expected = [abs(np.corrcoef(u[:, k], v[:, k])[0, 1]) for k in range(2)]
    np.testing.assert_allclose(r, sorted(expected, reverse=True), atol=2e-3)
    za, zb = (torch.from_numpy(x).float() @ w - s for x, w, s in zip((a, b), maps, shifts, strict=True))
    torch.testing.assert_close(column_correlations(za, zb), r, atol=2e-3, rtol=0)
    # of variance r^2, around 0
    torch.testing.assert_close(za.std(0, correction=0), r, atol=2e-3, rtol=0)
    assert za.mean(0).abs().max() < 1e-5


def test_a_chain_of_three_brings_its_ends_together():
    torch.manual_seed(4)
    z = torch.randn(200, 3)
    sets = [z @ torch.randn(3, 6) + 0.05 * torch.randn(200, 6) for _ in range(3)]
    plan = torch.eye(200) / 200
    maps, shifts, r = canonical_maps(sets, {(0, 1): plan, (1, 2): plan}, 3, ridge=0.001)
    first, _, last = (x @ w - s for x, w, s in zip(sets, maps, shifts, strict=True))
    assert column_correlations(first, last).min() > 0.95
    assert r.shape == (3,)


def test_features_without_variance_leave_the_maps_finite():
    a, b = torch.zeros(12, 4), torch.randn(12, 3)
    maps, shifts, r = canonical_maps([a, b], {(0, 1): torch.full((12, 12), 1 / 144)}, 5, ridge=0.01)
    assert all(torch.isfinite(x).all() for x in (*maps, *shifts, r))
    assert r.shape == (3,)


def test_soft_assignment_is_balanced_and_prefers_the_near():
    torch.manual_seed(0)
    a = torch.randn(30, 6, dtype=torch.float64)
    b = a[torch.randperm(30)] + 0.1 * torch.randn(30, 6, dtype=torch.float64)
    plan = soft_assignment(a, b, 0.2, n_iter=500)
    assert plan.sum().item() == pytest.approx(1)
    np.testing.assert_allclose(plan.sum(0), 1 / 30, rtol=1e-3)
    np.testing.assert_allclose(plan.sum(1), 1 / 30, rtol=1e-3)
    nearest = (torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T).argmax(1)
    assert (plan.argmax(1) == nearest).all()


def test_soft_assignment_equals_a_linear_programme_when_it_is_sharp():
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    torch.manual_seed(1)
    a, b = torch.randn(12, 5, dtype=torch.float64), torch.randn(12, 5, dtype=torch.float64)
    plan = soft_assignment(a, b, 0.02, n_iter=5000)
    rows, columns = linear_sum_assignment(cdist(a.numpy(), b.numpy(), "cosine"))
    assert (plan.argmax(1).numpy()[rows] == columns).all()


def test_soft_assignment_leaves_zero_rows_out_and_survives_nothing():
    a, b = torch.randn(6, 4), torch.randn(5, 4)
    a[2] = 0
    b[1] = 0
    plan = soft_assignment(a, b, 0.1)
    assert plan[2].sum() == 0
    assert plan[:, 1].sum() == 0
    assert plan.sum().item() == pytest.approx(1, rel=1e-4)
    assert soft_assignment(torch.zeros(3, 4), b, 0.1).sum() == 0
    same = soft_assignment(torch.ones(3, 4), torch.ones(2, 4), 0.1)
    np.testing.assert_allclose(same, 1 / 6, rtol=1e-4)
