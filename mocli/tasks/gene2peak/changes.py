"""What changes at every feature when a gene is silenced: a step in the latent, decoded before and after.

    pushes = push(cells, genes, way=Way.LATENT)      # where cells go that express the gene
    for change in changes(cells, pushes, "atac", ...):  # gene by gene, summed over groups of cells

Covariates and decoder stay the same; only the coordinates move. multiDGD (Schuster et al. 2024,
Methods, "In silico perturbation"): of the gene's likelihood at count 0 the gradient in the latent is
taken, and one step of Adam made with it. The first step of Adam is the learning rate times the sign of
the gradient, so that the size of the change does not depend on how strongly the gene is decoded. A step of
the same length along the gradient itself has that too, and goes in no direction that the gene does not name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mocli.data.batches import BundleRows
from mocli.data.bundle import Minibatch
from mocli.models.base import EncodesJointly
from mocli.nn.neighbors import chunks
from mocli.tasks.infer.query import SLOPES, LatentCells, pull, slopes
from mocli.types import CSR, BoolArray, DoubleArray, FloatArray, IntArray

RATE, DECAY, EPSILON = 1e-2, 1e-4, 1e-8
"""Of the authors' Adam: learning rate, L2 weight decay, and what keeps from division by 0."""

RAISED = 2.0
"""A raised gene gets its expected count times this."""

DECODED = 4_000_000
"""Values decoded at a time."""
KEPT = 160_000_000
"""Decoded values of all cells that may be kept, instead of being made again for every gene."""


class Step(StrEnum):
    """How far latent coordinates move along the gradient g, of d dimensions."""

    ADAM = "adam"  # the authors': 0.01 g / |g| in each dimension, with weight decay in g
    SIGN = "sign"  # the same without weight decay
    NORM = "norm"  # 0.01 sqrt(d) g / ||g||


class Way(StrEnum):
    """Where the gradient comes from."""

    LATENT = "latent"  # of the gene's likelihood through the decoder
    INPUT = "input"  # of the position, by encoding the cell again without the gene


@dataclass(frozen=True, eq=False)
class Pushes:
    """Where every cell that expresses a gene goes.

    Attributes:
        starts: `(n_units + 1,)`: the run of pairs of each gene, or set of genes.
        cells: `(n_pairs,)`.
        gradient: `(n_pairs, d)` of the loss; coordinates move against it.
    """

    starts: IntArray
    cells: IntArray
    gradient: FloatArray

    def of(self, unit: int) -> slice:
        """Pairs of one gene."""
        return slice(int(self.starts[unit]), int(self.starts[unit + 1]))


def moved(gradient: Tensor, z: Tensor, step: Step) -> Tensor:
    """Return latent coordinates after a step against the gradient, `(B, d)` each."""
    if step is Step.NORM:
        length = gradient.norm(dim=1, keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
        along: Tensor = gradient / length
        return z - RATE * math.sqrt(z.shape[1]) * along
    if step is Step.SIGN:
        return z - RATE * torch.sign(gradient)
    gradient = gradient + DECAY * z
    return z - RATE * gradient / (gradient.abs() + EPSILON)


def push(
    placed: LatentCells, rna: str, counts: CSR, units: Sequence[IntArray], *, way: Way, raised: bool
) -> Pushes:
    """Take the gradient of every cell that expresses a gene, or any gene of a set.

    Args:
        rna: The modality of the genes.
        counts: `(n_cells, n_vars)` of it as the model takes them, 0 where a cell was not measured.
        units: Columns of the genes that are silenced together.
        raised: Whether the gene is raised instead.
    """
    columns = np.concatenate(units).astype(np.int64)
    unit = np.repeat(np.arange(len(units)), [len(u) for u in units])
    seen = (counts[:, columns] > 0).tocoo()
    pairs = np.unique(unit[seen.col].astype(np.int64) * counts.shape[0] + seen.row)
    of_unit, cells = np.divmod(pairs, counts.shape[0])
    starts = np.searchsorted(of_unit, np.arange(len(units) + 1))
    if way is Way.LATENT:
        gradient = _through_decoder(placed, rna, counts, columns, unit, of_unit, cells, raised=raised)
    else:
        gradient = _through_encoder(placed, rna, units, of_unit, cells, raised=raised)
    return Pushes(starts.astype(np.int64), cells.astype(np.int64), gradient)


def _through_decoder(
    placed: LatentCells,
    rna: str,
    counts: CSR,
    columns: IntArray,
    unit: IntArray,
    of_unit: IntArray,
    cells: IntArray,
    *,
    raised: bool,
) -> FloatArray:
    """Return gradients `(n_pairs, d)` of the genes' likelihood at their new counts, a block of cells at once.

    One derivative in each dimension of the latent gives the slope of every gene: of few dimensions
    that is much less than one backward pass for each gene.
    """
    d = placed.z.shape[1]
    gradients = np.zeros((len(cells), d), dtype=np.float32)
    totals = np.asarray(counts.sum(axis=1), dtype=np.float32).ravel()
    order = np.argsort(cells, kind="stable")
    where = torch.from_numpy(columns).to(placed.device)
    members = torch.from_numpy(unit).to(placed.device)
    wanted = np.unique(cells)
    for block in chunks(len(wanted), max(1, SLOPES // max(1, counts.shape[1] + d * len(columns)))):
        some = wanted[block]
        z, library = placed.place(some), torch.from_numpy(totals[some]).to(placed.device)
        mean, slope = slopes(placed, rna, z, some, library, where)
        counts_then = RAISED * mean if raised else torch.zeros_like(mean)
        weight = pull(placed.model, rna, where, counts_then, mean)
        total = torch.zeros(len(some), int(unit[-1]) + 1, d, device=placed.device)
        total.index_add_(1, members, slope * weight.unsqueeze(2))
        block_rows = order[slice(*np.searchsorted(cells[order], [some[0], some[-1] + 1]))]
        row = torch.from_numpy(np.searchsorted(some, cells[block_rows]))
        gradients[block_rows] = total.cpu()[row, torch.from_numpy(of_unit[block_rows])].numpy()
    return gradients


def _through_encoder(
    placed: LatentCells,
    rna: str,
    units: Sequence[IntArray],
    of_unit: IntArray,
    cells: IntArray,
    *,
    raised: bool,
) -> FloatArray:
    """Encode the genes' new counts; return minus the change of the latent coordinates, `(n_pairs, d)`."""
    model = placed.model
    assert isinstance(model, EncodesJointly)
    gradients = np.zeros((len(cells), placed.z.shape[1]), dtype=np.float32)
    source = BundleRows(placed.bundle, placed.device)
    factor = RAISED if raised else 0.0
    p = placed.bundle.modalities[rna].features.n_vars
    member = np.zeros((len(units), p), dtype=bool)
    for k, columns in enumerate(units):
        member[k, columns] = True
    for block in chunks(len(cells), 1024):
        batch = source.take_cells(torch.from_numpy(cells[block]), 0)
        changed = _changed(batch, rna, member[of_unit[block]], factor)
        with torch.inference_mode():
            z = model.encode_cells(changed).float().cpu().numpy()
        gradients[block] = placed.z[cells[block]] - z
    return gradients


def _changed(batch: Minibatch, rna: str, member: BoolArray, factor: float) -> Minibatch:
    """Return a minibatch with the counts of some genes of each cell, `(B, p)`, multiplied."""
    counts = batch.counts[rna]
    rows = batch.positions[rna][counts.row].cpu().numpy()
    hit = torch.from_numpy(member[rows, counts.column.cpu().numpy()]).to(counts.values.device)
    values = torch.where(hit, counts.values * factor, counts.values)
    return replace(batch, counts={**batch.counts, rna: counts._replace(values=values)})


def step_length(placed: LatentCells, pushes: Pushes, step: Step) -> float:
    """Return the median length of a step, over 1,000 pairs of gene and cell at most."""
    n = len(pushes.cells)
    some = np.linspace(0, n - 1, min(1_000, n)).astype(np.int64)
    z = torch.from_numpy(placed.z[pushes.cells[some]])
    steps = moved(torch.from_numpy(pushes.gradient[some]), z, step) - z
    return float(steps.norm(dim=1).median()) if len(some) else 0.0


class Change(NamedTuple):
    """What one gene does.

    Attributes:
        unit: Number of the gene, or of the set.
        n_cells: `(G,)` that express it, by group.
        delta, before: `(G, P)` sums over these cells: silenced less original, and original.
    """

    unit: int
    n_cells: IntArray
    delta: DoubleArray
    before: DoubleArray


class Original:
    """Decoded values of unchanged cells, kept in memory where they fit."""

    def __init__(self, placed: LatentCells, modality: str, cells: IntArray) -> None:
        self.placed, self.modality = placed, modality
        self._row_of = np.full(len(placed.z), -1, dtype=np.int64)
        self._row_of[cells] = np.arange(len(cells))
        p = self.n_vars = placed.bundle.modalities[modality].features.n_vars
        self._decoded: Tensor | None = None
        if len(cells) * p <= KEPT:
            # filled block by block, so that it is never there twice
            self._decoded = torch.empty((len(cells), p), device=placed.device)
            for rows in chunks(len(cells), max(16, DECODED // p)):
                self._decoded[rows] = self._decode(cells[rows])

    def take(self, cells: IntArray) -> Tensor:
        """Shares of some cells, `(B, P)`."""
        if self._decoded is None:
            return self._decode(cells)
        return self._decoded[torch.from_numpy(self._row_of[cells]).to(self._decoded.device)]

    def mean(self, cells: IntArray) -> DoubleArray:
        """Mean over cells, `(P,)`."""
        total = np.zeros(self.n_vars)
        for rows in chunks(len(cells), max(16, DECODED // self.n_vars)):
            total += self.take(cells[rows]).double().sum(0).cpu().numpy()
        return total / max(1, len(cells))

    def _decode(self, cells: IntArray) -> Tensor:
        with torch.inference_mode():
            return self.placed.decode(self.modality, self.placed.place(cells), cells)


def changes(
    original: Original,
    pushes: Pushes,
    *,
    step: Step,
    groups: IntArray,
    n_groups: int,
    look: Callable[[int, IntArray, Tensor], None] | None = None,
) -> Iterator[Change]:
    """Decode every cell that expresses a gene at its new coordinates, and sum the differences, gene by gene.

    Args:
        groups: `(n_cells,)`, from 0.
        look: Shown the gene, its cells and their differences `(B, P)`, block by block.
    """
    size = max(16, DECODED // original.n_vars)
    pack: list[int] = []
    n_units = len(pushes.starts) - 1
    for unit in range(n_units):
        pack.append(unit)
        n_pairs = int(pushes.starts[unit + 1] - pushes.starts[pack[0]])
        if n_pairs < size and unit + 1 < n_units:
            continue
        yield from _pack(original, pushes, pack, size, step, groups, n_groups, look)
        pack = []


def _pack(
    original: Original,
    pushes: Pushes,
    pack: list[int],
    size: int,
    step: Step,
    groups: IntArray,
    n_groups: int,
    look: Callable[[int, IntArray, Tensor], None] | None,
) -> Iterator[Change]:
    placed, n_vars = original.placed, original.n_vars
    delta, before = np.zeros((2, len(pack) * n_groups, n_vars))
    begin, end = int(pushes.starts[pack[0]]), int(pushes.starts[pack[-1] + 1])
    unit = np.repeat(np.arange(len(pack)), np.diff(pushes.starts[pack[0] : pack[-1] + 2]))
    group = groups[pushes.cells[begin:end]]
    for rows in chunks(end - begin, size):
        cells = pushes.cells[begin:end][rows]
        with torch.inference_mode():
            z = placed.place(cells)
            gradient = torch.from_numpy(pushes.gradient[begin:end][rows]).to(placed.device)
            was = original.take(cells)
            difference = placed.decode(original.modality, moved(gradient, z, step), cells) - was
            key = unit[rows] * n_groups + group[rows]
            kinds, place = np.unique(key, return_inverse=True)
            membership = torch.zeros(len(kinds), len(cells), device=placed.device)
            membership[torch.from_numpy(place.reshape(-1)), torch.arange(len(cells))] = 1
            delta[kinds] += (membership @ difference).cpu().numpy()
            before[kinds] += (membership @ was).cpu().numpy()
        if look is not None:
            for k in np.unique(unit[rows]):
                of_unit = unit[rows] == k
                look(pack[k], cells[of_unit], difference[torch.from_numpy(of_unit)])
    n_cells = np.bincount(unit * n_groups + group, minlength=len(pack) * n_groups)
    shape = (len(pack), n_groups)
    for k, one in enumerate(pack):
        yield Change(
            one,
            n_cells.reshape(shape)[k],
            delta.reshape(*shape, n_vars)[k],
            before.reshape(*shape, n_vars)[k],
        )
