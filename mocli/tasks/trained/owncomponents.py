"""Principal components of a modality's own values, kept with the training cells for queries.

They are linear, hardly fitted to single cells, and know nothing of a model: so cells of a query lie in them
as training cells do, where encoders of few cells place new ones elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import sparse

from mocli.data.bundle import FeatureMatrix, Modality
from mocli.data.transforms.components import Components
from mocli.data.transforms.transform import LOGNORM, own_columns, scale_rows
from mocli.nn.neighbors import chunks, drawn_rows
from mocli.types import CSR, FloatArray, IntArray

N_COMPONENTS, FIT_CELLS = 50, 20_000
ROWS = 8_192
"""Cells that are placed at a time."""


@dataclass(frozen=True, eq=False)
class OwnComponents:
    """A fitted projection of the values that a model sees, counts logged at one depth.

    Attributes:
        loadings, mean: `(p, k)` and `(p,)`.
        depth: Total that counts are scaled to; None where values are no counts.
        scores: Of the training cells that are kept, `(n, k)`; NaN where they were not measured.
    """

    loadings: FloatArray
    mean: FloatArray
    depth: float | None
    scores: FloatArray

    @classmethod
    def fit(cls, m: Modality, rows: IntArray, *, seed: int) -> Self:
        """Fit on 20,000 cells at most, in memory; `rows` of the modality are those kept, -1 for none."""
        depth = m.features.median_total() if m.is_counted else None
        some = m.features.values[drawn_rows(m.n_obs, FIT_CELLS, seed=seed)]
        values = FeatureMatrix(_even(some, depth), m.features.names)
        found = Components.fit(values, n_components=N_COMPONENTS, seed=seed)
        scores = np.full((len(rows), found.loadings.shape[1]), np.nan, np.float32)
        fitted = cls(found.loadings, found.mean, depth, scores)
        scores[rows >= 0] = fitted.place(m, rows[rows >= 0])
        return fitted

    def place(self, m: Modality, rows: IntArray) -> FloatArray:
        """Return coordinates of some rows of a modality, `(n, k)`."""
        shift = self.mean @ self.loadings
        placed = np.empty((len(rows), len(shift)), np.float32)
        for part in chunks(len(rows), ROWS):
            placed[part] = _even(m.features.values[rows[part]], self.depth) @ self.loadings - shift
        return placed


def _even(x: CSR | FloatArray, depth: float | None) -> CSR | FloatArray:
    """Return counts logged at one depth, other values unchanged."""
    if depth is None:
        return x
    counts = own_columns(sparse.csr_matrix(x, dtype=np.float32))
    scale_rows(counts, LOGNORM.factor(counts, depth))
    np.log1p(counts.data, out=counts.data)
    return counts
