"""New cells: their start among the mixture's means, and components for new levels.

Methods, "Testing and prediction of new data" and "Integrating unseen covariates". The likelihood of many
cells under each of a few candidate profiles needs no array of cells x candidates x features: with
t_kj(s) = r_j log1p(s y_kj / r_j), the negative log-likelihood of a negative binomial with library s and
proportions y_k is, up to what is the same for all candidates,

    f_k(s) + sum over non-zeros of x_j [ log(r_j + s y_kj) - log y_kj ],    f_k(s) = sum_j t_kj(s)

f_k is a smooth function of one number, so it is tabulated over libraries with its slope, and interpolated.
"""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from mocli.data.bundle import MultiOmics
from mocli.models.multidgd.module import MultiDGDModule
from mocli.nn.gaussian_mixture import GaussianMixture, uniform_in_ball
from mocli.types import CSR, FloatArray, IntArray

NEW_PLACES = 20
"""Random positions at which a new level's component may start (authors' code)."""

NEW_CELLS = 2_000
"""Most cells of a new level that choose its position."""

_KEPT = ("branches", "shared", "mixture", "depth", "continuous")
_ROWS = 4_096


def with_new_levels(query: MultiDGDModule, model: MultiDGDModule, bundle: MultiOmics) -> None:
    """Copy all but the table, freeze it, and find components for levels that the model lacks."""
    state = {k: v for k, v in model.state_dict().items() if k.startswith(_KEPT)}
    query.load_state_dict(state, strict=False)
    for name, parameter in query.named_parameters():
        parameter.requires_grad = name == "cells"
    for position in range(len(query.keys)):
        _take_over(query.covariate(position), model.covariate(position))
    codes = _codes(query, bundle)
    for position in range(len(query.keys)):
        n_known = model.covariate(position).n_components
        for level in range(n_known, query.covariate(position).n_components):
            cells = np.flatnonzero(codes[:, position] == level)
            if len(cells):
                _open(query, bundle, codes, position, level, n_known, cells)


def place(query: MultiDGDModule, bundle: MultiOmics) -> None:
    """Start every cell at the candidate with the greatest joint density of data and coordinates.

    Candidates are the mixture's means with the components of the cell's levels; for a level that is
    missing, or has no component, all components are tried.
    """
    codes = _codes(query, bundle)
    for levels in np.unique(codes, axis=0):
        cells = np.flatnonzero((codes == levels).all(1))
        choices = [
            query.covariate(i).mean if level < 0 else query.covariate(i).mean[[level]]
            for i, level in enumerate(levels)
        ]
        places = [torch.stack(c) if c else None for c in product(*choices)]
        best = torch.full((len(cells),), torch.inf, dtype=torch.float64)
        for c in places:
            loss, z = _losses(query, bundle, cells, c)
            least, best_candidate = loss.min(1)
            better = least < best
            best = torch.where(better, least, best)
            rows = torch.from_numpy(cells)[better]
            with torch.no_grad():
                query.cells[rows, : z.shape[1]] = z[best_candidate[better]]
                if c is not None:
                    query.cells[rows, z.shape[1] :] = c.reshape(-1)


def _take_over(new: GaussianMixture, old: GaussianMixture) -> None:
    """Copy components; new ones start with their mean precision and weight, and can be trained."""
    k = old.n_components
    with torch.no_grad():
        new.prior_log_precision.copy_(old.prior_log_precision)
        for name in ("mean", "log_precision", "logit"):
            tensor, old_tensor = getattr(new, name), getattr(old, name)
            tensor[:k] = old_tensor
            tensor[k:] = old_tensor.mean(0)
    if new.n_components > k:
        for parameter in (new.mean, new.log_precision):
            parameter.requires_grad = True
            mask = torch.zeros_like(parameter)
            mask[k:] = 1
            parameter.register_hook(partial(_masked, mask))  # type: ignore[no-untyped-call]


def _masked(mask: Tensor, gradient: Tensor) -> Tensor:
    return gradient * mask.to(gradient.device)


def _open(
    query: MultiDGDModule,
    bundle: MultiOmics,
    codes: IntArray,
    position: int,
    level: int,
    n_known: int,
    cells: IntArray,
) -> None:
    """Put a new component where it describes the cells of its level best, each at its best mean."""
    mixture = query.covariate(position)
    if len(cells) > NEW_CELLS:
        cells = cells[np.linspace(0, len(cells) - 1, NEW_CELLS).astype(np.int64)]
    drawn = uniform_in_ball(NEW_PLACES, mixture.mean.shape[1], mixture.radius)
    places = torch.cat([drawn.to(mixture.mean), mixture.mean[:n_known].detach()])
    # other covariates stand where most of these cells are known to be
    others = [
        query.covariate(i).mean[np.bincount(codes[cells, i] + 1).argmax() - 1]
        if (codes[cells, i] >= 0).any()
        else query.covariate(i).mean.mean(0)
        for i in range(len(query.keys))
    ]
    totals = []
    for one in places:
        c = torch.stack([one if i == position else other for i, other in enumerate(others)])
        totals.append(_losses(query, bundle, cells, c)[0].min(1).values.sum())
    with torch.no_grad():
        mixture.mean[level] = places[int(torch.stack(totals).argmin())]


def _losses(
    query: MultiDGDModule, bundle: MultiOmics, cells: IntArray, c: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Negative log-joint of cells at every mean of the mixture, `(n, K)`, and the means, `(K, d)`.

    `c` holds the coordinates of the covariates, `(keys, q)`; continuous covariates stand at their mean.
    """
    with torch.no_grad():
        z = query.mixture.mean.detach()
        beside = () if c is None else tuple(one.expand(len(z), -1) for one in c)
        shared = query.hidden(z, beside, None)
        total = -query.mixture.log_density(z).double().cpu().expand(len(cells), -1).clone()
        for column, (name, m) in enumerate(bundle.modalities.items()):
            row = bundle.rows[cells, column]
            measured = np.flatnonzero(row >= 0)
            branch = query.branch(name)
            output = branch(shared)
            for start in range(0, len(measured), _ROWS):
                some = measured[start : start + _ROWS]
                x = m.features.values[row[some]]
                if branch.likelihood.is_counts:
                    loss = count_candidates(sparse.csr_matrix(x), output, branch.log_dispersion)
                else:
                    loss = normal_candidates(x, output, branch.log_sd)
                total[some] += loss
    return total, z


def _codes(query: MultiDGDModule, bundle: MultiOmics) -> IntArray:
    """Return the codes of levels that have a component, else -1, `(n_cells, keys)`."""
    codes = np.full((bundle.n_cells, len(query.keys)), -1, dtype=np.int64)
    codes_by_key = {c.key: c.codes for c in bundle.categorical}
    for position, key in enumerate(query.keys):
        if key in codes_by_key:
            is_known = codes_by_key[key] < query.covariate(position).n_components
            codes[:, position] = np.where(is_known, codes_by_key[key], -1)
    return codes


NODES = 65
"""Libraries at which f is known; between them it is a cubic in log s."""

BLOCK = 1 << 22
"""Elements of a temporary."""


def count_candidates(x: CSR, logits: Tensor, log_dispersion: Tensor) -> Tensor:
    """Negative log-likelihood of counts by candidate, up to a constant of each cell, `(n, K)` float64.

    Args:
        x: Counts `(n, p)`. A cell without counts scores 0 everywhere.
        logits: Logits of the candidates' proportions, `(K, p)`.
        log_dispersion: log r, `(p,)`.
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

    Args:
        mean: Means of the candidates, `(K, p)`.
        log_sd: `(p,)`.
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
