"""Latent coordinates of cells of one modality, before and after some of their features have changed.

Where the encoder begins with a linear layer (`EntersLinearly`), a changed feature is one row of its
weights, times the change, added to the layer's output: only the narrow layers behind are computed
again. Other encoders see the whole changed input. Both give the same coordinates.

Without encoders, the coordinates are found anew, to first order. A cell's coordinates z are where the
likelihood of its values x and the prior are highest together. If values change a little, so does z (the
implicit function theorem):

    dz = H^-1 sum_g s_g w_g dx_g,    H = sum_g w_g s_g s_g' + P

with s_g the slope of feature g's mean in z, w_g its Fisher information (of a negative binomial 1 / (mu +
mu^2 / r)) and P the curvature of the prior: one step of Fisher scoring. The total of the cell is held
fixed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from mocli.data.batches import Rows, densify
from mocli.data.transforms.recipe import RecipeResponse
from mocli.data.transforms.transform import LOGNORM
from mocli.models.base import Encodes, EntersLinearly, HasPrior
from mocli.nn.neighbors import chunks
from mocli.tasks.infer.query import SLOPES, LatentCells, pull, slopes
from mocli.tasks.perturb.cells import TOWARDS, Effect
from mocli.tasks.trained.saved import SavedModel
from mocli.train.predict import BLOCK
from mocli.types import CSR, BoolArray, DoubleArray, FloatArray, IntArray

NARROW = 16_384
"""Changed cells that pass the narrow layers at a time."""

WIDE_VALUES = 4_000_000
"""Values of changed inputs at a time, for encoders that see all of them."""

LEAST = 1e-8
"""A smaller mean counts as this much."""


class Mover(Protocol):
    """Latent coordinates of cells, before and after changes."""

    @property
    def z(self) -> FloatArray:
        """Latent coordinates of the cells, `(n, n_latent)`."""

    def enter(self, values: DoubleArray, cells: IntArray) -> DoubleArray:
        """Return the inputs of the first linear part for single values of some cells, `(m,)` each."""

    def place(self, cells: IntArray, delta: CSR) -> FloatArray:
        """Return where cells are after changes, `(m, n_latent)`.

        Args:
            cells: `(m,)`, repeats allowed.
            delta: `(m, n_used)`, changes of what `enter` returns.
        """


@dataclass(frozen=True, eq=False)
class Encoded:
    """Cells that are encoded again.

    Attributes:
        linear: The model where it begins with a linear layer; None: whole inputs are encoded.
        library: Library sizes of what the encoder sees, `(n,)`.
        start: The first layer's output `(n, n_hidden)`, or the encoder's input `(n, n_in)`.
        weights: What a unit change of a used feature adds to `start`, `(n_used, width)`; None: `scale` of
            itself.
    """

    model: Encodes
    linear: EntersLinearly | None
    modality: str
    library: FloatArray
    start: FloatArray
    weights: FloatArray | None
    scale: np.float32
    z: FloatArray
    device: torch.device

    def enter(self, values: DoubleArray, cells: IntArray) -> DoubleArray:
        """Return values in the form that the first layer takes."""
        if self.linear is None:
            return values
        library = torch.from_numpy(self.library[cells].astype(np.float64))
        return self.linear.entry_values(self.modality, torch.from_numpy(values), library).numpy()

    def place(self, cells: IntArray, delta: CSR) -> FloatArray:
        """Encode from the first layer on, or the whole input."""
        delta = sparse.csr_matrix(delta, dtype=np.float32)
        out = []
        linear = self.linear
        size = NARROW if linear is not None else max(64, WIDE_VALUES // self.start.shape[1])
        for part in chunks(len(cells), size):
            added = densify(delta[part]) * self.scale if self.weights is None else delta[part] @ self.weights
            moved = torch.from_numpy(self.start[cells[part]] + added).to(self.device)
            with torch.inference_mode():
                if linear is None:
                    latent = self.model.encode(self.modality, moved)
                else:
                    latent = linear.leave(self.modality, moved)
            out.append(latent.float().cpu().numpy())
        return np.concatenate(out) if out else np.zeros((0, self.z.shape[1]), np.float32)


class Settled:
    """Cells whose coordinates were trained, and how these respond to changes of their values.

    Args:
        placed: These cells, and perhaps more.
        rows: Of these cells among those placed, `(n,)`.
        library: Their totals as the model takes them, `(n,)`.
        measured: Whether a feature of the decoder was measured, `(n_used,)`.
    """

    def __init__(
        self, placed: LatentCells, modality: str, rows: IntArray, library: FloatArray, *, measured: BoolArray
    ) -> None:
        self.placed, self.modality, self.rows = placed, modality, rows
        self.library = torch.from_numpy(library).to(placed.device)
        self.z: FloatArray = placed.z[rows]
        d, p = self.z.shape[1], len(measured)
        columns = torch.from_numpy(np.flatnonzero(measured)).to(placed.device)
        parts = [torch.zeros((0, d, d), dtype=torch.from_numpy(self.z).dtype)]
        for block in chunks(len(rows), max(1, SLOPES // (p * (d + 1)))):
            cells = np.arange(block.start, block.stop)
            slope, weight = self._slopes(cells, columns)
            curvature = torch.einsum("bki,bk,bkj->bij", slope, weight, slope)
            prior = torch.ones(len(cells), d, device=placed.device, dtype=slope.dtype)
            if isinstance(placed.model, HasPrior):
                with torch.inference_mode():
                    prior = placed.model.prior_precision(placed.place(rows[cells])).to(slope.dtype)
            # in the processor's memory: cells times the square of the dimensions
            parts.append(torch.linalg.cholesky(curvature + torch.diag_embed(prior)).cpu())
        self._half = torch.cat(parts)

    def enter(self, values: DoubleArray, cells: IntArray) -> DoubleArray:
        """Return values unchanged."""
        return values

    def place(self, cells: IntArray, delta: CSR) -> FloatArray:
        """Return new coordinates `(m, d)` of cells `(m,)` after changes `(m, n_used)` of their values."""
        delta = sparse.csr_matrix(delta)
        out = self.z[cells].copy()
        columns, where = np.unique(delta.indices, return_inverse=True)
        pair = np.repeat(np.arange(len(cells)), np.diff(delta.indptr))
        cell = cells[pair]
        order = np.argsort(cell, kind="stable")
        wanted = np.unique(cell)
        chosen = torch.from_numpy(columns.astype(np.int64)).to(self.placed.device)
        size = max(1, SLOPES // ((self.z.shape[1] + 1) * max(len(columns), 1) + delta.shape[1]))
        for block in chunks(len(wanted), size):
            some = wanted[block]
            slope, weight = self._slopes(some, chosen)
            turned = (slope * weight.unsqueeze(2)).transpose(1, 2)
            half = self._half[torch.from_numpy(some)].to(turned.device)
            answer = torch.cholesky_solve(turned, half).cpu().numpy()
            block_entries = order[slice(*np.searchsorted(cell[order], [some[0], some[-1] + 1]))]
            row = np.searchsorted(some, cell[block_entries])
            np.add.at(
                out,
                pair[block_entries],
                answer[row, :, where[block_entries]] * delta.data[block_entries, None],
            )
        return out

    def _slopes(self, cells: IntArray, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes of some features' means `(B, k, d)`, and their Fisher information `(B, k)`."""
        placed, rows = self.placed, self.rows[cells]
        library = self.library[torch.from_numpy(cells).to(placed.device)]
        mean, slope = slopes(placed, self.modality, placed.place(rows), rows, library, columns)
        # of a mean of 0, as in a cell without counts, Fisher's information has no bound
        mean = torch.where(mean.abs() < LEAST, torch.full_like(mean, LEAST), mean)
        none, one = torch.zeros_like(mean), torch.ones_like(mean)
        # what one more count adds to the loss's derivative in the mean
        weight = pull(placed.model, self.modality, columns, none, mean) - pull(
            placed.model, self.modality, columns, one, mean
        )
        return slope, weight.clamp_min(0) * (library > 0).unsqueeze(1)


@dataclass(frozen=True, eq=False)
class Replacement:
    """Cells of a modality whose features can be changed.

    Attributes:
        x: Raw values in the model's order of features, `(n, n_vars)`, by column.
        factor, log_factor: For every cell, what the recipe normalises by, and what `log-shift` does, `(n,)`.
        absent: Features that the cells were not measured for: they cannot change.
        level, difference: Mean normalised logs of these cells, and of target cells less these, `(n_vars,)`;
            else None.
    """

    modality: str
    response: RecipeResponse
    x: CSR
    factor: DoubleArray
    log_factor: DoubleArray
    logged: bool
    mover: Mover
    absent: frozenset[int] = frozenset()
    difference: DoubleArray | None = None
    level: DoubleArray | None = None

    @classmethod
    def of(
        cls,
        saved: SavedModel,
        modality: str,
        x: CSR,
        absent: IntArray,
        device: torch.device,
        *,
        closed_form: bool = True,
    ) -> Replacement:
        """Encode cells from one modality through the saved transforms.

        The neighbours that inputs are averaged over stay those of the cell before the change.

        Args:
            x, absent: As in `projection.place`; absent features cannot be changed.
            closed_form: False sends whole inputs through the encoder, as is done for encoders that do not
                begin with a linear layer.
        """
        model, recipe = saved.model, saved.recipes[modality]
        if not isinstance(model, Encodes):
            raise TypeError(f"{type(model).__name__} cannot encode")
        model.module.to(device).eval()
        response = RecipeResponse.of(recipe)
        features = recipe.apply(x, absent)
        own_weight = np.float32(1)
        if modality in saved.references:
            reference = saved.references[modality]
            features = reference.average(features, device=str(device))
            own_weight = np.float32(1 - reference.weight)
        rows = Rows(features, device)
        linear = model if closed_form and isinstance(model, EntersLinearly) else None
        start, library, z = [], [], []
        with torch.inference_mode():
            for part in chunks(features.n_obs, BLOCK):
                block = rows.take(torch.arange(part.start, part.stop))
                library.append(block.sum(1).cpu().numpy())
                if linear is None:
                    start.append(block.cpu().numpy())
                    z.append(model.encode(modality, block).float().cpu().numpy())
                else:
                    hidden = linear.enter(modality, block)
                    start.append(hidden.cpu().numpy())
                    z.append(linear.leave(modality, hidden).float().cpu().numpy())
            weights = None if response.directions is None else response.directions * own_weight
            if linear is not None:
                entry = linear.entry_weights(modality).float().cpu().numpy()
                weights = entry * own_weight if weights is None else weights @ entry
        mover = Encoded(
            model, linear, modality, np.concatenate(library), np.concatenate(start), weights, own_weight,
            np.concatenate(z), device,
        )  # fmt: skip
        return cls._of(saved, response, modality, x, absent, mover)

    @classmethod
    def settled(
        cls, saved: SavedModel, modality: str, x: CSR, absent: IntArray, placed: LatentCells, rows: IntArray
    ) -> Replacement:
        """Take cells whose coordinates were trained.

        Args:
            x, absent: As in `of`, of these cells.
            placed, rows: The coordinates of the cells, perhaps among others.
        """
        recipe = saved.recipes[modality]
        response = RecipeResponse.of(recipe)
        used = response.used
        measured = ~np.isin(used, absent)
        library = np.asarray(recipe.apply(x, absent).values.sum(axis=1), np.float32).ravel()
        mover = Settled(placed, modality, rows, library, measured=measured)
        return cls._of(saved, response, modality, x, absent, mover)

    @classmethod
    def _of(
        cls,
        saved: SavedModel,
        response: RecipeResponse,
        modality: str,
        x: CSR,
        absent: IntArray,
        mover: Mover,
    ) -> Replacement:
        factor, log_factor = response.factor(x), log_factors(saved, modality, x)
        measured = sparse.csc_matrix(x)
        if len(absent):
            keep = np.ones(x.shape[1], np.float32)
            keep[absent] = 0
            measured = sparse.csc_matrix(measured @ sparse.diags(keep))
        measured.eliminate_zeros()
        logged = saved.modalities[modality]["values"] == "lognorm"
        gone = frozenset(int(c) for c in absent)
        return cls(modality, response, measured, factor, log_factor, logged, mover, gone)

    @property
    def z(self) -> FloatArray:
        """Latent coordinates of the cells, `(n, n_latent)`."""
        return self.mover.z

    def with_targets(self, saved: SavedModel, x: CSR) -> Replacement:
        """Return the same cells, with how the raw values `(n, n_vars)` of target cells differ from theirs."""
        level = mean_logs(self.x, self.log_factor, logged=self.logged)
        targets = mean_logs(x, log_factors(saved, self.modality, x), logged=self.logged)
        difference = targets - level
        difference[list(self.absent)] = 0.0
        return replace(self, difference=difference, level=level)

    def changes(self, column: int, effect: Effect, direction: str) -> tuple[IntArray, DoubleArray]:
        """Return the cells that a perturbed feature changes, and by how much.

        Args:
            column: Of the model's features.

        Returns:
            Cells `(m,)`; changes of what the linear part sees, `(m,)`, none of them 0.
        """
        used = int(self.response.place[column])
        if used < 0 or column in self.absent:
            return np.zeros(0, np.int64), np.zeros(0)
        if effect.kind == TOWARDS:
            assert self.difference is not None
            assert self.level is not None
            effect, direction = effect.of_feature(self.difference[column], self.level[column])
        span = slice(self.x.indptr[column], self.x.indptr[column + 1])
        cells, raw = self.x.indices[span].astype(np.int64), self.x.data[span].astype(np.float64)
        if effect.reaches_zeros(direction):
            every = np.zeros(self.x.shape[0])
            every[cells] = raw
            cells, raw = np.arange(len(every)), every
        after = effect.apply(raw, self.log_factor[cells], direction, logged=self.logged)
        unperturbed = np.full(len(cells), used)
        before, after = (
            self.mover.enter(self.response.values(v, self.factor[cells], unperturbed), cells)
            for v in (raw, after)
        )
        delta = after - before
        moved = np.flatnonzero(delta)
        return cells[moved], delta[moved]

    def place(self, cells: IntArray, delta: CSR) -> FloatArray:
        """Return where cells are after changes, `(m, n_latent)`, as `Mover.place`."""
        return self.mover.place(cells, delta)


def log_factors(saved: SavedModel, modality: str, x: CSR) -> DoubleArray:
    """Return the factor of each cell's raw values `(n, n_vars)` before the logarithm, `(n,)`."""
    transform = saved.recipes[modality].transform
    if transform.readable is not transform:
        return LOGNORM.factor(x, saved.readouts[modality].depth)
    return RecipeResponse.of(saved.recipes[modality]).factor(x)


def mean_logs(x: CSR, factor: DoubleArray, *, logged: bool) -> DoubleArray:
    """Return mean normalised logs of raw values `(n, n_vars)`, `(n_vars,)`; of logs, their means."""
    values = sparse.csr_matrix(x, dtype=np.float64, copy=True)
    if not logged:
        rows = np.repeat(np.arange(values.shape[0]), np.diff(values.indptr))
        values.data = np.log1p(np.maximum(values.data, 0) * factor[rows])
    return np.asarray(values.mean(axis=0), np.float64).ravel()
