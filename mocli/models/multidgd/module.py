"""multiDGD (Schuster et al., Nat. Commun. 15:10031, 2024): a table of cells, mixtures, a decoder.

There is no encoder: the coordinates z of a cell and, for each categorical covariate, coordinates c are
parameters, a row of one table. The decoder is that of Methods, "Decoder" and "Count modeling". z has a
Gaussian mixture as prior (Eq. 4, 6-9), c a mixture with one isotropic component for each level, which is
known (Eq. 10). Different from the authors' code: any number of covariates; a cell whose level is missing has
the plain mixture as prior; means are library * softmax exactly, without a small number inside logarithms; a
cell's modalities that were not measured cost nothing. Symbols: z basal and c covariate coordinates, d and q
their dimensions, K components, B cells of a minibatch.

New cells: Methods, "Testing and prediction of new data" and "Integrating unseen covariates". The likelihood
of many cells under each of a few candidate profiles needs no array of cells x candidates x features: with
t_kj(s) = r_j log1p(s y_kj / r_j), the negative log-likelihood of a negative binomial with library s and
proportions y_k is, up to what is the same for all candidates,

    f_k(s) + sum over non-zeros of x_j [ log(r_j + s y_kj) - log y_kj ],    f_k(s) = sum_j t_kj(s)

f_k is a smooth function of one number, so it is tabulated over libraries with its slope, and interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import cast

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional as F

from mocli.data.bundle import Minibatch, MultiOmics
from mocli.models.base import Conditions, Spec
from mocli.models.multidgd.params import MultiDGDParams
from mocli.nn.heads import Parameters, likelihood_named, totals
from mocli.nn.layers import MLP
from mocli.nn.mixture import GaussianMixture, start_spread, uniform_in_ball
from mocli.types import CSR, FloatArray, IntArray, NonZeros


@dataclass(frozen=True, kw_only=True)
class Shape(Spec):
    """What the networks are built from; `n_cells` are the rows of the table of cells."""

    n_cells: int


@dataclass(frozen=True)
class Step:
    """The cells of one minibatch: basal coordinates `(B, d)` and covariate coordinates, `(B, q)` each."""

    batch: Minibatch
    z: Tensor
    c: tuple[Tensor, ...]


class MultiDGDModule(nn.Module):
    """Table of cells, mixtures and decoder."""

    depth: Tensor
    continuous_mean: Tensor
    continuous_sd: Tensor

    def __init__(self, shape: Shape, params: MultiDGDParams) -> None:
        super().__init__()
        self.shape, self.params = shape, params
        p, k = params, params.n_components or 1
        self.names, self.keys = list(shape.widths), list(shape.levels)
        width = p.n_latent + p.n_covariate * len(self.keys)
        self.cells = nn.Parameter(torch.zeros(shape.n_cells, width))
        self.mixture = GaussianMixture(
            k,
            p.n_latent,
            spread=start_spread(k, share=p.spread, scale=p.radius),
            radius=p.radius,
            hardness=p.hardness,
            concentration=p.concentration,
        )
        self.covariates = nn.ModuleList(
            GaussianMixture(
                len(levels),
                p.n_covariate,
                spread=start_spread(len(levels), share=p.spread_covariate, scale=p.radius),
                isotropic=True,
                radius=p.radius,
                hardness=p.hardness,
                concentration=p.concentration_covariate,
            )
            for levels in shape.levels.values()
        )
        self.shared = MLP([width + len(shape.continuous), *[p.n_hidden] * p.n_layers])
        # module names must be identifiers, a user's modality names need not be
        self.branches = nn.ModuleList(Branch(n, taken_for, p) for _, n, taken_for in shape.modalities)
        self.register_buffer("depth", torch.ones(len(self.names)))
        self.register_buffer("continuous_mean", torch.zeros(len(shape.continuous)))
        self.register_buffer("continuous_sd", torch.ones(len(shape.continuous)))

    def depth_of(self, name: str) -> Tensor:
        """Return the median library size of training."""
        return self.depth[self.names.index(name)]

    def branch(self, name: str) -> Branch:
        """Return the decoder's part for one modality."""
        return cast("Branch", self.branches[self.names.index(name)])

    def covariate(self, position: int) -> GaussianMixture:
        """Return the mixture of one covariate."""
        return cast("GaussianMixture", self.covariates[position])

    def decoder_parameters(self) -> list[nn.Parameter]:
        """Return weights and biases of all layers, and the likelihoods' scales."""
        return [*self.shared.parameters(), *self.branches.parameters()]

    def places(self, batch: Minibatch) -> Step:
        """Look up the cells of a minibatch; the gradient is sparse."""
        if batch.cells is None:
            raise ValueError("cells must be drawn, not rows of each modality")
        rows = F.embedding(batch.cells, self.cells, sparse=True)
        sizes = [self.params.n_latent, *[self.params.n_covariate] * len(self.keys)]
        z, *c = torch.split(rows, sizes, dim=1)
        return Step(batch, z, tuple(c))

    def hidden(self, z: Tensor, c: tuple[Tensor, ...], continuous: Tensor | None) -> Tensor:
        """Map coordinates and continuous covariates (None: mean) to the shared hidden layer, `(B, h)`."""
        parts = [z, *c]
        if len(self.continuous_mean):
            values = self.continuous_mean.expand(len(z), -1) if continuous is None else continuous
            parts.append((values - self.continuous_mean) / self.continuous_sd)
        return F.relu(self.shared(torch.cat(parts, 1)))

    def at_levels(self, n: int, conditions: Conditions | None) -> tuple[Tensor, ...]:
        """Return covariate coordinates of given levels: the components' means, else the mixtures' mean."""
        codes = {} if conditions is None else conditions.codes
        places = []
        for position, key in enumerate(self.keys):
            mixture = self.covariate(position)
            middle = (mixture.log_weights.exp() @ mixture.mean).expand(n, -1)
            if key in codes:
                known_codes = self.known(position, codes[key])
                middle = torch.where(
                    known_codes.unsqueeze(1) >= 0, mixture.mean[known_codes.clamp_min(0)], middle
                )
            places.append(middle)
        return tuple(places)

    def places_at_levels(self, codes: Mapping[str, Tensor]) -> Tensor:
        """Return covariate coordinates of cells by the codes of their levels, side by side, `(B, q)`."""
        n = len(next(iter(codes.values()))) if codes else len(self.cells)
        places = self.at_levels(n, Conditions(codes))
        return torch.cat([self.cells.new_zeros(n, 0), *places], 1)

    def known(self, position: int, codes: Tensor) -> Tensor:
        """Return the codes of levels that have a component, -1 for others."""
        return torch.where(codes < self.covariate(position).n_components, codes, -1)

    def reconstruction(self, step: Step) -> Tensor:
        """Negative log-likelihood of the measured values, summed over cells and modalities (Eq. 5)."""
        batch, total = step.batch, step.z.new_zeros(())
        shared = self.hidden(step.z, step.c, batch.continuous)
        for name in self.names:
            positions = batch.positions[name]
            if len(positions):
                seen = shared if len(positions) == len(shared) else shared[positions]
                branch = self.branch(name)
                total = total + branch.loss(batch.values(name), seen)
        return total

    def mixture_loss(self, step: Step) -> Tensor:
        """-log p(z), summed over cells (Eq. 6)."""
        return -self.mixture.log_density(step.z).sum()

    def covariate_loss(self, step: Step) -> Tensor:
        """-log p(c) of known levels (Eq. 10) and of the mixture where they are missing, summed over cells."""
        total = step.z.new_zeros(())
        for position, (key, c) in enumerate(zip(self.keys, step.c, strict=True)):
            mixture = self.covariate(position)
            density = mixture.log_density(c, self.known(position, step.batch.codes[key])).sum()
            weight = mixture.n_components if self.params.covariate_density == "levels" else 1
            total = total - weight * density
        return total

    def prior_loss(self) -> Tensor:
        """-log p of the mixtures' parameters (Eq. 7)."""
        mixtures = [self.mixture, *(self.covariate(i) for i in range(len(self.keys)))]
        return -torch.stack([mixture.log_prior() for mixture in mixtures]).sum()

    def l1(self) -> Tensor:
        """Sum of the absolute weights of all layers, without biases."""
        weights = [w for w in self.decoder_parameters() if w.dim() > 1]
        return torch.stack([w.abs().sum() for w in weights]).sum()


LEAST_LOG_SD = -5.0
"""Bound of the log standard deviation of values that are no counts."""


class Branch(nn.Module):
    """The part of the decoder that belongs to one modality, and its likelihood.

    Counts are negative binomial with mean library * softmax(head) (Eq. 3) and inverse dispersion
    r = 1 + exp(rho), 2 at the start; other values are normal with a standard deviation by feature.
    """

    def __init__(self, n_vars: int, likelihood: str, params: MultiDGDParams) -> None:
        super().__init__()
        self.likelihood = likelihood_named(likelihood)
        if self.likelihood.scale is None or self.likelihood.has_zeros:
            raise ValueError(f"multiDGD does not take values for {likelihood}")
        hidden, last = params.n_hidden, max(params.n_hidden, round(math.sqrt(n_vars)))
        self.hidden = MLP([hidden, *[hidden] * (params.n_layers - 1), last])
        self.head = nn.Linear(last, n_vars)
        # rho of counts, log standard deviation of other values
        self.log_scale = nn.Parameter(torch.zeros(n_vars))

    @property
    def log_dispersion(self) -> Tensor:
        """Log of r of counts, `(p,)`."""
        return F.softplus(self.log_scale)

    @property
    def log_sd(self) -> Tensor:
        """Log standard deviation of other values, `(p,)`."""
        return self.log_scale.clamp_min(LEAST_LOG_SD)

    def forward(self, shared: Tensor) -> Tensor:
        """`(B, n_hidden)` to the head's output `(B, p)`: logits of proportions, or means."""
        return self.head(F.relu(self.hidden(shared)))

    def parameters_at(self, shared: Tensor) -> Parameters:
        """`(B, n_hidden)` to the parameters of the likelihood."""
        return Parameters(self(shared), self.log_dispersion if self.likelihood.is_counts else self.log_sd)

    def loss(self, x: Tensor | NonZeros, shared: Tensor) -> Tensor:
        """Negative log-likelihood, summed over features and cells (Eq. 5)."""
        # a cell without counts has the mean 0 and says nothing
        weight = (totals(x) > 0).to(shared.dtype) if self.likelihood.is_counts else None
        return self.likelihood.loss(x, self.parameters_at(shared), weight)


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
