"""Soft couplings of two sets of cells by entropic optimal transport.

Sinkhorn's iterations (Cuturi 2013) on exp(-cost / t) give every cell partners in equal shares, so that no
cell is a hub and none is left out; with a dummy on either side some of the mass may stay without a partner
(partial transport, Chapel et al. 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mocli.nn.threads import total

TINY = 1e-30


def cosine_cost(a: Tensor, b: Tensor, *, damping: float = 0) -> Tensor:
    """1 - cosine of rows, over its standard deviation, `(n_a, n_b)`.

    So the softness of a coupling does not depend on the distance between the modalities.

    Args:
        a, b: `(n_a, s)` and `(n_b, s)`; pairs with a row of zeros do not count in the deviation.
        damping: Lengths are divided by sqrt(length^2 + damping x mean length^2 of the rows): rows near the
            mean count less, while a plain cosine would trust the direction of the shortest row as much as any
            other.
    """
    cost = 1 - _shortened(a, damping) @ _shortened(b, damping).T
    measured = a.any(1)[:, None] & b.any(1)[None, :]
    n = measured.sum()
    mean = total(cost * measured) / n.clamp_min(1)
    variance = total(((cost - mean) * measured).square()) / (n - 1).clamp_min(1)
    return cost / variance.sqrt().clamp_min(1e-6)


def _shortened(x: Tensor, damping: float) -> Tensor:
    if not damping:
        return F.normalize(x, dim=1)
    square = x.square().sum(1, keepdim=True)
    mean = square.sum() / x.any(1).sum().clamp_min(1)
    return x / (square + damping * mean).sqrt().clamp_min(TINY)


def soft_assignment(a: Tensor, b: Tensor, temperature: float, n_iter: int = 30) -> Tensor:
    """Balanced soft partners by cosine: entropic optimal transport between two minibatches.

    Args:
        a, b: `(n_a, s)` and `(n_b, s)`; zero rows are ignored.

    Returns:
        Weights `(n_a, n_b)` that sum to 1, or to 0 if there is nothing to assign.
    """
    return couple(cosine_cost(a, b), a.any(1), b.any(1), temperature=temperature, n_iter=n_iter)


def couple(
    cost: Tensor,
    usable_a: Tensor,
    usable_b: Tensor,
    *,
    temperature: float,
    n_iter: int,
    unmatched: float = 0,
    evenness: float = 1,
) -> Tensor:
    """Entropic optimal transport between two sets of cells, in which every cell of a set weighs the same.

    Below an `evenness` of 1 cells of a kind that is commoner in one set share partners with each other
    instead of being pushed to those of another kind (unbalanced transport: Chizat et al. 2018,
    doi:10.1090/mcom/3303).

    Args:
        cost: `(n_a, n_b)`, best with a standard deviation of 1.
        usable_a, usable_b: Booleans, `(n_a,)` and `(n_b,)`: cells that take part.
        temperature: Softness, on the scale of the costs.
        n_iter: Iterations, each of which sets the sums of rows and then of columns; those of columns are
            exact.
        unmatched: Share of the mass of either side that goes to a dummy of the other side, to which all cells
            lie equally far: those whose best partners are the worst give most of theirs.

    Returns:
        Weights `(n_a, n_b)` that sum to 1, or to 0 if there is nothing to couple.
    """
    least = cost.amin(1, keepdim=True)
    kernel = torch.exp((least - cost) / temperature) * (usable_a[:, None] & usable_b[None, :])
    share_a, share_b = (u.to(cost.dtype) / u.sum().clamp_min(1) for u in (usable_a, usable_b))
    v = usable_b.to(cost.dtype)
    u = torch.zeros_like(share_a)
    # a row's least cost is taken off above: what compares rows with each other needs it again
    rise = ((least - least.mean()) / temperature).squeeze(1).clamp(-60, 60)
    if evenness < 1:
        row_scale = torch.exp((evenness - 1) * rise)
        for _ in range(n_iter):
            u = (share_a / (kernel @ v).clamp_min(TINY)).pow(evenness) * row_scale
            v = (share_b / (kernel.T @ u).clamp_min(TINY)).pow(evenness)
        return _of_one(u[:, None] * kernel * v)
    if not unmatched:
        for _ in range(n_iter):
            u = share_a / (kernel @ v).clamp_min(TINY)
            v = share_b / (kernel.T @ u).clamp_min(TINY)
        return _of_one(u[:, None] * kernel * v)
    # to the dummies all rows, and all columns, are equally far
    to_dummy, from_dummy = torch.exp(rise) * usable_a, usable_b.to(cost.dtype)
    rest_a = rest_b = cost.new_ones(())
    for _ in range(n_iter):
        u = share_a / (kernel @ v + unmatched * rest_b * to_dummy).clamp_min(TINY)
        rest_a = 1 / (from_dummy @ v).clamp_min(TINY)
        v = share_b / (kernel.T @ u + unmatched * rest_a * from_dummy).clamp_min(TINY)
        rest_b = 1 / (to_dummy @ u).clamp_min(TINY)
    return _of_one(u[:, None] * kernel * v)


def _of_one(plan: Tensor) -> Tensor:
    return plan / total(plan).clamp_min(TINY)
