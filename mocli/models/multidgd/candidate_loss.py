"""Likelihood of many cells under each of a few candidate profiles, without cells x candidates x features.

With t_kj(s) = r_j log1p(s y_kj / r_j), the negative log-likelihood of a negative binomial with library s and
proportions y_k is, up to what is the same for all candidates,

    f_k(s) + sum over non-zeros of x_j [ log(r_j + s y_kj) - log y_kj ],    f_k(s) = sum_j t_kj(s)

f_k is a smooth function of one number, so it is tabulated over libraries with its slope, and interpolated.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mocli.types import CSR, FloatArray

NODES = 65
"""Libraries at which f is known; between them it is a cubic in log s."""

BLOCK = 1 << 22
"""Elements of a temporary."""


def count_candidates(x: CSR, logits: Tensor, log_dispersion: Tensor) -> Tensor:
    """Negative log-likelihood of counts by candidate, up to a constant of each cell, `(n, K)` float64.

    Parameters
    ----------
    x
        Counts `(n, p)`. A cell without counts scores 0 everywhere.
    logits
        Logits of the candidates' proportions, `(K, p)`.
    log_dispersion
        log r, `(p,)`.
    """
    total = torch.from_numpy(np.asarray(x.sum(axis=1), dtype=np.float64).ravel())
    losses = torch.zeros(x.shape[0], len(logits), dtype=torch.float64)
    filled = (total > 0).nonzero().squeeze(1)
    if not len(filled):
        return losses
    log_y = torch.log_softmax(logits.double().cpu(), 1)
    r = log_dispersion.double().cpu().exp()
    losses[filled] = _interpolated(torch.log(total[filled]), log_y, r)
    at_features = log_y.T.contiguous()
    rows_at_once = max(1, BLOCK // len(logits))
    bounds = np.asarray(x.indptr, dtype=np.int64)
    start = 0
    while start < x.shape[0]:
        # as many cells as have so many non-zeros, one at least
        stop = int(np.searchsorted(bounds, bounds[start] + rows_at_once, side="right")) - 1
        stop = min(max(stop, start + 1), x.shape[0])
        cut = slice(int(bounds[start]), int(bounds[stop]))
        column = torch.from_numpy(x.indices[cut].astype(np.int64))
        counts = torch.from_numpy(x.data[cut].astype(np.float64)).unsqueeze(1)
        row = torch.repeat_interleave(
            torch.arange(start, stop), torch.from_numpy(np.diff(bounds[start : stop + 1]))
        )
        y = at_features.index_select(0, column)
        mean = torch.exp(y) * total[row].unsqueeze(1)
        losses.index_add_(0, row, counts * (torch.log(r[column].unsqueeze(1) + mean) - y))
        start = stop
    return losses


def normal_candidates(x: CSR | FloatArray, mean: Tensor, log_sd: Tensor) -> Tensor:
    """Negative log-likelihood of normal values by candidate, up to a constant of each cell, `(n, K)`.

    Parameters
    ----------
    mean
        Means of the candidates, `(K, p)`.
    log_sd
        `(p,)`.
    """
    centre = mean.double().cpu().numpy()
    weighted = centre * np.exp(-2 * log_sd.double().cpu().numpy())
    return torch.from_numpy(0.5 * (weighted * centre).sum(1) - np.asarray(x @ weighted.T))


def _interpolated(log_library: Tensor, log_y: Tensor, r: Tensor) -> Tensor:
    """f_k at every library, `(n, K)`, by cubic Hermite interpolation over log s."""
    low, high = float(log_library.min()), float(log_library.max())
    nodes = torch.linspace(low, high + 1e-9, NODES, dtype=torch.float64)
    values, slopes = (torch.empty(NODES, len(log_y), dtype=torch.float64) for _ in range(2))
    size = max(1, BLOCK // log_y.shape[1])
    for start in range(0, len(log_y), size):
        some = log_y[start : start + size]
        for i, node in enumerate(nodes):
            mean = torch.exp(some + node)
            values[i, start : start + size] = torch.log1p(mean / r) @ r
            slopes[i, start : start + size] = (mean / (1 + mean / r)).sum(1)
    step = float(nodes[1] - nodes[0])
    left = ((log_library - low) / step).floor().long().clamp(0, NODES - 2)
    u = ((log_library - nodes[left]) / step).unsqueeze(1)
    from_left = (1 + 2 * u) * (1 - u) ** 2 * values[left] + u * (1 - u) ** 2 * step * slopes[left]
    return from_left + u**2 * (3 - 2 * u) * values[left + 1] + u**2 * (u - 1) * step * slopes[left + 1]
