"""Gaussian posteriors from several experts, and distances between distributions of latents.

All Gaussians are diagonal and given by mean and log variance, `(B, d)`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mocli.nn.losses import squared_distances

BANDWIDTHS = (
    *(1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0),
    *(100.0, 1e3, 1e4, 1e5, 1e6),
)
"""Gammas of the Gaussian kernels that are averaged (Multigrate's own list)."""


def product_of_experts(means: Tensor, log_variances: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Precision-weighted mean of the experts that are present and of the prior N(0, 1).

    Args:
        means, log_variances: `(M, B, d)`; values of an absent expert do not matter, as long as they are
            finite.
        present: `(M, B)` boolean or 0 and 1. A cell without any expert gets the prior.

    Returns:
        Mean and log variance, `(B, d)` (Litinetskaya et al., Methods: 1/s^2 = 1 + sum_i 1/s_i^2).
    """
    precision = torch.exp(-log_variances) * present.to(means.dtype).unsqueeze(-1)
    total = 1 + precision.sum(0)
    return (precision * means).sum(0) / total, -torch.log(total)


def mean_of_experts(means: Tensor, log_variances: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Gaussian of the average of independent draws from the experts that are present ("mixture").

    Parameters are those of `product_of_experts`: mean sum_i w_i m_i and variance sum_i w_i^2 s_i^2
    with equal weights. A cell without any expert gets the prior N(0, 1).
    """
    weight = present.to(means.dtype).unsqueeze(-1)
    n = weight.sum(0)
    variance = (torch.exp(log_variances) * weight).sum(0) + (n == 0)
    return (means * weight).sum(0) / n.clamp_min(1), torch.log(variance / n.clamp_min(1).square())


def kl_to_prior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) summed over dimensions, `(B,)`."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)


def jeffreys(mean_a: Tensor, log_var_a: Tensor, mean_b: Tensor, log_var_b: Tensor) -> Tensor:
    """KL(a || b) + KL(b || a) of Gaussians, summed over the last dimension."""
    distance = (mean_a - mean_b).square()
    difference = log_var_a - log_var_b
    spread = torch.exp(difference) + torch.exp(-difference) - 2
    return 0.5 * (spread + distance * (torch.exp(-log_var_a) + torch.exp(-log_var_b))).sum(-1)


def group_jeffreys(mean: Tensor, log_variance: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """Jeffreys divergence between groups of cells, summed over pairs of groups.

    Each group is taken as the Gaussian with the moments of its cells' mixture, so groups need not be
    of equal size. Groups of fewer than two cells are ignored.

    `group`: `(B,)`, from 0 to `n_groups - 1`; -1 belongs to none.
    """
    share, size = _shares(group, n_groups, mean.dtype)
    centre = share @ mean
    second = share @ (mean.square() + log_variance.exp())
    log_var = torch.log((second - centre.square()).clamp_min(1e-8))
    total = mean.new_zeros(())
    for i in range(n_groups):
        for j in range(i):
            both = (size[i] > 1) & (size[j] > 1)
            total = total + both * jeffreys(centre[i], log_var[i], centre[j], log_var[j])
    return total


def group_mmd(z: Tensor, group: Tensor, n_groups: int, bandwidths: Sequence[float] = BANDWIDTHS) -> Tensor:
    """Maximum mean discrepancy between groups of points, summed over pairs of groups.

    The biased estimate mean K_xx + mean K_yy - 2 mean K_xy, K being the average of
    exp(-gamma |a - b|^2) over `bandwidths`. One kernel matrix serves all pairs. Groups of fewer than
    two cells take no part.

    Args:
        z: `(B, d)`.
        group: `(B,)`, from 0 to `n_groups - 1`; -1 belongs to none.
    """
    share, size = _shares(group, n_groups, z.dtype)
    distance = squared_distances(z, z)
    kernel = torch.zeros_like(distance)
    for gamma in bandwidths:
        kernel = kernel + torch.exp(-gamma * distance)
    between = share @ kernel @ share.T / len(bandwidths)
    within = between.diagonal()
    pairs = within.unsqueeze(0) + within.unsqueeze(1) - 2 * between
    usable = size > 1
    mask = (usable.unsqueeze(0) & usable.unsqueeze(1)).to(z.dtype)
    return (pairs * mask).triu(1).sum()


def _shares(group: Tensor, n_groups: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights that average over the cells of each group, `(G, B)`, and its size, `(G,)`."""
    member = (group.unsqueeze(0) == torch.arange(n_groups, device=group.device).unsqueeze(1)).to(dtype)
    size = member.sum(1)
    return member / size.clamp_min(1).unsqueeze(1), size
