"""Canonical correlation (Hotelling 1936, doi:10.1093/biomet/28.3-4.321) of cells that a coupling joins.

With a coupling in place of known pairs it needs only the products of features over coupled cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mocli.nn.transport import TINY

ROUNDING = 1e-6
"""A spread below this share of the largest value is float32 noise."""


def canonical_maps(
    points: Sequence[Tensor], couplings: Mapping[tuple[int, int], Tensor], n_components: int, ridge: float
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Linear maps of several sets of cells to one space in which coupled cells lie together.

    The leading eigenvectors of the matrix whose blocks are Ca^-1/2 A' P B Cb^-1/2, where Ca sums the
    squares of a set's cells over all its couplings: of two sets the canonical vectors. Components are
    scaled by their correlation and, in each set, by their variance there: a set unrelated to the others
    lies near 0. The largest weight of each in the first set is positive.

    Parameters
    ----------
    points
        `(n_m, p_m)` of each set.
    couplings
        By pairs of sets, `(n_a, n_b)`, each of a sum of 1.
    ridge
        Added to covariances, as a share of the mean variance.

    Returns
    -------
    Maps `(p_m, k)` and shifts `(k,)` of every set, z = x W - shift, and the correlations `(k,)`, 1 where
    all coupled cells are at one position; k is at most the least number of features.
    """
    weights = [x.new_zeros(len(x)) for x in points]
    for (a, b), plan in couplings.items():
        weights[a] = weights[a] + plan.sum(1)
        weights[b] = weights[b] + plan.sum(0)
    means = [(w / w.sum().clamp_min(TINY)) @ x for w, x in zip(weights, points, strict=True)]
    centred = [(x - mean).double() for x, mean in zip(points, means, strict=True)]
    roots = [
        _inverse_root((x * w.double()[:, None]).T @ x, ridge) for x, w in zip(centred, weights, strict=True)
    ]
    ends = torch.tensor([0, *(x.shape[1] for x in points)]).cumsum(0).tolist()
    blocks = centred[0].new_zeros(ends[-1], ends[-1])
    for (a, b), plan in couplings.items():
        product = roots[a] @ (centred[a].T @ (plan.double() @ centred[b])) @ roots[b]
        blocks[ends[a] : ends[a + 1], ends[b] : ends[b + 1]] = product
        blocks[ends[b] : ends[b + 1], ends[a] : ends[a + 1]] = product.T
    values, vectors = torch.linalg.eigh(blocks)
    k = min(n_components, *(x.shape[1] for x in points))
    correlations, vectors = values.flip(0)[:k].clamp_min(0), vectors.flip(1)[:, :k]
    lead = vectors[: ends[1]]
    sign = torch.sign(lead.gather(0, lead.abs().argmax(0, keepdim=True)))
    vectors = vectors * torch.where(sign == 0, torch.ones_like(sign), sign)
    # the sum of squares over all couplings of both ends: a variance of 1 where all cells agree
    scale = correlations * (2 * len(couplings)) ** 0.5
    maps = [root @ vectors[ends[m] : ends[m + 1]] * scale for m, root in enumerate(roots)]
    shifts = [mean.double() @ weight for mean, weight in zip(means, maps, strict=True)]
    kind = points[0].dtype
    return [w.to(kind) for w in maps], [s.to(kind) for s in shifts], correlations.to(kind)


def _inverse_root(covariance: Tensor, ridge: float) -> Tensor:
    """C^-1/2 with a ridge of a share of the mean variance; directions without variance stay 0."""
    values, vectors = torch.linalg.eigh(covariance)
    mean = values.mean().clamp_min(0)
    values = values.clamp_min(0) + ridge * mean
    inverse = torch.where(values > 1e-9 * mean.clamp_min(TINY), values.clamp_min(TINY).rsqrt(), 0.0 * values)
    root: Tensor = (vectors * inverse) @ vectors.T
    return root


def column_correlations(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of each column of two matrices `(n, s)`, `(s,)`.

    0 where a column is constant up to rounding.
    """
    return (_unit_columns(a) * _unit_columns(b)).sum(0)


def _unit_columns(x: Tensor) -> Tensor:
    least = ROUNDING * x.abs().amax(0) * len(x) ** 0.5
    x = x - x.mean(0)
    norm = x.norm(dim=0)
    return torch.where(norm > least, x / norm.clamp_min(TINY), torch.zeros_like(x))
