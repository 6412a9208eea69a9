"""Minibatches: draw rows, cut them, make them dense. The only place that densifies.

Draws come from a CPU generator whatever the device, so the same seed gives the
same cells everywhere. On the CPU, rows are cut by scipy (gathering with torch is
2 to 10 times slower there); on an accelerator the sparse arrays stay resident
and one scatter fills the dense minibatch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from mocli.data.bundle import FeatureMatrix, Minibatch, MultiOmics
from mocli.data.packed import RUN, PackedRows, is_dense
from mocli.models.base import Sampling
from mocli.types import CSR, FloatArray, IntArray, NonZeros

CELLS = "cells"

AVERAGED = 1024
"""Rows that are averaged at a time: the values of all their neighbours are held."""

LEADING_BITS = 3
"""Bits of the number of non-zeros that padding keeps: four sizes from one power of two to the next."""

WINDOW = 65_536
"""Cells that lie next to each other in an epoch over cells on disk: as many are drawn from at a time."""


def densify(x: CSR | FloatArray) -> FloatArray:
    """Return a sparse or dense matrix as a dense, C-contiguous float32 array."""
    return np.ascontiguousarray(x if isinstance(x, np.ndarray) else x.toarray(), dtype=np.float32)


def dense_rows(features: FeatureMatrix, rows: IntArray, columns: IntArray | None = None) -> FloatArray:
    """Return rows of a feature matrix, and of these some columns, dense and with the offset, `(n, m)`."""
    x, offset = averaged_rows(features, rows, columns), features.offset
    if offset is None:
        return x
    return x + (offset if columns is None else offset[columns])


def averaged_rows(features: FeatureMatrix, rows: IntArray, columns: IntArray | None = None) -> FloatArray:
    """Return rows, each averaged with its neighbours where there are any, dense and without the offset."""
    neighbors, weight = features.neighbors, features.smoothing
    if neighbors is None or weight == 0:
        cut = features.values[rows]
        return densify(cut if columns is None else cut[:, columns])
    k = neighbors.shape[1]
    weights = np.r_[1 - weight, np.full(k, weight / k)].astype(np.float32)
    averages = np.empty((len(rows), features.n_vars if columns is None else len(columns)), np.float32)
    for part in (slice(start, start + AVERAGED) for start in range(0, len(rows), AVERAGED)):
        members = np.concatenate([rows[part, None], neighbors[rows[part]]], axis=1)
        sums = _weighted_sums(features, members, weights)
        averages[part] = sums if columns is None else sums[:, columns]
    return averages


def _weighted_sums(features: FeatureMatrix, members: IntArray, weights: FloatArray) -> FloatArray:
    """Return the sums of rows `(n, m)`, by weight `(m,)`, dense."""
    values, (n, m), members = features.values, members.shape, members.ravel()
    if features.on_disk:
        read, members = np.unique(members, return_inverse=True)
        values = values[read]
    if isinstance(values, np.ndarray):
        ends = np.arange(0, n * m + 1, m)
        return densify(sparse.csr_matrix((np.tile(weights, n), members, ends), (n, len(values))) @ values)
    # one sparse row of all members' values, of which those of one feature are added up when it is made
    # dense: a product of two sparse matrices takes five times as long
    stored = values[members]
    scaled = stored.data * np.repeat(np.tile(weights, n), np.diff(stored.indptr))
    return densify(sparse.csr_matrix((scaled, stored.indices, stored.indptr[::m]), (n, values.shape[1])))


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
        bags, n_rows, n_vars = index, index.numel(), self.shape[1]
        values, row, column, _ = self.nonzeros(index.reshape(-1))
        if weights is not None:
            m = bags.shape[1]
            values, row, n_rows = values * weights.to(self.device)[row % m], row // m, len(bags)
        flat = torch.zeros(n_rows * n_vars, device=self.device)
        flat.scatter_add_(0, row * n_vars + column, values)
        return flat.view(n_rows, n_vars)

    def nonzeros(self, index: Tensor, *, padded: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return values, rows and columns of what is stored in rows, `(nnz,)`, and where each row starts.

        `padded`: zeros follow in the last row, at places that may be taken, so that few sizes occur.
        """
        n_rows = len(index)
        starts = self.bounds[index]
        lengths = self.bounds[index + 1] - starts
        filled = stored = int(lengths.sum())
        if padded and filled:
            unit = 1 << max(filled.bit_length() - LEADING_BITS, 0)
            stored = -(-filled // unit) * unit
            lengths[-1] += stored - filled
        # Stored value k of the minibatch sits at k + shift[its row] in the resident arrays.
        shift = (starts - (lengths.cumsum(0) - lengths)).to(self.device, non_blocking=True)
        lengths = lengths.to(self.device, non_blocking=True)
        row = torch.repeat_interleave(torch.arange(n_rows, device=self.device), lengths, output_size=stored)
        position = torch.arange(stored, device=self.device) + shift[row]
        first = (lengths.cumsum(0) - lengths).to(self.device)
        if stored == filled:
            return self.values[position], row, self.columns[position].long(), first
        # what follows the last row may be the end of everything
        position.clamp_max_(len(self.values) - 1)
        values = self.values[position]
        values[filled:] = 0
        return values, row, self.columns[position].long(), first


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
        # what lies on disk is cut on the host, as everything is where that is the device
        self._on_host = self.device.type == "cpu" or features.on_disk
        if isinstance(values, np.ndarray):
            self._source = torch.from_numpy(densify(values)).to(self.device)
        elif self._on_host:
            self._source = values
        else:
            if not values.has_canonical_format:
                values = values.copy()
                values.sum_duplicates()
            self._source = ResidentCsr(values.astype(np.float32, copy=False), self.device)

    def take(self, index: Tensor) -> Tensor:
        """Return rows by number, `(B,)` int64, as `(B, n_vars)` float32 on the device, offset included."""
        if self._on_host:
            x = torch.from_numpy(averaged_rows(self._features, index.cpu().numpy())).to(self.device)
        else:
            x = self._take_resident(index.cpu())
        return x if self._offset is None else x.add_(self._offset)

    def expect(self, rows: IntArray) -> None:
        """Have rows read ahead, where they lie on disk."""
        values = self._features.values
        if isinstance(values, PackedRows):
            values.expect(rows)

    def take_nonzeros(self, index: Tensor, *, padded: bool = False) -> NonZeros:
        """Return rows by number as their non-zeros; only of a sparse matrix without offset or neighbours.

        `padded`: as for `ResidentCsr.nonzeros`, where rows are cut on an accelerator.
        """
        shape = (len(index), self.n_vars)
        if isinstance(self._source, ResidentCsr):
            return NonZeros(*self._source.nonzeros(index.cpu(), padded=padded), shape)
        if isinstance(self._source, Tensor):
            raise TypeError("these rows are dense")
        cut = self._source[index.cpu().numpy()]
        starts = torch.from_numpy(cut.indptr.astype(np.int64))
        row = torch.repeat_interleave(torch.arange(len(index)), starts.diff())
        column = torch.from_numpy(cut.indices.astype(np.int64))
        values, row, column, first = (
            part.to(self.device) for part in (torch.from_numpy(cut.data), row, column, starts[:-1])
        )
        return NonZeros(values, row, column, first, shape)

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


class BundleRows:
    """A bundle on a device, cut into minibatches by row numbers or by cells.

    Args:
        device: Where minibatches are wanted.
        held_on: Where all features are stored; by default on `device`, which is quicker if rows are drawn
            many times.
        padded: Whether non-zeros are followed by zeros, so that their number takes few values.
    """

    def __init__(
        self,
        bundle: MultiOmics,
        device: torch.device | str,
        *,
        held_on: torch.device | str | None = None,
        padded: bool = False,
    ) -> None:
        self.device, self._padded = torch.device(device), padded
        store = self.device if held_on is None else torch.device(held_on)
        self.rows = {name: Rows(m.features, store) for name, m in bundle.modalities.items()}
        self._links = {
            link.edge: (Rows(link.source_features, store), Rows(link.target_features, store))
            for link in bundle.links
        }
        # what is taken for counts is told by its non-zeros: dense rows would be made in vain
        self._sparse = {
            name
            for name, m in bundle.modalities.items()
            if m.is_counted
            and not is_dense(m.features.values)
            and m.features.offset is None
            and m.features.neighbors is None
        }
        self.on_disk = bundle.on_disk
        self._library = {name: torch.from_numpy(m.library) for name, m in bundle.modalities.items()}
        self._row_of_cell = torch.from_numpy(np.ascontiguousarray(bundle.rows, dtype=np.int64))
        self._codes = {c.key: torch.from_numpy(c.codes.astype(np.int64)) for c in bundle.categorical}
        self._continuous = None if bundle.continuous is None else torch.from_numpy(bundle.continuous.values)

    def take(self, rows: Mapping[str, Tensor], step: int) -> Minibatch:
        """Cut rows by number, given on the host."""
        dense = [name for name in rows if name not in self._sparse]
        stored = {
            name: self.rows[name].take_nonzeros(rows[name], padded=self._padded)
            for name in rows
            if name in self._sparse
        }
        return Minibatch(
            x={name: self._send(self.rows[name].take(rows[name])) for name in dense},
            counts={name: self._send_nonzeros(nonzeros) for name, nonzeros in stored.items()},
            links={
                edge: (self._send(source.take(rows[edge[0]])), self._send(target.take(rows[edge[1]])))
                for edge, (source, target) in self._links.items()
            },
            rows={name: self._send(index) for name, index in rows.items()},
            library={name: self._send(self._library[name][index]) for name, index in rows.items()},
            step=step,
        )

    def take_cells(self, cells: Tensor, step: int) -> Minibatch:
        """Cut cells by number, `(B,)` on the host: of each modality the rows of those that have it."""
        per_modality = self._row_of_cell[cells].unbind(dim=1)
        rows, positions = {}, {}
        for name, row in zip(self.rows, per_modality, strict=True):
            positions[name] = (row >= 0).nonzero().squeeze(1)
            rows[name] = row[positions[name]]
        return replace(
            self.take(rows, step),
            cells=self._send(cells),
            positions={name: self._send(position) for name, position in positions.items()},
            codes={key: self._send(codes[cells]) for key, codes in self._codes.items()},
            continuous=None if self._continuous is None else self._send(self._continuous[cells]),
        )

    def expect(self, name: str, index: Tensor) -> None:
        """Have rows of a modality, or all that was measured of `CELLS`, read ahead."""
        if name in self.rows:
            self.rows[name].expect(index.numpy())
            return
        for rows, row in zip(self.rows.values(), self._row_of_cell[index].unbind(dim=1), strict=True):
            rows.expect(row[row >= 0].numpy())

    def _send(self, values: Tensor) -> Tensor:
        return values.to(self.device, non_blocking=True)

    def _send_nonzeros(self, nonzeros: NonZeros) -> NonZeros:
        values, row, column, starts = map(self._send, nonzeros[:4])
        return NonZeros(values, row, column, starts, nonzeros.shape)


def permuted_in_windows(n: int, *, generator: torch.Generator) -> Tensor:
    """Permute n numbers so that 65,536 which follow one another are runs of 64 that do, `(n,)`.

    Runs are drawn at random, and the numbers of a window then: read from a disk, a window is a thousand
    reads, not as many as it has cells. One window is a permutation like any other.
    """
    if n <= WINDOW:
        return torch.randperm(n, generator=generator)
    runs = torch.randperm(-(-n // RUN), generator=generator)
    order = (runs[:, None] * RUN + torch.arange(RUN)).reshape(-1)
    windows = torch.split(order[order < n], WINDOW)
    return torch.cat([w[torch.randperm(len(w), generator=generator)] for w in windows])


def strata_of(bundle: MultiOmics, balance: str) -> IntArray:
    """Return the stratum of every cell, from 0 and without gaps, `(n_cells,)`.

    A missing batch is a stratum of its own; without any batch there is one stratum.
    """
    if balance == "presence":
        values = bundle.patterns()
    elif balance == "batch":
        values = np.zeros(bundle.n_cells, np.int64) if bundle.batch is None else bundle.batch.codes
    else:
        raise ValueError(f"cells cannot be balanced by '{balance}'")
    return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)


class Batches:
    """Draws minibatches from a bundle, without end.

    - independent, with replacement: every modality draws `batch_size` of its own
      rows;
    - independent, without: every modality cycles through permutations of its own
      rows, `min(batch_size, n_obs)` at a time;
    - not independent, with replacement: `batch_size` cells are drawn;
    - not independent, without: cells are permuted epoch by epoch; the last
      minibatch of an epoch is short, and left out if a single cell (a process) remains.

    - balanced: every stratum of cells gives the same number, one more or less, or all it has;
      each cycles through permutations of its own cells.

    When cells are drawn, a modality contributes the rows of those that have it,
    in the order drawn: possibly none.

    Args:
        generator: A CPU generator; it is advanced by `next` and belongs to the state.
        cells: Cells to draw from, `(n,)`; None for all.
        share: Number of this process and of all: each keeps every n-th of what all draw alike.
        padded: As for `BundleRows`.
    """

    def __init__(
        self,
        bundle: MultiOmics,
        sampling: Sampling,
        *,
        device: torch.device | str,
        generator: torch.Generator,
        cells: IntArray | None = None,
        share: tuple[int, int] = (0, 1),
        padded: bool = False,
    ) -> None:
        if generator.device.type != "cpu":
            raise ValueError("the generator must live on the CPU")
        if sampling.independent and (cells is not None or sampling.balance is not None):
            raise ValueError("modalities that draw rows of their own cannot draw from some cells only")
        self.sampling = sampling
        self.generator = generator
        self.source = BundleRows(bundle, device, padded=padded)
        self._members: dict[str, Tensor] = {}
        if sampling.independent:
            self._sizes = {name: rows.n_obs for name, rows in self.source.rows.items()}
        else:
            chosen = np.arange(bundle.n_cells) if cells is None else np.asarray(cells)
            strata = strata_of(bundle, sampling.balance)[chosen] if sampling.balance else None
            parts = [chosen] if strata is None else [chosen[strata == k] for k in np.unique(strata)]
            names = [CELLS] if strata is None else [f"{CELLS}.{k}" for k in range(len(parts))]
            self._members = {n: torch.from_numpy(part) for n, part in zip(names, parts, strict=True)}
            self._sizes = {name: len(part) for name, part in self._members.items()}
        self._order = {name: torch.empty(0, dtype=torch.int64) for name in self._sizes}
        self._position = dict.fromkeys(self._sizes, 0)
        self._kept = slice(share[0], None, share[1])
        # two cells for each process, as normalisation over a minibatch needs
        self._fewest = (2 if sampling.batch_size > 1 else 1) * share[1]

    def next(self, step: int) -> Minibatch:
        """Draw the next minibatch; `step` is only recorded in it."""
        if self.sampling.independent:
            drawn = self._draw_rows()
            batch = self.source.take({name: rows[self._kept] for name, rows in drawn.items()}, step)
        else:
            batch = self.source.take_cells(self._draw_cells()[self._kept], step)
        return replace(batch, processes=self._kept.step)

    def _draw_rows(self) -> dict[str, Tensor]:
        """Return row numbers by modality, on the host."""
        size = self.sampling.batch_size
        if self.sampling.replacement:
            return {
                name: torch.randint(n, (size,), generator=self.generator) for name, n in self._sizes.items()
            }
        return {name: self._cycle(name, min(size, n)) for name, n in self._sizes.items()}

    def _draw_cells(self) -> Tensor:
        """Return numbers of cells, `(B,)`, on the host."""
        size = self.sampling.batch_size
        if self.sampling.balance:
            shares = self._shares(size)
            picked = [self._members[name][self._pick(name, n)] for name, n in shares.items() if n]
            return torch.cat(picked)
        index = self._pick(CELLS, size) if self.sampling.replacement else self._epoch(size)
        return self._members[CELLS][index]

    def _pick(self, name: str, size: int) -> Tensor:
        if self.sampling.replacement:
            return torch.randint(self._sizes[name], (size,), generator=self.generator)
        return self._cycle(name, size)

    def _shares(self, size: int) -> dict[str, int]:
        """Split a minibatch equally among the strata, though none gives more than all of its cells.

        The remainder goes to some of them at random.
        """
        shares = dict.fromkeys(self._sizes, 0)
        remaining = min(size, sum(self._sizes.values()))
        while remaining:
            open_ = [name for name, n in self._sizes.items() if shares[name] < n]
            if remaining < len(open_):
                lucky = torch.randperm(len(open_), generator=self.generator)[:remaining].tolist()
                open_ = [open_[k] for k in lucky]
            each = max(1, min(remaining // len(open_), min(self._sizes[n] - shares[n] for n in open_)))
            for name in open_:
                shares[name] += each
            remaining -= each * len(open_)
        return shares

    def _shuffle(self, name: str) -> None:
        permute = permuted_in_windows if self.source.on_disk else torch.randperm
        self._order[name] = permute(self._sizes[name], generator=self.generator)
        self._position[name] = 0
        self._expect(name, slice(0, WINDOW))

    def _expect(self, name: str, places: slice) -> None:
        """Have what an order holds at some places read ahead, where it lies on disk."""
        if self.source.on_disk and len(index := self._order[name][places]):
            self.source.expect(name, self._members[name][index] if name in self._members else index)

    def _cycle(self, name: str, size: int) -> Tensor:
        """Take `size` rows, going on into the next permutation where one ends."""
        drawn = self._order[name][self._position[name] :][:size]
        before, self._position[name] = self._position[name], self._position[name] + len(drawn)
        if before // WINDOW < self._position[name] // WINDOW or before == 0:
            # the window after the one that begins
            start = (self._position[name] // WINDOW + 1) * WINDOW
            self._expect(name, slice(start, start + WINDOW))
        if len(drawn) < size:
            self._shuffle(name)
            drawn = torch.cat([drawn, self._cycle(name, size - len(drawn))])
        return drawn

    @property
    def epoch_over(self) -> bool:
        """Say whether all cells have been drawn once more; always true if cells are not drawn in epochs."""
        sampling = self.sampling
        if sampling.independent or sampling.replacement or sampling.balance:
            return True
        return len(self._order[CELLS]) - self._position[CELLS] < self._fewest

    def _epoch(self, size: int) -> Tensor:
        """Take the next `size` cells of the epoch; fewer at its end, but no single one."""
        if self.epoch_over:
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
            if not torch.equal(self._order[name].sort().values, torch.arange(len(order))):
                raise ValueError(f"the saved order of '{name}' draws some rows twice")
            self._position[name] = int(state[f"position.{name}"])
            if not 0 <= self._position[name] <= len(order):
                raise ValueError(f"the saved position of '{name}' is {self._position[name]}")
        self.generator.set_state(state["generator"].cpu())
