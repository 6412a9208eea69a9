"""New cells: their start among the mixture's means, and components for new levels.

Methods, "Testing and prediction of new data" and "Integrating unseen covariates".
"""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from mocli.data.bundle import MultiOmics
from mocli.models.multidgd.candidate_loss import count_candidates, normal_candidates
from mocli.models.multidgd.module import MultiDGDModule
from mocli.nn.gaussian_mixture import GaussianMixture, uniform_in_ball
from mocli.types import IntArray

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
