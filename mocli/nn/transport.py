"""Soft couplings of two sets of cells by entropic optimal transport, and the linear maps that they give.

Sinkhorn's iterations (Cuturi 2013) on exp(-cost / t) give every cell partners in equal shares, so that no
cell is a hub and none is left out; with a dummy on either side some of the mass may stay without a partner
(partial transport, Chapel et al. 2020). Canonical correlation (Hotelling 1936, doi:10.1093/biomet/28.3-4.321)
with a coupling in place of known pairs needs only the products of features over coupled cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mocli.nn.losses import mutual_neighbors

TINY = 1e-30


def cosine_cost(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine of rows, over its standard deviation, `(n_a, n_b)`.

    So how soft a coupling is does not depend on how far the modalities lie apart.

    Parameters
    ----------
    a, b
        `(n_a, s)` and `(n_b, s)`; pairs with a row of zeros do not count in the deviation.
    """
    cost = 1 - F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
    known = a.any(1)[:, None] & b.any(1)[None, :]
    n = known.sum()
    mean = (cost * known).sum() / n.clamp_min(1)
    variance = ((cost - mean) * known).square().sum() / (n - 1).clamp_min(1)
    return cost / variance.sqrt().clamp_min(1e-6)


def soft_assignment(a: Tensor, b: Tensor, temperature: float, n_iter: int = 30) -> Tensor:
    """Balanced soft partners by cosine: entropic optimal transport between two minibatches.

    Parameters
    ----------
    a, b
        `(n_a, s)` and `(n_b, s)`; zero rows take no part.

    Returns
    -------
    Weights `(n_a, n_b)` that sum to 1, or to 0 if there is nothing to assign.
    """
    return couple(cosine_cost(a, b), a.any(1), b.any(1), temperature=temperature, n_iter=n_iter)


def couple(
    cost: Tensor, usable_a: Tensor, usable_b: Tensor, *, temperature: float, n_iter: int, unmatched: float = 0
) -> Tensor:
    """Entropic optimal transport between cells of equal weight.

    Parameters
    ----------
    cost
        `(n_a, n_b)`, best with a standard deviation of 1.
    usable_a, usable_b
        Booleans, `(n_a,)` and `(n_b,)`: cells that take part.
    temperature
        Softness, on the scale of the costs.
    unmatched
        Share of the cells of either side that go to a dummy of the other side, to which all lie equally
        far; those whose best partners are the worst go there.

    Returns
    -------
    Weights `(n_a, n_b)` that sum to 1, or to 0 if there is nothing to couple.
    """
    least = cost.amin(1, keepdim=True)
    kernel = torch.exp((least - cost) / temperature) * (usable_a[:, None] & usable_b[None, :])
    share_a, share_b = (u.to(cost.dtype) / u.sum().clamp_min(1) for u in (usable_a, usable_b))
    v = usable_b.to(cost.dtype)
    u = torch.zeros_like(share_a)
    if not unmatched:
        for _ in range(n_iter):
            u = share_a / (kernel @ v).clamp_min(TINY)
            v = share_b / (kernel.T @ u).clamp_min(TINY)
        return _of_one(u[:, None] * kernel * v)
    # a row's least cost is taken off above: to the dummies all rows, and all columns, are equally far
    rise = ((least - least.mean()) / temperature).squeeze(1).clamp(-60, 60)
    to_dummy, from_dummy = torch.exp(rise) * usable_a, usable_b.to(cost.dtype)
    rest_a = rest_b = cost.new_ones(())
    for _ in range(n_iter):
        u = share_a / (kernel @ v + unmatched * rest_b * to_dummy).clamp_min(TINY)
        rest_a = 1 / (from_dummy @ v).clamp_min(TINY)
        v = share_b / (kernel.T @ u + unmatched * rest_a * from_dummy).clamp_min(TINY)
        rest_b = 1 / (to_dummy @ u).clamp_min(TINY)
    return _of_one(u[:, None] * kernel * v)


def _of_one(plan: Tensor) -> Tensor:
    return plan / plan.sum().clamp_min(TINY)


def canonical_maps(
    points: Sequence[Tensor], couplings: Mapping[tuple[int, int], Tensor], n_components: int, ridge: float
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Linear maps of several sets of cells to one space in which coupled cells lie together.

    The leading eigenvectors of the matrix whose blocks are Ca^-1/2 A' P B Cb^-1/2: of two sets the
    canonical vectors, of more of them the sum of all couplings' correlations. Components are scaled by
    their correlation; the largest weight of each in the first set is positive.

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
    Maps `(p_m, k)` and shifts `(k,)` of every set, z = x W - shift, and the correlations `(k,)`; k is at
    most the least number of features.
    """
    weights = [x.new_zeros(len(x)) for x in points]
    for (a, b), plan in couplings.items():
        weights[a] = weights[a] + plan.sum(1)
        weights[b] = weights[b] + plan.sum(0)
    shares = [w / w.sum().clamp_min(TINY) for w in weights]
    means = [s @ x for s, x in zip(shares, points, strict=True)]
    centred = [(x - mean).double() for x, mean in zip(points, means, strict=True)]
    roots = [
        _inverse_root((x * s.double()[:, None]).T @ x, ridge) for x, s in zip(centred, shares, strict=True)
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
    maps = []
    for m, root in enumerate(roots):
        own = vectors[ends[m] : ends[m + 1]]
        maps.append(root @ F.normalize(own, dim=0) * correlations)
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


def level_offsets(x: Tensor, codes: Tensor, values: Sequence[Tensor], k: int) -> list[Tensor]:
    """Offsets of groups of cells, such as batches, where cells of both are mutual nearest neighbours.

    So a group that lacks a kind of cell is not moved for it (Haghverdi et al. 2018, doi:10.1038/nbt.4091).
    The offsets of all groups are the least squares of the mean differences of every two, weighted by pairs.

    Parameters
    ----------
    x
        Where neighbours are searched by cosine, `(n, p)`.
    codes
        The group of each cell from 0, `(n,)`; -1 for none.
    values
        What offsets are wanted of, `(n, d)` each.

    Returns
    -------
    `(n_groups, d)` for each of the values, with a mean of 0.
    """
    n_groups = int(codes.max()) + 1 if len(codes) else 0
    rows = [(codes == level).nonzero().squeeze(1) for level in range(n_groups)]
    laplacian = x.new_zeros(n_groups, n_groups, dtype=torch.float64)
    sums = [x.new_zeros(n_groups, v.shape[1], dtype=torch.float64) for v in values]
    centred = x - x.mean(0)
    for i in range(n_groups):
        for j in range(i + 1, n_groups):
            if not len(rows[i]) or not len(rows[j]):
                continue
            first, second = mutual_neighbors(centred[rows[i]], centred[rows[j]], k).nonzero().unbind(1)
            weight = float(len(first))
            laplacian[i, i] += weight
            laplacian[j, j] += weight
            laplacian[i, j] -= weight
            laplacian[j, i] -= weight
            for total, v in zip(sums, values, strict=True):
                difference = (v[rows[i][first]] - v[rows[j][second]]).double().sum(0)
                total[i] += difference
                total[j] -= difference
    inverse = torch.linalg.pinv(laplacian, hermitian=True)
    return [(inverse @ total).to(x.dtype) for total in sums]


def column_correlations(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of each column of two matrices `(n, s)`, 0 where one is constant, `(s,)`."""
    a, b = a - a.mean(0), b - b.mean(0)
    norm = (a.square().sum(0) * b.square().sum(0)).sqrt()
    return torch.where(norm > 1e-12, (a * b).sum(0) / norm.clamp_min(1e-12), torch.zeros_like(norm))
