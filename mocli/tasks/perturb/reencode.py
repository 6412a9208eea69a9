"""Cells of one modality placed in the latent, and placed again after features of theirs have changed.

Where the encoder begins with a linear layer (`EntersLinearly`), a changed feature is one row of its
weights, times the change, added to the layer's output: only the narrow layers behind are computed
again. Other encoders see the whole changed input. Both give the same places. Without encoders cells
settle anew (`settling`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from scipy import sparse

from mocli.data.batches import Rows, densify
from mocli.data.transforms.response import RecipeResponse
from mocli.data.transforms.transform import LOGNORM
from mocli.models.base import Encodes, EntersLinearly
from mocli.nn.neighbors import chunks
from mocli.tasks.perturb.settle import Settled
from mocli.train.predict import BLOCK

if TYPE_CHECKING:
    from mocli.tasks.infer.place import LatentCells
    from mocli.tasks.perturb.effect import Effect
    from mocli.tasks.trained.saved import SavedModel
    from mocli.types import CSR, DoubleArray, FloatArray, IntArray

NARROW = 16_384
"""Changed cells at a time through the narrow layers."""

WIDE_VALUES = 4_000_000
"""Values of changed inputs at a time, for encoders that see all of them."""


class Mover(Protocol):
    """Where cells are, and where changes take them."""

    @property
    def z(self) -> FloatArray:
        """Where the cells are, `(n, n_latent)`."""

    def enter(self, values: DoubleArray, cells: IntArray) -> DoubleArray:
        """Return what the first linear part sees of single values of some cells, `(m,)` each."""

    def place(self, cells: IntArray, delta: CSR) -> FloatArray:
        """Return where cells are after changes, `(m, n_latent)`.

        Parameters
        ----------
        cells
            `(m,)`, repeats allowed.
        delta
            `(m, n_used)`, changes of what `enter` returns.
        """


@dataclass(frozen=True, eq=False)
class Encoded:
    """Cells that are encoded again.

    Attributes
    ----------
    linear
        The model where it begins with a linear layer; None: whole inputs are encoded.
    library
        Totals of what the encoder sees, `(n,)`.
    start
        The first layer's output `(n, n_hidden)`, or the encoder's input `(n, n_in)`.
    weights
        What a unit change of a used feature adds to `start`, `(n_used, width)`; None: `scale` of itself.
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
        """As the first layer takes them."""
        if self.linear is None:
            return values
        library = torch.from_numpy(self.library[cells].astype(np.float64))
        found: DoubleArray = self.linear.entry_values(
            self.modality, torch.from_numpy(values), library
        ).numpy()
        return found

    def place(self, cells: IntArray, delta: CSR) -> FloatArray:
        """Encode from the first layer on, or as a whole."""
        delta = sparse.csr_matrix(delta, dtype=np.float32)
        out = []
        linear = self.linear
        size = NARROW if linear is not None else max(64, WIDE_VALUES // self.start.shape[1])
        for part in chunks(len(cells), size):
            added = densify(delta[part]) * self.scale if self.weights is None else delta[part] @ self.weights
            moved = torch.from_numpy(self.start[cells[part]] + added).to(self.device)
            with torch.inference_mode():
                if linear is None:
                    found = self.model.encode(self.modality, moved)
                else:
                    found = linear.leave(self.modality, moved)
            out.append(found.float().cpu().numpy())
        return np.concatenate(out) if out else np.zeros((0, self.z.shape[1]), np.float32)


@dataclass(frozen=True, eq=False)
class Replacement:
    """Cells of a modality, ready to be changed.

    Attributes
    ----------
    x
        Raw values in the model's order of features, `(n, n_vars)`, by column.
    factor, log_factor
        Of every cell: what the recipe normalises by, and what `log-shift` does, `(n,)`.
    """

    modality: str
    response: RecipeResponse
    x: CSR
    factor: DoubleArray
    log_factor: DoubleArray
    logged: bool
    mover: Mover

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
        """Place cells by one modality through the saved transforms.

        Own neighbours over which inputs are averaged stay those of the cell before the change.

        Parameters
        ----------
        x, absent
            As in `projection.place`; absent features cannot be changed.
        closed_form
            False sends whole inputs through the encoder, as is done for encoders that do not begin
            with a linear layer.
        """
        model, recipe = saved.model, saved.recipes[modality]
        if not isinstance(model, Encodes):
            raise TypeError(f"{type(model).__name__} cannot encode")
        model.module.to(device).eval()
        response = RecipeResponse.of(recipe)
        features = recipe.apply(x, absent)
        own = np.float32(1)
        if modality in saved.references:
            reference = saved.references[modality]
            features, own = reference.average(features), np.float32(1 - reference.weight)
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
            weights = None if response.directions is None else response.directions * own
            if linear is not None:
                entry = linear.entry_weights(modality).float().cpu().numpy()
                weights = entry * own if weights is None else weights @ entry
        mover = Encoded(
            model, linear, modality, np.concatenate(library), np.concatenate(start), weights, own,
            np.concatenate(z), device,
        )  # fmt: skip
        return cls._of(saved, response, modality, x, absent, mover)

    @classmethod
    def settled(
        cls, saved: SavedModel, modality: str, x: CSR, absent: IntArray, placed: LatentCells, rows: IntArray
    ) -> Replacement:
        """Take cells that were placed by training.

        Parameters
        ----------
        x, absent
            As in `of`, of these cells.
        placed, rows
            Where the cells are, perhaps among others.
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
        factor = log_factor = response.factor(x)
        transform = response.recipe.transform
        if transform.readable is not transform:
            log_factor = LOGNORM.factor(x, saved.readouts[modality].depth)
        known = sparse.csc_matrix(x)
        if len(absent):
            keep = np.ones(x.shape[1], np.float32)
            keep[absent] = 0
            known = sparse.csc_matrix(known @ sparse.diags(keep))
        known.eliminate_zeros()
        logged = saved.modalities[modality]["values"] == "lognorm"
        return cls(modality, response, known, factor, log_factor, logged, mover)

    @property
    def z(self) -> FloatArray:
        """Where the cells are, `(n, n_latent)`."""
        return self.mover.z

    def changes(
        self, column: int, effect: Effect, direction: str, absent: frozenset[int] = frozenset()
    ) -> tuple[IntArray, DoubleArray]:
        """Return the cells that a perturbed feature changes, and by how much.

        Parameters
        ----------
        column
            Of the model's features.

        Returns
        -------
        Cells `(m,)`; changes of what the linear part sees, `(m,)`, none of them 0.
        """
        used = int(self.response.place[column])
        if used < 0 or column in absent:
            return np.zeros(0, np.int64), np.zeros(0)
        span = slice(self.x.indptr[column], self.x.indptr[column + 1])
        cells, raw = self.x.indices[span].astype(np.int64), self.x.data[span].astype(np.float64)
        if effect.reaches_zeros(direction):
            every = np.zeros(self.x.shape[0])
            every[cells] = raw
            cells, raw = np.arange(len(every)), every
        after = effect.apply(raw, self.log_factor[cells], direction, logged=self.logged)
        at = np.full(len(cells), used)
        before, after = (
            self.mover.enter(self.response.values(v, self.factor[cells], at), cells) for v in (raw, after)
        )
        delta = after - before
        moved = np.flatnonzero(delta)
        return cells[moved], delta[moved]

    def place(self, cells: IntArray, delta: CSR) -> FloatArray:
        """Return where cells are after changes, `(m, n_latent)`, as `Mover.place`."""
        return self.mover.place(cells, delta)
