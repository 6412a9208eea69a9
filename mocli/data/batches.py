"""Minibatches: draw rows, cut them, make them dense. The only place that densifies.

Draws come from a CPU generator whatever the device, so the same seed gives the
same cells everywhere. On the CPU, rows are cut by scipy (gathering with torch is
2 to 10 times slower there); on an accelerator the sparse arrays stay resident
and one scatter fills the dense minibatch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from mocli.data.bundle import FeatureMatrix, Minibatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mocli.data.bundle import MultiOmics
    from mocli.models.base import Sampling
    from mocli.types import CSR, FloatArray, IntArray

CELLS = "cells"


def densify(x: CSR | FloatArray) -> FloatArray:
    """Return a sparse or dense matrix as a dense, C-contiguous float32 array."""
    return np.ascontiguousarray(x if isinstance(x, np.ndarray) else x.toarray(), dtype=np.float32)


def dense_rows(features: FeatureMatrix, rows: IntArray, columns: IntArray | None = None) -> FloatArray:
    """Return rows of a feature matrix, and of these some columns, dense and with the offset, `(n, m)`."""
    values = averaged_rows(features, rows)
    offset = features.offset
    if columns is not None:
        values = values[:, columns]
        offset = None if offset is None else offset[columns]
    x = densify(values)
    return x if offset is None else x + offset


def averaged_rows(features: FeatureMatrix, rows: IntArray) -> CSR | FloatArray:
    """Return rows, each averaged with its neighbours where there are any, without the offset."""
    neighbors, weight = features.neighbors, features.smoothing
    if neighbors is None or weight == 0:
        return features.values[rows]
    n, k = len(rows), neighbors.shape[1]
    columns = np.concatenate([rows[:, None], neighbors[rows]], axis=1).ravel()
    weights = np.tile(np.r_[1 - weight, np.full(k, weight / k)].astype(np.float32), n)
    average = sparse.csr_matrix(
        (weights, columns, np.arange(0, n * (k + 1) + 1, k + 1)), shape=(n, features.n_obs)
    )
    return average @ features.values


class ResidentCsr:
    """CSR arrays on a device, from which rows are scattered into a dense minibatch.

    Row bounds are also kept on the host, so that a draw costs no synchronisation.
    """

    def __init__(self, x: CSR, device: torch.device) -> None:
        self.shape = x.shape
        self.bounds = torch.from_numpy(x.indptr.astype(np.int64))
        self.columns = torch.from_numpy(x.indices).to(device)
        self.values = torch.from_numpy(x.data).to(device)
        self.device = device

    def take(self, index: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return rows by number, `(B,)` on the host, as `(B, n_vars)`.

        A table `(B, m)` with `weights` `(m,)` gives weighted sums of rows.
        """
        bags, index = index, index.reshape(-1)
        n_rows, n_vars = len(index), self.shape[1]
        starts = self.bounds[index]
        lengths = self.bounds[index + 1] - starts
        stored = int(lengths.sum())
        # Stored value k of the minibatch sits at k + shift[its row] in the resident arrays.
        shift = (starts - (lengths.cumsum(0) - lengths)).to(self.device, non_blocking=True)
        lengths = lengths.to(self.device, non_blocking=True)
        row = torch.repeat_interleave(torch.arange(n_rows, device=self.device), lengths, output_size=stored)
        position = torch.arange(stored, device=self.device) + shift[row]
        values = self.values[position]
        if weights is not None:
            m = bags.shape[1]
            values, row, n_rows = values * weights.to(self.device)[row % m], row // m, len(bags)
        flat = torch.zeros(n_rows * n_vars, device=self.device)
        flat.scatter_add_(0, row * n_vars + self.columns[position].long(), values)
        return flat.view(n_rows, n_vars)


class Rows:
    """One `FeatureMatrix` on a device, read by row numbers."""

    def __init__(self, features: FeatureMatrix, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.n_obs, self.n_vars = features.n_obs, features.n_vars
        offset = features.offset
        self._offset = None if offset is None else torch.from_numpy(offset.astype(np.float32)).to(self.device)
        values = features.values
        self._features = features
        self._source: CSR | ResidentCsr | Tensor
        if isinstance(values, np.ndarray):
            self._source = torch.from_numpy(densify(values)).to(self.device)
        elif self.device.type == "cpu":
            self._source = values
        else:
            if not values.has_canonical_format:
                values = values.copy()
                values.sum_duplicates()
            self._source = ResidentCsr(values.astype(np.float32, copy=False), self.device)

    def take(self, index: Tensor) -> Tensor:
        """Return rows by number, `(B,)` int64, as `(B, n_vars)` float32 on the device, offset included."""
        if self.device.type == "cpu":
            x = torch.from_numpy(densify(averaged_rows(self._features, index.numpy())))
        else:
            x = self._take_resident(index.cpu())
        return x if self._offset is None else x.add_(self._offset)

    def _take_resident(self, index: Tensor) -> Tensor:
        neighbors, weight = self._features.neighbors, self._features.smoothing
        if neighbors is None or weight == 0:
            resident = self._source
            return resident[index.to(self.device)] if isinstance(resident, Tensor) else resident.take(index)
        bags = torch.cat([index[:, None], torch.from_numpy(neighbors[index.numpy()].astype(np.int64))], dim=1)
        k = neighbors.shape[1]
        weights = torch.tensor([1 - weight] + [weight / k] * k, dtype=torch.float32)
        if isinstance(self._source, Tensor):
            rows = self._source[bags.to(self.device)]
            return torch.einsum("bmp,m->bp", rows, weights.to(self.device))
        return self._source.take(bags, weights)


class Batches:
    """Draws minibatches from a bundle, for ever.

    - independent, with replacement: every modality draws `batch_size` of its own
      rows;
    - independent, without: every modality cycles through permutations of its own
      rows, `min(batch_size, n_obs)` at a time;
    - not independent, with replacement: `batch_size` cells are drawn;
    - not independent, without: cells are permuted epoch by epoch; the last
      minibatch of an epoch is short, and left out if a single cell remains.

    When cells are drawn, a modality contributes the rows of those that have it,
    in the order drawn: none at all is possible.

    Parameters
    ----------
    generator
        A CPU generator; it is advanced by `next` and belongs to the state.
    """

    def __init__(
        self,
        bundle: MultiOmics,
        sampling: Sampling,
        *,
        device: torch.device | str,
        generator: torch.Generator,
    ) -> None:
        if generator.device.type != "cpu":
            raise ValueError("the generator must live on the CPU")
        self.bundle = bundle
        self.sampling = sampling
        self.device = torch.device(device)
        self.generator = generator
        self._x = {name: Rows(m.features, self.device) for name, m in bundle.modalities.items()}
        self._links = {
            link.edge: (Rows(link.source_features, self.device), Rows(link.target_features, self.device))
            for link in bundle.links
        }
        self._row_of_cell = torch.from_numpy(np.ascontiguousarray(bundle.rows, dtype=np.int64))
        sizes = {name: rows.n_obs for name, rows in self._x.items()}
        self._sizes = sizes if sampling.independent else {CELLS: bundle.n_cells}
        self._order = {name: torch.empty(0, dtype=torch.int64) for name in self._sizes}
        self._position = dict.fromkeys(self._sizes, 0)

    def next(self, step: int) -> Minibatch:
        """Draw the next minibatch; `step` is only recorded in it."""
        rows = self._draw()
        return Minibatch(
            x={name: self._x[name].take(index) for name, index in rows.items()},
            links={
                edge: (source.take(rows[edge[0]]), target.take(rows[edge[1]]))
                for edge, (source, target) in self._links.items()
            },
            rows={name: index.to(self.device, non_blocking=True) for name, index in rows.items()},
            step=step,
        )

    def _draw(self) -> dict[str, Tensor]:
        """Return row numbers by modality, on the host."""
        size = self.sampling.batch_size
        if self.sampling.replacement:
            drawn = {
                name: torch.randint(n, (size,), generator=self.generator) for name, n in self._sizes.items()
            }
        elif self.sampling.independent:
            drawn = {name: self._cycle(name, min(size, n)) for name, n in self._sizes.items()}
        else:
            drawn = {CELLS: self._epoch(size)}
        if self.sampling.independent:
            return drawn
        per_modality = self._row_of_cell[drawn[CELLS]].unbind(dim=1)
        return {name: row[row >= 0] for name, row in zip(self._x, per_modality, strict=True)}

    def _shuffle(self, name: str) -> None:
        self._order[name] = torch.randperm(self._sizes[name], generator=self.generator)
        self._position[name] = 0

    def _cycle(self, name: str, size: int) -> Tensor:
        """Take `size` rows, going on into the next permutation where one ends."""
        taken = self._order[name][self._position[name] :][:size]
        self._position[name] += len(taken)
        if len(taken) < size:
            self._shuffle(name)
            taken = torch.cat([taken, self._cycle(name, size - len(taken))])
        return taken

    def _epoch(self, size: int) -> Tensor:
        """Take the next `size` cells of the epoch; fewer at its end, but not a single one."""
        left = len(self._order[CELLS]) - self._position[CELLS]
        if left == 0 or (left == 1 and size > 1):
            self._shuffle(CELLS)
        return self._cycle(CELLS, min(size, len(self._order[CELLS]) - self._position[CELLS]))

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that `next` depends on, as tensors: an exact resume needs no more."""
        state = {"generator": self.generator.get_state()}
        for name in self._sizes:
            state[f"order.{name}"] = self._order[name]
            state[f"position.{name}"] = torch.tensor(self._position[name])
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict`; raises `ValueError` if it belongs to other data."""
        for name, size in self._sizes.items():
            order = state.get(f"order.{name}")
            if order is None or len(order) not in (0, size):
                raise ValueError(f"the saved order of '{name}' does not fit {size} rows")
            self._order[name] = order.cpu().to(torch.int64)
            self._position[name] = int(state[f"position.{name}"])
        self.generator.set_state(state["generator"].cpu())
