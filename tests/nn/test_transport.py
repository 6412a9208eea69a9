"""Couplings against their definition."""

import numpy as np
import pytest
import torch

from mocli.nn.alignment import cosine_cost, couple, soft_assignment


def everyone(n):
    return torch.ones(n, dtype=torch.bool)


def test_a_coupling_gives_every_cell_the_same_weight():
    torch.manual_seed(0)
    cost = cosine_cost(torch.randn(40, 6), torch.randn(30, 6))
    assert float(cost.std()) == pytest.approx(1, rel=1e-4)
    plan = couple(cost, everyone(40), everyone(30), temperature=0.3, n_iter=200)
    torch.testing.assert_close(plan.sum(1), torch.full((40,), 1 / 40), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(plan.sum(0), torch.full((30,), 1 / 30), rtol=1e-3, atol=1e-6)


def test_rows_near_the_middle_say_less_of_their_partners_when_damped():
    """A cosine takes a length of 0.1 for as sure as one of 1."""
    a, b = torch.tensor([[1.0, 0.0], [0.1, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    sure, unsure = (cosine_cost(a, b)[i].diff().abs() for i in (0, 1))
    torch.testing.assert_close(sure, unsure)
    sure, unsure = (cosine_cost(a, b, damping=1)[i].diff().abs() for i in (0, 1))
    assert float(unsure) < 0.3 * float(sure)
    assert torch.isfinite(cosine_cost(a * 0, b, damping=1)).all()


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


@pytest.mark.parametrize("evenness", [0.5, 0.8])
def test_an_uneven_coupling_minimises_cost_and_what_its_sums_are_off(evenness):
    """Cost + t KL(P | a b') + r (KL(P 1 | a) + KL(P' 1 | b)), where r / (r + t) is the evenness."""
    torch.manual_seed(4)
    cost = torch.rand(7, 5, dtype=torch.float64)
    temperature, a, b = 0.3, torch.full((7,), 1 / 7).double(), torch.full((5,), 1 / 5).double()
    strength = temperature * evenness / (1 - evenness)
    free = torch.zeros(7, 5, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.LBFGS(
        [free], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def divergence(p, q):
        return (p * (p / q).log() - p + q).sum()

    def objective():
        plan = free.exp()
        loss = (plan * cost).sum() + temperature * divergence(plan, a[:, None] * b)
        loss = loss + strength * (divergence(plan.sum(1), a) + divergence(plan.sum(0), b))
        descent.zero_grad()
        loss.backward()
        return loss

    for _ in range(5):
        descent.step(objective)
    best = free.detach().exp()
    plan = couple(cost, everyone(7), everyone(5), temperature=temperature, n_iter=500, evenness=evenness)
    torch.testing.assert_close(plan, best / best.sum(), rtol=1e-4, atol=1e-7)


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
