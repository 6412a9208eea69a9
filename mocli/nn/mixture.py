"""Gaussian mixtures of latents: posteriors of several experts, and a prior with learned components.

All Gaussians are diagonal and given by mean and log variance, `(B, d)`.

Schuster and Krogh 2023 (doi:10.1093/bioinformatics/btad497) and multiDGD (Schuster et al. 2024,
doi:10.1038/s41467-024-53340-z, Methods, Eq. 4-10): components of diagonal or isotropic covariance, means
under a soft ball, negative log variances under a normal, weights under a Dirichlet distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


LEAST_SPREAD = 1e-3
"""Standard deviation below which components do not start."""

MOST_SPREAD = 0.25
"""Standard deviation, over the radius of the ball, above which they do not start."""

_LOG_2PI = math.log(2 * math.pi)


class GaussianMixture(nn.Module):
    """K Gaussians in d dimensions.

    Args:
        spread: Initial standard deviation of components, which is also the centre of their prior.
        isotropic: One variance for all dimensions of a component.
        radius, hardness: Radius and hardness of the soft ball of means.
        concentration: Concentration of the Dirichlet distribution of weights.
    """

    prior_log_precision: Tensor

    def __init__(
        self,
        n_components: int,
        n_dims: int,
        *,
        spread: float,
        isotropic: bool = False,
        radius: float = 2.0,
        hardness: float = 5.0,
        concentration: float = 1.0,
    ) -> None:
        super().__init__()
        self.radius, self.hardness, self.concentration = radius, hardness, concentration
        self.mean = nn.Parameter(uniform_in_ball(n_components, n_dims, radius))
        start = torch.full((n_components, 1 if isotropic else n_dims), -2 * math.log(spread))
        self.log_precision = nn.Parameter(start)
        self.logit = nn.Parameter(torch.ones(n_components))
        self.register_buffer("prior_log_precision", start[0, 0].clone())

    @property
    def n_components(self) -> int:
        """K."""
        return len(self.mean)

    @property
    def log_weights(self) -> Tensor:
        """Logarithms of the components' shares, `(K,)`."""
        return torch.log_softmax(self.logit, 0)

    def log_components(self, z: Tensor) -> Tensor:
        """Log-density of `(B, d)` under every component, `(B, K)`."""
        n_dims = z.shape[1]
        precision = self.log_precision.exp()
        squares = (z.unsqueeze(1) - self.mean).square()
        distance = (squares * precision).sum(2)
        # an isotropic component has one log precision for all dimensions
        volume = self.log_precision.sum(1) * (n_dims / self.log_precision.shape[1])
        return 0.5 * (volume - n_dims * _LOG_2PI - distance)

    def log_joint(self, z: Tensor) -> Tensor:
        """Log of weight times density, by component, `(B, K)`."""
        return self.log_components(z) + self.log_weights

    def log_density(self, z: Tensor, component: Tensor | None = None) -> Tensor:
        """Log-density of `(B, d)` under the mixture, `(B,)`.

        Where `component` `(B,)` is known and not -1, that of weight times the component's density.
        """
        joint = self.log_joint(z)
        mixed = torch.logsumexp(joint, 1)
        if component is None:
            return mixed
        of_component = joint.gather(1, component.clamp_min(0).unsqueeze(1)).squeeze(1)
        return torch.where(component >= 0, of_component, mixed)

    def draw(self, components: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a point from each of some components `(n,)`, `(n, d)`; the generator is the CPU's."""
        mean = self.mean[components]
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        return mean + noise * torch.exp(-0.5 * self.log_precision[components])

    def posterior(self, z: Tensor) -> Tensor:
        """Probability of every component given `(B, d)`, `(B, K)`."""
        return torch.softmax(self.log_joint(z), 1)

    def precision(self, z: Tensor) -> Tensor:
        """Mean precision at `(B, d)` of the components, by their probability, `(B, d)`.

        Of the Hessian of the negative log-density this is the part that is never negative.
        """
        return self.posterior(z) @ self.log_precision.exp().expand(-1, z.shape[1])

    def log_prior(self) -> Tensor:
        """Log-density of the parameters themselves."""
        deviation = self.log_precision - self.prior_log_precision
        of_precision = -0.5 * (deviation.square() + _LOG_2PI).sum()
        of_mean = soft_ball(self.mean, self.radius, self.hardness).sum()
        return of_mean + of_precision + self._log_dirichlet()

    def _log_dirichlet(self) -> Tensor:
        k, alpha = self.n_components, self.concentration
        constant = math.lgamma(k * alpha) - k * math.lgamma(alpha)
        return constant + (alpha - 1) * self.log_weights.sum()


def start_spread(n_components: int, *, share: float = 0.2, scale: float = 2.0) -> float:
    """Return a standard deviation that leaves room for all components: share * scale / K within bounds."""
    return max(LEAST_SPREAD, min(share * scale / n_components, MOST_SPREAD * scale))


def soft_ball(x: Tensor, radius: float, hardness: float) -> Tensor:
    """Log-density of `(K, d)` nearly uniform in a ball, falling off beyond it, `(K,)` (Eq. 8)."""
    d = x.shape[1]
    uniform = math.lgamma(1 + d / 2) - d * (math.log(radius) + 0.5 * math.log(math.pi))
    # the norm has no gradient at 0, its square plus a little has
    norm = torch.sqrt(x.square().sum(1) + 1e-12)
    return uniform - F.softplus(hardness * (norm / radius - 1))


def uniform_in_ball(n: int, n_dims: int, radius: float) -> Tensor:
    """Draw `(n, n_dims)` points uniformly from a ball."""
    x = torch.empty(n, n_dims)
    if x.is_meta:  # only the shape is asked for; to draw no values, or scale them, torch loads a compiler
        return x
    direction = F.normalize(x.normal_(), dim=1)
    return radius * torch.rand(n, 1) ** (1 / n_dims) * direction
