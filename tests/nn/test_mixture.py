"""Experts, divergences and kernels against closed forms and brute force."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from mocli.nn.mixture import (
    BANDWIDTHS,
    group_jeffreys,
    group_mmd,
    jeffreys,
    kl_to_prior,
    mean_of_experts,
    product_of_experts,
)

torch.manual_seed(0)
M, B, D = 3, 6, 4
MEANS, LOGVAR = torch.randn(M, B, D, dtype=torch.float64), torch.randn(M, B, D, dtype=torch.float64)
PRESENT = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 0, 0], [1, 0, 0, 1, 1, 0]], dtype=torch.bool)


def test_product_is_the_normalised_product_of_densities():
    mean, log_var = product_of_experts(MEANS, LOGVAR, PRESENT)
    grid = torch.linspace(-40, 40, 160_001, dtype=torch.float64)
    for cell in range(B):
        log_density = Normal(0.0, 1.0).log_prob(grid)
        for m in np.flatnonzero(PRESENT[:, cell]):
            log_density = log_density + Normal(MEANS[m, cell, 0], (LOGVAR[m, cell, 0] / 2).exp()).log_prob(
                grid
            )
        density = torch.softmax(log_density, 0)
        expected = (density * grid).sum()
        assert mean[cell, 0] == pytest.approx(float(expected), abs=1e-9)
        variance = (density * (grid - expected) ** 2).sum()
        assert float(log_var[cell, 0].exp()) == pytest.approx(float(variance), rel=1e-6)
    assert torch.equal(mean[5], torch.zeros(D, dtype=torch.float64))
    assert torch.equal(log_var[5], torch.zeros(D, dtype=torch.float64))


@pytest.mark.parametrize("combine", [product_of_experts, mean_of_experts])
def test_an_absent_expert_has_no_effect_and_no_gradient(combine):
    other = MEANS + ~PRESENT.unsqueeze(-1) * 7
    means = other.clone().requires_grad_()
    mean, log_var = combine(means, LOGVAR + ~PRESENT.unsqueeze(-1) * 3, PRESENT)
    for found, expected in zip((mean, log_var), combine(MEANS, LOGVAR, PRESENT), strict=True):
        torch.testing.assert_close(found, expected)
    mean.sum().backward()
    assert (means.grad[~PRESENT] == 0).all()


def test_mixture_equals_the_moments_of_an_average_of_draws():
    mean, log_var = mean_of_experts(MEANS, LOGVAR, PRESENT)
    for cell in range(B - 1):
        which = np.flatnonzero(PRESENT[:, cell])
        torch.testing.assert_close(mean[cell], MEANS[which, cell].mean(0))
        torch.testing.assert_close(log_var[cell].exp(), LOGVAR[which, cell].exp().sum(0) / len(which) ** 2)
    assert torch.equal(mean[5], torch.zeros(D, dtype=torch.float64))
    assert torch.equal(log_var[5], torch.zeros(D, dtype=torch.float64))


def test_divergences_equal_torch_s():
    (a, b), (va, vb) = MEANS[:2], LOGVAR[:2]
    p, q = Normal(a, (va / 2).exp()), Normal(b, (vb / 2).exp())
    torch.testing.assert_close(kl_to_prior(a, va), kl_divergence(p, Normal(0.0, 1.0)).sum(1))
    torch.testing.assert_close(jeffreys(a, va, b, vb), (kl_divergence(p, q) + kl_divergence(q, p)).sum(1))


def brute_mmd(x, y):
    def kernel(a, b):
        square = ((a[:, None] - b[None]) ** 2).sum(2)
        return np.mean([np.exp(-g * square) for g in BANDWIDTHS], axis=0).mean()

    return kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)


def test_mmd_equals_brute_force_over_pairs_of_groups():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(40, 3))
    group = rng.integers(-1, 4, 40)
    group[group == 3] = np.r_[3, np.full((group == 3).sum() - 1, 0)]  # a group of one takes no part
    expected = sum(brute_mmd(z[group == a], z[group == b]) for a, b in combinations(range(3), 2))
    found = group_mmd(torch.tensor(z), torch.tensor(group), 5)
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_mmd_of_equal_samples_is_nothing_and_falls_by_descent():
    z = torch.randn(30, 4)
    group = torch.arange(2).repeat_interleave(30)
    assert abs(float(group_mmd(torch.cat([z, z]), group, 2))) < 1e-6
    other = (torch.randn(30, 4) + 2).requires_grad_()
    first = group_mmd(torch.cat([z, other]), group, 2).detach()
    optimizer = torch.optim.Adam([other], lr=0.05)
    for _ in range(80):
        optimizer.zero_grad()
        group_mmd(torch.cat([z, other]), group, 2).backward()
        optimizer.step()
    assert torch.isfinite(other).all()
    assert float(group_mmd(torch.cat([z, other]), group, 2).detach()) < 0.5 * float(first)


def test_jeffreys_between_groups_takes_unequal_sizes():
    mean, log_var = torch.randn(30, 2, dtype=torch.float64), torch.randn(30, 2, dtype=torch.float64)
    group = torch.tensor([0] * 9 + [1] * 20 + [-1])
    moments = []
    for g in (0, 1):
        m, v = mean[group == g], log_var[group == g].exp()
        moments.append((m.mean(0), v.mean(0) + m.var(0, correction=0)))
    (a, va), (b, vb) = moments
    expected = jeffreys(a, va.log(), b, vb.log())
    torch.testing.assert_close(group_jeffreys(mean, log_var, group, 3), expected)
    same = torch.cat([mean[:9], mean[:9]]), torch.cat([log_var[:9], log_var[:9]])
    assert abs(float(group_jeffreys(*same, torch.arange(2).repeat_interleave(9), 2))) < 1e-9
