"""Draws from the likelihoods of measured values, element by element, for any model.

The counterparts of `mocli.nn.likelihoods`: parameters have the same meaning. Generators must be on the
device of the parameters. Counts that are seldom above zero, like most in a cell, cost one uniform number
each; only those above zero go through the inverse of the distribution function.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

Where = tuple[Tensor, ...]

SELDOM = 0.2
"""Probability of a count above zero below which zeros are decided first."""

SHORT = 100.0
"""Variance over mean, and mean, below which no tail is long to walk along."""

_HALF_STEP = 2.0**-25  # half of what tells two uniform numbers in single precision apart


def poisson(mean: Tensor, *, generator: Generator) -> Tensor:
    """Poisson counts of some means, of their shape."""

    def ratio(k: int, where: Where) -> Tensor:
        return mean[where].double() / (k + 1)

    return _counts(
        -torch.expm1(-mean),
        mean < SHORT,
        ratio,
        lambda where: torch.exp(-mean[where].double()),
        lambda where: torch.poisson(mean[where], generator=generator),
        generator,
    )


def negative_binomial(mean: Tensor, dispersion: Tensor, *, generator: Generator) -> Tensor:
    """Negative binomial counts by mean and inverse dispersion r: variance mean + mean^2 / r.

    Args:
        mean: Any shape, which is that of the result.
        dispersion: r, broadcast to it.
    """
    r = dispersion.expand_as(mean)

    def ratio(k: int, where: Where) -> Tensor:
        m, a = mean[where].double(), r[where].double()
        return (k + a) / (k + 1) * m / (a + m)

    def at_zero(where: Where) -> Tensor:
        m, a = mean[where].double(), r[where].double()
        return torch.exp(-a * torch.log1p(m / a))

    def often(where: Where) -> Tensor:
        # the rate of a Poisson distribution is gamma distributed
        rate = torch._standard_gamma(r[where].contiguous(), generator=generator)
        return torch.poisson(rate * (mean[where] / r[where]), generator=generator)

    above = -torch.expm1(-r * torch.log1p(mean / r))
    return _counts(above, mean * (1 + mean / r) < SHORT, ratio, at_zero, often, generator)


def zero_inflated(x: Tensor, logit: Tensor, *, generator: Generator) -> Tensor:
    """Set values to zero with probability sigmoid(logit)."""
    return x * (_uniform(logit, generator) >= torch.sigmoid(logit)).to(x.dtype)


def bernoulli(logit: Tensor, *, generator: Generator) -> Tensor:
    """Yes (1) with probability sigmoid(logit), else 0."""
    return (_uniform(logit, generator) < torch.sigmoid(logit)).to(logit.dtype)


def normal(mean: Tensor, log_sd: Tensor, *, generator: Generator) -> Tensor:
    """Draw normal values with standard deviation exp(log_sd), broadcast to the means."""
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + noise * torch.exp(log_sd)


def zero_inflated_log_normal(mean: Tensor, log_sd: Tensor, logit: Tensor, *, generator: Generator) -> Tensor:
    """Zero with probability sigmoid(logit), else exp of normal(mean, exp(log_sd))."""
    return zero_inflated(torch.exp(normal(mean, log_sd, generator=generator)), logit, generator=generator)


def _uniform(like: Tensor, generator: Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _counts(
    above: Tensor,
    short: Tensor,
    ratio: Callable[[int, Where], Tensor],
    at_zero: Callable[[Where], Tensor],
    often: Callable[[Where], Tensor],
    generator: Generator,
) -> Tensor:
    """Draw counts, those seldom above zero by inversion of the survival function P(X > k).

    Args:
        above: Probability of a count above zero.
        short: Whether elements have no long tail: the sum takes one round per count.
        ratio: p(k + 1) / p(k) of some elements, in double precision.
        at_zero: p(0) of some elements, in double precision.
        often: Draws the elements that are often above zero.
    """
    v = _uniform(above, generator)
    drawn = torch.zeros_like(above)
    seldom = (above < SELDOM) & short
    frequent = (~seldom).nonzero(as_tuple=True)
    if len(frequent[0]):
        drawn[frequent] = often(frequent).to(drawn.dtype)
    where = (seldom & (v < above)).nonzero(as_tuple=True)
    # never exactly 0, so that rounding of P(X > k) ends no draw at infinity
    tail = v[where].double() + _HALF_STEP
    p = at_zero(where)
    survival = 1 - p
    count = torch.zeros_like(tail)
    k, active = 0, torch.arange(len(tail), device=tail.device)
    while len(active):
        count[active] += 1
        places = tuple(i[active] for i in where)
        p = p * ratio(k, places)
        survival = survival - p
        going = tail[active] < survival
        active, p, survival = active[going], p[going], survival[going]
        k += 1
    drawn[where] = count.to(drawn.dtype)
    return drawn
