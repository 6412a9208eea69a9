"""Projection of counts or other values to a few components, fitted once and the same for every later cell.

Values are transformed element by element, or cell by cell, and then mapped linearly: so the features stay
sparse throughout, and the effect of a changed feature on the components can be written down.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from mocli.nn.neighbors import drawn_rows
from mocli.nn.principal import principal_components
from mocli.types import CSR, DoubleArray, FloatArray, IntArray, NonZeros

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
