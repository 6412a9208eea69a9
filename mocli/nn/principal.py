"""Leading principal components of sparse matrices, and projections of values to them.

Values are transformed element by element, or cell by cell, and then mapped linearly: so the features stay
sparse throughout, and the effect of a changed feature on the components can be written down.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from mocli.nn.neighbors import drawn_rows
from mocli.types import CSR, DoubleArray, FloatArray, IntArray, NonZeros

EXTRA, POWERS = 10, 4
FIT_CELLS, ROWS = 20_000, 8_192
"""Cells that joint components are fitted on, and rows that are placed at a time."""
OWN = 50
"""Components of each modality that cleaned joint components are made of, unless more are asked for."""

LEAST_SCALE = 0.05
"""Added to the scale of a column, so that what is hardly ever measured does not lead."""


class Principal(NamedTuple):
    """Loadings `(p, k)`, column means `(p,)`, and the sum of squares of the centred matrix."""

    loadings: DoubleArray
    mean: DoubleArray
    total: float

    def scores(self, x: CSR | FloatArray) -> DoubleArray:
        """Project `(n, p)` to `(n, k)`."""
        return np.asarray(x @ self.loadings - self.mean @ self.loadings)


def principal_components(x: CSR | FloatArray, k: int, *, seed: int, scaling: float = 0.0) -> Principal:
    """Fit on `(n, p)` by a randomised range finder (Halko et al. 2011); at most min(n, p) components.

    The matrix is centred in the products only, so that a sparse one stays sparse. The largest loading of a
    component is positive. Columns are divided by a power, `scaling`, of their root mean square and
    `LEAST_SCALE`, which the loadings then contain: with 0 the most frequent of many sparse columns dominate,
    with 1 the noise of rare ones counts for as much, and 0.5 lies between (Pareto scaling).
    """
    n, p = x.shape
    if scaling:
        scale = (_root_mean_square(x) + LEAST_SCALE) ** -scaling
        even = x * scale if isinstance(x, np.ndarray) else (x @ sparse.diags(scale)).tocsr()
        fitted = principal_components(even, k, seed=seed)
        return Principal(fitted.loadings * scale[:, None], fitted.mean / scale, fitted.total)
    k = min(k, n, p)
    mean = np.asarray(x.mean(axis=0), dtype=np.float64).ravel()
    squares = float(x.multiply(x).sum()) if not isinstance(x, np.ndarray) else float(np.square(x).sum())
    draws = np.random.default_rng(seed).normal(size=(p, min(k + EXTRA, n, p)))
    basis = np.linalg.qr(_times(x, mean, draws))[0]
    for _ in range(POWERS):
        basis = np.linalg.qr(_times(x, mean, np.linalg.qr(_transposed(x, mean, basis))[0]))[0]
    right = np.linalg.svd(_transposed(x, mean, basis), full_matrices=False)[0][:, :k]
    sign = np.sign(right[np.abs(right).argmax(0), np.arange(right.shape[1])])
    return Principal(right * np.where(sign == 0, 1, sign), mean, max(squares - n * float(mean @ mean), 0.0))


def log_at_depth(x: CSR | FloatArray, depth: float) -> CSR | FloatArray:
    """Return log1p of counts `(n, p)` scaled to one total per row; empty rows stay empty."""
    factor = (depth / np.maximum(row_totals(x), 1)).astype(np.float32)
    if isinstance(x, np.ndarray):
        return np.log1p(x * factor[:, None])
    even = np.log1p(x.data * np.repeat(factor, np.diff(x.indptr)))
    return sparse.csr_matrix((even, x.indices, x.indptr), shape=x.shape)


def row_totals(x: CSR | FloatArray) -> DoubleArray:
    """Sum of each row, `(n,)`."""
    return np.asarray(x.sum(axis=1), dtype=np.float64).ravel()


def _root_mean_square(x: CSR | FloatArray) -> DoubleArray:
    squares = np.square(x) if isinstance(x, np.ndarray) else x.multiply(x)
    return np.sqrt(np.asarray(squares.mean(axis=0), dtype=np.float64).ravel())


def _times(x: CSR | FloatArray, mean: DoubleArray, v: DoubleArray) -> DoubleArray:
    return np.asarray(x @ v - mean @ v)


def _transposed(x: CSR | FloatArray, mean: DoubleArray, u: DoubleArray) -> DoubleArray:
    return np.asarray(x.T @ u - np.outer(mean, u.sum(axis=0)))


class Measured(NamedTuple):
    """Rows `(n,)` of the values of a modality, the cell of each, and the total that counts are scaled to."""

    values: CSR | FloatArray
    rows: IntArray
    cells: IntArray
    depth: float | None

    def even(self, some: IntArray | slice) -> CSR | FloatArray:
        """Return some of the rows, counts logged at one depth."""
        x = self.values[self.rows[some]]
        return x if self.depth is None else log_at_depth(x, self.depth)


def joint_components(
    modalities: Sequence[Measured],
    n_cells: int,
    k: int,
    *,
    batch: IntArray | None,
    seed: int,
    cleaned: bool = False,
) -> DoubleArray:
    """Principal components of all modalities side by side, `(n_cells, k)`; missing components are zero.

    Each modality weighs by the share of its variance that its own components explain, and a modality that a
    cell lacks counts as the mean. Levels of the batch, codes `(n_cells,)`, are centred. Components are
    fitted on 20,000 cells at most.

    Args:
        cleaned: Scale counts by half, as frequent ones vary most (the spread of other values is taken as
            meant), and shrink the 50 components of a modality to what they vary more than the last of them,
            which is taken for noise where features are left over.
    """
    own = [_own(m, max(k, OWN) if cleaned else k, seed, cleaned=cleaned) for m in modalities]
    drawn = drawn_rows(n_cells, FIT_CELLS, seed=seed)
    place = np.full(n_cells, -1)
    place[drawn] = np.arange(len(drawn))
    present = np.zeros((n_cells, 1))
    for m in modalities:
        present[m.cells] += 1 / len(modalities)
    weight = 1 / np.maximum(present, 1 / len(modalities))
    levels = np.zeros(n_cells, np.intp) if batch is None else np.unique(batch, return_inverse=True)[1]
    ends = np.cumsum([0, *(fitted.loadings.shape[1] for fitted in own)])
    blocks = np.zeros((len(drawn), ends[-1]))
    for m, fitted, a, b in zip(modalities, own, ends[:-1], ends[1:], strict=True):
        for cells, scores in _placed(m, fitted, np.flatnonzero(place[m.cells] >= 0)):
            blocks[place[cells], a:b] = scores
    joint = principal_components(_centred(blocks * weight[drawn], levels[drawn]), k, seed=seed).loadings
    z = np.zeros((n_cells, k))
    for m, fitted, a, b in zip(modalities, own, ends[:-1], ends[1:], strict=True):
        to_joint = fitted._replace(loadings=fitted.loadings @ joint[a:b])
        for cells, scores in _placed(m, to_joint, np.arange(len(m.cells))):
            z[cells, : joint.shape[1]] += scores
    return _centred(z * weight, levels)


def _placed(m: Measured, fitted: Principal, rows: IntArray) -> Iterator[tuple[IntArray, DoubleArray]]:
    """Yield cells and their scores, `(n, k)`, some rows of a modality at a time."""
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        yield m.cells[some], fitted.scores(m.even(some))


def _centred(x: DoubleArray, levels: IntArray) -> DoubleArray:
    """Subtract from rows `(n, d)` the mean of those of their level, `(n,)` from 0."""
    if not len(x):
        return x
    sums = np.zeros((levels.max() + 1, x.shape[1]))
    np.add.at(sums, levels, x)
    return np.asarray(x - (sums / np.maximum(np.bincount(levels), 1)[:, None])[levels])


def _own(m: Measured, k: int, seed: int, *, cleaned: bool) -> Principal:
    """Components of one modality, in units of the root of all its variance per cell."""
    chosen = drawn_rows(len(m.cells), FIT_CELLS, seed=seed)
    x = m.even(chosen)
    fitted = principal_components(x, k, seed=seed, scaling=0.5 if cleaned and m.depth is not None else 0.0)
    # per cell, so that modalities with more cells weigh no more
    unit = math.sqrt(fitted.total / max(len(chosen), 1))
    factor = np.full(fitted.loadings.shape[1], 1 / unit if unit > 0 else 0.0)
    if cleaned and len(factor) < x.shape[1]:
        variance = np.square(fitted.scores(x)).mean(0)
        above = np.divide(
            variance - variance.min(initial=np.inf), variance, where=variance > 0, out=0 * variance
        )
        factor *= np.sqrt(above)
    return fitted._replace(loadings=fitted.loadings * factor)


FORMS = ("lognorm", "tfidf", "clr", "binary", "identity")
FIT_CELLS, SET_CELLS = 200_000, 20_000
DEPTH_LIMIT = 0.75
"""Components of TF-IDF that follow the log of the depth more closely are dropped."""
LEADING = 30
"""Components that say which cells are near; the later ones are mostly noise."""
_SCALE = 1e4


class Projection(nn.Module):
    """A fitted form and linear map, `(B, p)` to `(B, k)`.

    Forms: `lognorm`, log1p of counts at the training cells' median library size; `tfidf`, log1p of counts per
    10^4 (the inverse document frequency is part of the map); `clr`, log1p (so is the centring of each
    cell); `binary`; `identity`.
    """

    weight: Tensor
    shift: Tensor
    factor: Tensor

    def __init__(self, n_vars: int, n_out: int, form: str) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"no form '{form}'")
        self.form = form
        self.register_buffer("weight", torch.zeros(n_vars, n_out))
        self.register_buffer("shift", torch.zeros(n_out))
        # the total to which a cell is scaled
        self.register_buffer("factor", torch.ones(()))

    def forward(self, x: Tensor | NonZeros) -> Tensor:
        """`(B, p)` or its non-zeros to `(B, k)`."""
        if isinstance(x, Tensor):
            return self.formed(x, x.sum(1, keepdim=True)) @ self.weight - self.shift
        values = self.formed(x.values, x.totals[x.row])
        bags = nn.functional.embedding_bag(
            x.column, self.weight, x.starts, mode="sum", per_sample_weights=values
        )
        return bags - self.shift

    def formed(self, x: Tensor, total: Tensor) -> Tensor:
        """Return values as the linear map sees them, in cells of a total that broadcasts to them."""
        if self.form in {"lognorm", "tfidf"}:
            # a perturbed cell may have any total above 0
            return torch.log1p(
                x * (self.factor.to(x.device) / torch.where(total > 0, total, torch.ones_like(total)))
            )
        if self.form == "clr":
            return torch.log1p(x.clamp_min(0))
        return (x > 0).to(x.dtype) if self.form == "binary" else x


def fit_projection(
    x: CSR | FloatArray,
    form: str,
    n_components: int,
    *,
    seed: int,
    offset: FloatArray | None = None,
    sets: CSR | None = None,
    n_sets: int = 0,
) -> Projection:
    """Fit on the values of the training cells, `(n, p)`, on 200,000 sampled ones at most.

    Features are standardised, except for TF-IDF; their principal components have a mean
    variance of 1. Where there are no more features than components, the features themselves are used.

    Args:
        offset: Added to every row of `x`, `(p,)`, or None.
        sets: Which features belong to which set, `(p, s)`: the `n_sets` leading principal components of the
            sets' scores follow the others. A set's score is the sum of its standardised features over the
            root of their number.
    """
    n, p = x.shape
    factor = _factor(x, form)
    rarity = (
        np.log1p(n / (1 + np.asarray((x != 0).sum(axis=0), np.float64).ravel())) if form == "tfidf" else None
    )
    if n > FIT_CELLS:
        x = x[drawn_rows(n, FIT_CELLS, seed=seed)]
    values = _formed(x, form, factor)
    mean, sd = _moments(values)
    usable = sd > 1e-6 * np.maximum(np.abs(mean), 1e-30)
    inverse = np.where(usable, 1 / np.where(usable, sd, 1), 0)
    if rarity is not None:
        inverse = np.where(usable, rarity, 0)
    scaled = values @ sparse.diags(inverse) if not isinstance(values, np.ndarray) else values * inverse
    if form == "clr":
        inner = np.eye(p) - 1 / p
        scaled = np.asarray(values @ inner)
        mean, sd = _moments(values)
        spread = scaled.std(0)
        scaled = scaled / np.where(spread > 1e-6, spread, 1)
        loadings = inner / np.where(spread > 1e-6, spread, np.inf)
    else:
        loadings = None
    if p <= n_components:
        weight = np.diag(inverse) if loadings is None else loadings
    else:
        components = principal_components(scaled, min(n_components, max(n - 1, 1)), seed=seed)
        loadings_kept = components.loadings
        if form == "tfidf":
            loadings_kept = loadings_kept[:, _free_of_depth(scaled @ loadings_kept, x)]
        weight = loadings_kept * inverse[:, None] if loadings is None else loadings @ loadings_kept
    weight = _unit_variance(weight, values, mean)
    if sets is not None and n_sets and sets.nnz:
        root = sparse.diags(1 / np.sqrt(np.maximum(np.asarray(sets.sum(axis=0), np.float64).ravel(), 1)))
        membership = (sparse.diags(inverse) if loadings is None else loadings) @ (sets @ root)
        weight = np.concatenate([weight, _of_sets(values, membership, n_sets, mean, seed)], axis=1)
    projection = Projection(p, weight.shape[1], form)
    projection.weight.copy_(torch.from_numpy(weight))
    full = mean if offset is None else mean + offset
    projection.shift.copy_(torch.from_numpy(full @ weight))
    projection.factor.fill_(factor)
    return projection


def _factor(x: CSR | FloatArray, form: str) -> float:
    if form == "lognorm":
        totals = np.asarray(x.sum(axis=1), np.float64).ravel()
        totals = totals[totals > 0]
        return float(np.median(totals)) if len(totals) else 1.0
    return _SCALE if form == "tfidf" else 1.0


def _formed(x: CSR | FloatArray, form: str, factor: float) -> CSR | FloatArray:
    if form == "identity":
        return x
    if form == "binary":
        return (x > 0).astype(np.float64)
    if form == "clr":
        return np.log1p(np.maximum(x, 0)) if isinstance(x, np.ndarray) else x.log1p()
    totals = np.asarray(x.sum(axis=1), np.float64).ravel()
    scaled = sparse.diags(factor / np.where(totals > 0, totals, 1)) @ sparse.csr_matrix(x)
    return scaled.log1p()


def _moments(x: CSR | FloatArray) -> tuple[DoubleArray, DoubleArray]:
    mean = np.asarray(x.mean(axis=0), np.float64).ravel()
    if isinstance(x, np.ndarray):
        return mean, np.asarray(x.std(axis=0, dtype=np.float64))
    square = np.asarray(x.multiply(x).mean(axis=0), np.float64).ravel()
    return mean, np.sqrt(np.maximum(square - mean**2, 0))


def _unit_variance(weight: DoubleArray, values: CSR | FloatArray, mean: DoubleArray) -> DoubleArray:
    scores = np.asarray(values @ weight - mean @ weight)
    scale = float(np.sqrt(np.square(scores).mean())) if scores.size else 1.0
    return weight / (scale or 1.0)


def _free_of_depth(scores: DoubleArray, x: CSR | FloatArray) -> IntArray:
    totals = np.log(np.maximum(np.asarray(x.sum(axis=1), np.float64).ravel(), 1))
    centred = scores - scores.mean(0)
    depth = totals - totals.mean()
    norm = np.sqrt(np.square(centred).sum(0) * (depth @ depth))
    r = np.abs(np.divide(centred.T @ depth, norm, out=np.zeros(len(norm)), where=norm > 0))
    free = np.flatnonzero(r <= DEPTH_LIMIT)
    return free if len(free) else np.array([r.argmin()])


def _of_sets(
    values: CSR | FloatArray, membership: CSR | DoubleArray, n_sets: int, mean: DoubleArray, seed: int
) -> DoubleArray:
    """Weights of features, `(p, n_sets)`, whose sums are principal components of the sets' scores."""
    rows = drawn_rows(values.shape[0], SET_CELLS, seed=seed)
    scores = values[rows] @ membership
    most = min(n_sets, max(scores.shape[0] - 1, 1), scores.shape[1])
    weight = np.asarray(membership @ principal_components(scores, most, seed=seed).loadings)
    return _unit_variance(weight, values, mean)


def smoothed(x: Tensor, reference: Tensor, n_neighbors: int, weight: float, leading: int = LEADING) -> Tensor:
    """Blend rows with the mean of their nearest reference rows by cosine: `(1 - weight) x + weight mean`.

    A row that is itself in the reference is one of its own neighbours, in training as later. Nearness is
    that of the leading columns, and exact.
    """
    k = min(n_neighbors, len(reference))
    if k < 1 or weight == 0:
        return x
    unit = nn.functional.normalize(reference[:, :leading], dim=1)
    blocks = []
    for part in torch.split(x, max(1, (1 << 24) // max(len(reference), 1))):
        nearest = (nn.functional.normalize(part[:, :leading], dim=1) @ unit.T).topk(k, dim=1).indices
        mean = torch.stack([reference[column] for column in nearest.T]).mean(0)
        blocks.append((1 - weight) * part + weight * mean)
    return torch.cat(blocks) if blocks else x
