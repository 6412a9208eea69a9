"""Draws against the distributions of scipy: moments, Kolmogorov-Smirnov, chi-squared."""

import numpy as np
import pytest
import torch
from scipy import stats

from mocli.nn import sampling

N = 40_000
# seldom above zero, often, with a long tail, in between
CASES = [(0.01, 1.0), (0.2, 0.3), (3.0, 2.0), (400.0, 5.0), (5.0, 0.02), (0.3, 1e4)]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def full(value):
    return torch.full((N,), float(value))


def fits(drawn, distribution):
    """Chi-squared of the counts seen against those expected, tails joined."""
    drawn = np.asarray(drawn)
    edges = np.unique(distribution.ppf(np.linspace(0.0005, 0.9995, 40)))
    edges = np.concatenate([[-np.inf], edges, [np.inf]])
    share = np.diff(distribution.cdf(edges))
    seen = np.histogram(drawn, bins=np.concatenate([edges[:1], edges[1:-1] + 0.5, edges[-1:]]))[0]
    kept = share * len(drawn) > 5
    share, seen = share[kept], seen[kept]
    if len(share) < 2:
        return 1.0
    return stats.chisquare(seen, share / share.sum() * seen.sum()).pvalue


@pytest.mark.parametrize(("mean", "r"), CASES)
def test_negative_binomial_is_scipy_s(mean, r):
    drawn = sampling.negative_binomial(full(mean), torch.tensor(r), generator=gen()).numpy()
    expected = stats.nbinom(r, r / (r + mean))
    assert np.array_equal(drawn, np.rint(drawn))
    assert drawn.min() >= 0
    assert drawn.mean() == pytest.approx(mean, abs=5 * expected.std() / np.sqrt(N))
    assert fits(drawn, expected) > 1e-3


@pytest.mark.parametrize("mean", [0.003, 0.15, 1.0, 50.0, 3000.0])
def test_poisson_is_scipy_s(mean):
    drawn = sampling.poisson(full(mean), generator=gen(1)).numpy()
    assert drawn.mean() == pytest.approx(mean, abs=5 * np.sqrt(mean / N))
    assert fits(drawn, stats.poisson(mean)) > 1e-3


def test_a_distribution_over_mixed_means_has_all_of_their_moments():
    rng = np.random.default_rng(0)
    mean = rng.gamma(0.3, 2.0, size=(3000, 40)).astype("f4")
    r = rng.gamma(1.0, 2.0, size=40).astype("f4") + 0.05
    drawn = sampling.negative_binomial(torch.tensor(mean), torch.tensor(r), generator=gen()).numpy()
    variance = (mean + mean**2 / r).sum(0)
    z = (drawn.sum(0) - mean.sum(0)) / np.sqrt(variance)
    assert np.abs(z).max() < 4.5
    zeros = ((r / (r + mean)) ** r).mean(0)
    assert np.abs((drawn == 0).mean(0) - zeros).max() < 0.04


def test_normal_and_log_normal_are_scipy_s():
    drawn = sampling.normal(full(2.0), torch.tensor(np.log(0.5)), generator=gen())
    assert stats.kstest(drawn.numpy(), stats.norm(2, 0.5).cdf).pvalue > 1e-3
    logit = full(np.log(0.3 / 0.7))
    drawn = sampling.zero_inflated_log_normal(full(1.0), torch.tensor(-0.5), logit, generator=gen()).numpy()
    assert (drawn == 0).mean() == pytest.approx(0.3, abs=0.01)
    shape = stats.lognorm(np.exp(-0.5), scale=np.e)
    assert stats.kstest(drawn[drawn > 0], shape.cdf).pvalue > 1e-3


def test_extra_zeros_and_yes_or_no_have_their_shares():
    logit = full(-1.0)
    share = 1 / (1 + np.e)
    x = sampling.zero_inflated(torch.ones(N), logit, generator=gen())
    assert float(x.mean()) == pytest.approx(1 - share, abs=0.01)
    assert float(sampling.bernoulli(logit, generator=gen()).mean()) == pytest.approx(share, abs=0.01)


def test_the_generator_decides_every_draw():
    mean, r = torch.rand(50, 30) * 3, torch.rand(30) + 0.1
    first, again = (sampling.negative_binomial(mean, r, generator=gen(7)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, sampling.negative_binomial(mean, r, generator=gen(8)))
    assert first.shape == mean.shape


def test_a_mean_of_zero_gives_zero():
    assert not sampling.poisson(torch.zeros(9), generator=gen()).any()
    assert not sampling.negative_binomial(torch.zeros(9), torch.ones(1), generator=gen()).any()
