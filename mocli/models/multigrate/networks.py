"""Encoder and decoder of one modality (Litinetskaya et al., Table 5), and embeddings of cells' covariates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from mocli.data.bundle import FeatureMatrix, Modality, MultiOmics
from mocli.models.base import Conditions
from mocli.models.multigrate.params import MultigrateParams
from mocli.nn.correction import mix_batches
from mocli.nn.heads import Likelihood, Parameters, likelihood_named
from mocli.nn.layers import Block, ContinuousResponse, InputLinear
from mocli.nn.neighbors import drawn_rows, knn, neighbor_mean
from mocli.nn.principal import Measured, joint_components, principal_components
from mocli.types import CSR, FloatArray, ModalityKind, NonZeros

FIT_CELLS = 20_000
"""Cells that components are fitted on."""

LOG_VARIANCE = 10.0
"""Bound of the log variance of a posterior: beyond it, exponentials are of no use."""


def _blocks(
    widths: Sequence[int], n_side: int, params: MultigrateParams, *, sparse: bool = False
) -> nn.ModuleList:
    return nn.ModuleList(
        Block(
            a,
            b,
            n_side=n_side if i == 0 else 0,
            sparse=sparse and i == 0,
            normalization=params.normalization,
            activation=params.activation,
            dropout=params.dropout,
        )
        for i, (a, b) in enumerate(pairwise(widths))
    )


class Encoder(nn.Module):
    """Features and covariates to the mean and log variance of a Gaussian.

    `n_components`: fixed components that the layers see instead of the features; 0 for the features.
    """

    def __init__(self, n_vars: int, n_side: int, params: MultigrateParams, n_components: int = 0) -> None:
        super().__init__()
        p = params
        self.projection = InputLinear(n_vars, n_components) if n_components else None
        if self.projection is not None:
            self.projection.requires_grad_(requires_grad=False)
        widths = [n_components or n_vars, *[p.n_hidden] * p.n_layers, p.n_latent]
        self.blocks = _blocks(widths, n_side, params, sparse=not n_components)
        self.mean = nn.Linear(p.n_latent, p.n_latent)
        self.log_variance = nn.Linear(p.n_latent, p.n_latent)

    def forward(self, x: Tensor | NonZeros, side: Tensor | None) -> tuple[Tensor, Tensor]:
        """`(B, p)` to two tensors `(B, d)`."""
        return self.leave(self.enter(x, side))

    @property
    def first(self) -> Block:
        """The layer that sees the features, or their components."""
        return cast("Block", self.blocks[0])

    def enter(self, x: Tensor | NonZeros, side: Tensor | None) -> Tensor:
        """Linear part of the first layer, `(B, n_hidden)`."""
        return self.first.enter(x if self.projection is None else self.projection(x), side)

    def entry_weights(self) -> Tensor:
        """Return what one unit of each feature adds to the linear part, `(p, n_hidden)`."""
        if self.projection is None:
            return cast("InputLinear", self.first.linear).weight
        return self.projection.weight @ cast("nn.Linear", self.first.linear).weight.T

    def leave(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return what follows the linear part of the first layer."""
        h = self.first.leave(h)
        for block in self.blocks[1:]:
            h = block(h)
        return self.mean(h), self.log_variance(h).clamp(-LOG_VARIANCE, LOG_VARIANCE)


class Decoder(nn.Module):
    """Latent and covariates to the parameters of a likelihood."""

    def __init__(
        self, n_vars: int, n_side: int, likelihood: str, n_groups: tuple[int, int], params: MultigrateParams
    ) -> None:
        super().__init__()
        p = params
        widths = [p.n_latent, *[p.n_hidden] * (p.n_layers + 1)]
        self.likelihood = likelihood_named(likelihood)
        self.blocks = _blocks(widths, n_side, params)
        self.head = nn.Linear(p.n_hidden, n_vars)
        self.zeros = nn.Linear(p.n_hidden, n_vars) if self.likelihood.has_zeros else None
        # log inverse dispersion of counts, or log standard deviation of logs; squared errors have none
        self.log_scale: nn.Parameter | None = None
        self.added_scale: nn.Parameter | None = None  # of groups that a query adds
        if self.likelihood.scale and not self.likelihood.fixed_scale:
            by_group = self.likelihood.is_counts
            n_known, added = n_groups if by_group else (1, 0)
            self.log_scale = nn.Parameter(
                torch.randn(n_known, n_vars) if by_group else torch.zeros(n_known, n_vars)
            )
            if added:
                self.added_scale = nn.Parameter(torch.zeros(added, n_vars))

    def start(self, features: FeatureMatrix) -> None:
        """Let the head begin at the mean of each feature, and counts at their inverse dispersion.

        Otherwise the first hundreds of steps are spent on finding them, while encoders already fit noise.
        """
        with torch.no_grad():
            if self.log_scale is not None and self.likelihood.is_counts:
                self.log_scale.copy_(log_dispersion(features).expand_as(self.log_scale))
            mean = torch.from_numpy(features.mean(binary=self.likelihood.is_binary))
            self.head.bias.copy_(self.likelihood.start(mean.double()))

    def parameters_at(self, z: Tensor, side: Tensor | None, group: Tensor | None = None) -> Parameters:
        """`(B, d)` to the parameters of the likelihood; `group` says which dispersion a cell has."""
        for i, block in enumerate(self.blocks):
            z = block(z, side if i == 0 else None)
        return Parameters(self.head(z), self._scale(group), None if self.zeros is None else self.zeros(z))

    def extend(self, smaller: Decoder) -> None:
        """Copy the dispersions of a decoder with fewer groups; new ones start at the mean."""
        if self.log_scale is None or smaller.log_scale is None:
            return
        with torch.no_grad():
            rows: Tensor = smaller.log_scale
            if smaller.added_scale is not None:
                rows = torch.cat([rows, smaller.added_scale])
            self.log_scale.copy_(rows)
            if self.added_scale is not None:
                self.added_scale.copy_(rows.mean(0).expand_as(self.added_scale))

    def _scale(self, group: Tensor | None) -> Tensor | None:
        if self.log_scale is None:
            return None
        scale: Tensor = self.log_scale
        if self.added_scale is not None:
            scale = torch.cat([scale, self.added_scale])
        return scale.mean(0) if group is None or len(scale) == 1 else scale[group]


def components(m: Modality, k: int, form: str, *, seed: int) -> tuple[Tensor, Tensor]:
    """Fit what an encoder sees of very many features: loadings `(p, k)`, and the mean of its input `(p,)`.

    Scores have unit variance on average over the components, whose relative sizes are kept.

    Args:
        form: `lognorm`, `log1p` or `raw`, as in the model's `encoder_input`.
        seed: Seed of the run: it draws the cells to fit on, and starts the range finder. A saved model keeps
            the loadings, so that a query uses those of its reference, whatever its own seed.
    """
    values = FeatureMatrix(m.features.some(FIT_CELLS, seed=seed), m.features.names)
    x = _seen(values, likelihood_named(m.likelihood or "normal"), form)
    fitted = principal_components(x, k, seed=seed, scaling=1.0)
    scores = fitted.scores(x)
    # beyond the rank a component may be anything, such as a feature that was never seen
    real = scores.std(0) > 1e-6 * max(float(scores.std()), 1e-12)
    loadings = fitted.loadings * real / max(float(scores.std()), 1e-12)
    mean = fitted.mean if m.features.offset is None else fitted.mean + m.features.offset
    return torch.from_numpy(loadings).float(), torch.from_numpy(mean).float()


def _seen(features: FeatureMatrix, likelihood: Likelihood, form: str) -> CSR | FloatArray:
    """Return values as `Likelihood.encoder_input` gives them; sparse values stay sparse."""
    x = features.values
    factor = (features.median_total() / np.maximum(features.totals(), 1)).astype(np.float32)
    if isinstance(x, np.ndarray):
        return likelihood.encoder_input(x, form, factor[:, None])
    values = likelihood.encoder_input(x.data, form, np.repeat(factor, np.diff(x.indptr)))
    return sparse.csr_matrix((values, x.indices, x.indptr), shape=x.shape)


def log_dispersion(features: FeatureMatrix) -> Tensor:
    """Log inverse dispersion of counts from their moments, `(p,)`, as if cells differed in library size only.

    For negative binomial x of mean l q, E[x (x - 1)] = (l q)^2 (1 + 1 / r).
    """
    depth, sums, squares = features.totals(), np.zeros(features.n_vars), np.zeros(features.n_vars)
    for x in features.blocks():
        square = np.square(x) if isinstance(x, np.ndarray) else x.multiply(x)
        sums += np.asarray(x.sum(axis=0), np.float64).ravel()
        squares += np.asarray(square.sum(axis=0), np.float64).ravel()
    q = sums / max(depth.sum(), 1.0)
    pairs = squares - sums
    alike = q**2 * np.square(depth).sum()
    excess = np.divide(pairs, alike, out=np.full(len(q), 2.0), where=alike > 0) - 1
    # one part in 50 is the least that is seen, and a feature of few counts says nothing beyond 20
    return -torch.log(torch.from_numpy(excess.clip(0.02, 20.0)))


def anchors(bundle: MultiOmics, params: MultigrateParams, *, seed: int) -> tuple[Tensor, Tensor]:
    """Return anchors `(n_cells, d)` and which cells have one, `(n_cells,)`: those with all modalities.

    Joint principal components hold the main variation of all modalities together, and averaging over
    neighbours removes noise: a likelihood alone spreads noise of single features over all dimensions. With
    peaks, which are shallow, the components are cleaned (`joint_components`).
    Anchors have unit variance on average.
    """
    whole = np.flatnonzero((bundle.rows >= 0).all(1))
    z = np.zeros((bundle.n_cells, params.n_latent), np.float32)
    drawn = np.zeros(bundle.n_cells, np.float32)
    if len(whole) > 2:
        modalities = [
            Measured(
                m.features.values,
                bundle.rows[whole, column],
                np.arange(len(whole)),
                m.features.median_total() if m.is_counted else None,
            )
            for column, m in enumerate(bundle.modalities.values())
        ]
        # measured: of RNA with proteins no more is told apart by it
        cleaned = any(m.kind is ModalityKind.ATAC for m in bundle.modalities.values())
        points = joint_components(
            modalities, len(whole), params.n_latent, batch=None, seed=seed, cleaned=cleaned
        )
        if bundle.batch is not None:
            points = mix_batches(points, bundle.batch.codes[whole], seed=seed)
        points = points.astype(np.float32)
        some = drawn_rows(len(whole), FIT_CELLS, seed=seed)
        k = min(params.anchor_neighbors, len(some) - 1)
        if k:
            neighbors = knn(points, points[some], k, exclude_self=len(some) == len(whole))[1]
            points = 0.5 * points + 0.5 * neighbor_mean(points[some], neighbors)
        z[whole] = points / max(float(points.std()), 1e-12)
        drawn[whole] = 1
    return torch.from_numpy(z), torch.from_numpy(drawn)


class Levels(nn.Module):
    """Embedding of one categorical covariate; rows that a query adds are parameters of their own.

    So existing rows stay the same bit for bit, whatever an optimiser does: not even weight decay reaches
    them.
    """

    def __init__(self, n_known: int, n_added: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_known, width))
        self.added = nn.Parameter(torch.randn(n_added, width)) if n_added else None

    @property
    def table(self) -> Tensor:
        """All rows, `(n_known + n_added, width)`."""
        return self.weight if self.added is None else torch.cat([self.weight, self.added])

    def forward(self, codes: Tensor) -> Tensor:
        """`(B,)` to `(B, width)`; -1 stands at the mean of the levels."""
        table = self.table
        is_known = (codes >= 0).unsqueeze(1)
        return torch.where(is_known, table[codes.clamp_min(0)], table.mean(0))

    def extend(self, smaller: Levels) -> None:
        """Copy the rows of a smaller table; new levels start at the mean of its levels."""
        with torch.no_grad():
            rows = smaller.table
            self.weight.copy_(rows)
            if self.added is not None:
                self.added.copy_(rows.mean(0).expand_as(self.added))


class Covariates(nn.Module):
    """Embeddings of covariates: one for each categorical covariate, and one for all continuous ones together.

    Args:
        n_levels: Number of levels by key: those of the model, and those that a query adds.
        n_continuous: Number of continuous covariates.
    """

    def __init__(
        self, n_levels: Mapping[str, tuple[int, int]], n_continuous: int, width: int, response: str
    ) -> None:
        super().__init__()
        self.keys = list(n_levels)
        self.tables = nn.ModuleList(Levels(n_known, added, width) for n_known, added in n_levels.values())
        self.response = ContinuousResponse(n_continuous, width, response) if n_continuous else None
        self.width = width * (len(self.keys) + (self.response is not None))

    def forward(self, n: int, conditions: Conditions | None) -> Tensor:
        """`(n, width)`; a missing level, or no conditions at all, stands at the mean level."""
        device = next(self.parameters()).device if self.width else None
        codes, continuous = conditions if conditions is not None else ({}, None)
        parts = []
        for key, table in zip(self.keys, self.tables, strict=True):
            codes_of_key = codes[key] if key in codes else torch.full((n,), -1, device=device)
            parts.append(table(codes_of_key))
        if self.response is not None:
            values = self.response.mean.expand(n, -1) if continuous is None else continuous
            parts.append(self.response(values))
        return torch.cat(parts, dim=1) if parts else torch.zeros(n, 0, device=device)
