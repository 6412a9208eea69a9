"""The mixture and its priors against scipy and torch.distributions."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import (
    Categorical,
    Dirichlet,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from mocli.nn.mixture import GaussianMixture, soft_ball, start_spread, uniform_in_ball


def mixture(k=5, d=3, **options):
    torch.manual_seed(0)
    made = GaussianMixture(k, d, **({"spread": 0.3} | options)).double()
    with torch.no_grad():
        made.log_precision.add_(torch.randn_like(made.log_precision))
        made.logit.copy_(torch.randn(k))
    return made


@pytest.mark.parametrize("isotropic", [False, True])
def test_densities_and_their_gradients_are_those_of_torch_distributions(isotropic):
    made = mixture(isotropic=isotropic)
    z = torch.randn(11, 3, dtype=torch.float64, requires_grad=True)
    sd = torch.exp(-0.5 * made.log_precision).expand(-1, 3)
    other = MixtureSameFamily(Categorical(logits=made.logit), Independent(Normal(made.mean, sd), 1))
    torch.testing.assert_close(made.log_density(z), other.log_prob(z))
    ours, theirs = (
        torch.autograd.grad(f(z).sum(), [z, made.mean, made.log_precision, made.logit])
        for f in (made.log_density, other.log_prob)
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_a_known_component_counts_alone_and_a_missing_one_as_the_mixture():
    made = mixture()
    z, known = torch.randn(4, 3, dtype=torch.float64), torch.tensor([2, -1, 0, 4])
    found = made.log_density(z, known)
    for i, k in enumerate(known.tolist()):
        if k < 0:
            assert found[i] == made.log_density(z)[i]
            continue
        variance = torch.diag(torch.exp(-made.log_precision[k]))
        alone = MultivariateNormal(made.mean[k], variance).log_prob(z[i])
        torch.testing.assert_close(found[i], alone + made.log_weights[k])


def test_posterior_probabilities_follow_bayes():
    made = mixture()
    z = torch.randn(6, 3, dtype=torch.float64)
    joint = np.stack(
        [
            stats.multivariate_normal(
                made.mean[k].detach().numpy(), np.diag(np.exp(-made.log_precision[k].detach().numpy()))
            ).pdf(z.numpy())
            * float(made.log_weights[k].detach().exp())
            for k in range(5)
        ],
        1,
    )
    np.testing.assert_allclose(made.posterior(z).detach(), joint / joint.sum(1, keepdims=True), rtol=1e-9)


def test_the_prior_is_soft_ball_times_normal_times_dirichlet():
    made = mixture(concentration=2.0, radius=1.5, hardness=7.0)
    precision = Normal(-2 * math.log(0.3), 1.0).log_prob(made.log_precision).sum()
    weights = Dirichlet(torch.full((5,), 2.0, dtype=torch.float64)).log_prob(made.log_weights.exp())
    norms = made.mean.norm(dim=1)
    volume = math.pi**1.5 * 1.5**3 / math.gamma(2.5)
    ball = (-math.log(volume) - torch.log1p(torch.exp(7.0 * (norms / 1.5 - 1)))).sum()
    torch.testing.assert_close(made.log_prior(), precision + weights + ball)


def test_the_soft_ball_is_nearly_a_density_and_flat_inside():
    def density(r):
        x = torch.tensor([[r, 0.0]], dtype=torch.float64)
        return 2 * math.pi * r * float(soft_ball(x, 2.0, 30.0).exp())

    assert integrate.quad(density, 0, 6)[0] == pytest.approx(1, abs=0.02)
    centre = torch.zeros(1, 2, requires_grad=True)
    soft_ball(centre, 2.0, 5.0).sum().backward()
    assert torch.equal(centre.grad, torch.zeros(1, 2))


def test_points_fill_the_ball_evenly():
    torch.manual_seed(1)
    radii = uniform_in_ball(4000, 3, 2.0).norm(dim=1)
    assert radii.max() <= 2
    assert stats.kstest((radii / 2) ** 3, "uniform").pvalue > 0.01


@pytest.mark.parametrize(
    ("k", "expected"), [(1, 0.4), (5, 0.08), (22, 0.4 / 22), (100, 0.004), (10_000, 1e-3)]
)
def test_many_components_start_with_a_spread_above_zero(k, expected):
    assert start_spread(k) == pytest.approx(expected)
    assert start_spread(k, share=50) <= 0.5
    if k <= 100:
        made = GaussianMixture(k, 4, spread=start_spread(k))
        assert torch.isfinite(made.log_density(torch.zeros(2, 4))).all()
        assert torch.isfinite(made.log_prior())


@pytest.mark.parametrize("isotropic", [False, True])
def test_draws_have_the_moments_of_their_component(isotropic):
    torch.manual_seed(0)
    mixture = GaussianMixture(3, 4, spread=0.5, isotropic=isotropic)
    with torch.no_grad():
        mixture.log_precision.add_(torch.randn_like(mixture.log_precision))
        z = mixture.draw(torch.tensor([2, 0]).repeat(20_000), torch.Generator().manual_seed(1))
    for k, drawn in ((2, z[::2]), (0, z[1::2])):
        sd = torch.exp(-0.5 * mixture.log_precision[k]).expand(4).detach()
        assert ((drawn.mean(0) - mixture.mean[k]).abs() < 5 * sd / 20_000**0.5).all()
        torch.testing.assert_close(drawn.std(0), sd, rtol=0.03, atol=0)
