"""Log-densities of measured values, element by element, for any model.

Every function returns the logarithm of a density or a probability, of the shape of its first argument, and
is differentiable in its parameters. Training on counts should use `mocli.nn.count_loss`, which gives the
same numbers at a fraction of the cost.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def poisson(x: Tensor, mean: Tensor) -> Tensor:
    """Poisson counts: x log(mean) - mean - log(x!)."""
    return torch.xlogy(x, mean) - mean - torch.lgamma(x + 1)


def negative_binomial(x: Tensor, mean: Tensor, dispersion: Tensor) -> Tensor:
    """Negative binomial by mean and inverse dispersion r: variance mean + mean^2 / r.

    In scipy this is `nbinom(n=r, p=r / (r + mean))`.
    """
    log_total = torch.log(dispersion + mean)
    return (
        torch.lgamma(x + dispersion)
        - torch.lgamma(dispersion)
        - torch.lgamma(x + 1)
        + dispersion * (torch.log(dispersion) - log_total)
        + torch.xlogy(x, mean)
        - x * log_total
    )


def zero_inflated(x: Tensor, log_density: Tensor, log_density_zero: Tensor, logit: Tensor) -> Tensor:
    """Give counts extra zeros: with probability sigmoid(logit) the count is zero.

    `log_density`, `log_density_zero`: log-density of the distribution without the extra zeros, at `x` and at
    zero.
    """
    log_kept = F.logsigmoid(-logit)
    return torch.where(
        x == 0, torch.logaddexp(F.logsigmoid(logit), log_kept + log_density_zero), log_kept + log_density
    )


def normal(x: Tensor, mean: Tensor, log_sd: Tensor) -> Tensor:
    """Log-density of a normal with standard deviation exp(log_sd)."""
    return -0.5 * ((x - mean) * torch.exp(-log_sd)).square() - log_sd - _HALF_LOG_2PI


def bernoulli(x: Tensor, logit: Tensor) -> Tensor:
    """Yes (1) or no (0) with probability sigmoid(logit)."""
    return x * logit - F.softplus(logit)


def zero_inflated_log_normal(x: Tensor, mean: Tensor, log_sd: Tensor, logit: Tensor) -> Tensor:
    """Zero with probability sigmoid(logit), else log x is normal(mean, exp(log_sd)); x >= 0.

    A density over x > 0 beside a probability at 0: together they integrate to 1.
    """
    log_x = torch.log(torch.where(x > 0, x, torch.ones_like(x)))
    positive = F.logsigmoid(-logit) + normal(log_x, mean, log_sd) - log_x
    return torch.where(x > 0, positive, F.logsigmoid(logit))
