"""Whether linked features go together in cells in which both modalities were measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from mocli.data.files.contents import look
from mocli.data.transforms.recipe import LinkRecipe, default_transform

if TYPE_CHECKING:
    from mocli.data.files.inputs import ModalityFile
    from mocli.data.links.edges import EdgeLinks
    from mocli.types import CSR, DoubleArray, IntArray

FEWEST = 50  # cells in common, below which nothing is said
_MOST = 5000  # cells looked at
_SURE = 2.58  # standard errors; by chance 1 in 200 links is as far below zero


@dataclass(frozen=True, eq=False)
class Agreement:
    """How linked features go together.

    Attributes
    ----------
    modality
        The one whose features are compared, each with all its links.
    names, correlation
        `(n_features,)`; NaN where a side is constant.
    n_cells
        Cells in common that were looked at; 0, and no features, below 50.
    """

    modality: str
    names: tuple[str, ...]
    correlation: DoubleArray
    n_cells: int

    @property
    def median(self) -> float | None:
        """Median of the correlations that are known."""
        known = self.correlation[np.isfinite(self.correlation)]
        return float(np.median(known)) if len(known) else None

    @property
    def contradicted(self) -> IntArray:
        """Positions of the features clearly below zero, the worst first."""
        order = np.argsort(self.correlation, kind="stable")
        below = self.correlation[order] < -_SURE / np.sqrt(max(1, self.n_cells))
        found: IntArray = order[below]
        return found


def agreement(edge: EdgeLinks, source: ModalityFile, target: ModalityFile) -> Agreement:
    """Correlate linked features over the cells that both modalities have by name.

    The columns are those of `EdgeLinks.aggregation`, each modality transformed as
    an integration would by default.
    """
    by_target = len(np.unique(edge.target_index)) < len(np.unique(edge.source_index))
    modality = edge.target if by_target else edge.source
    rows = _shared(source, target)
    if len(rows[0]) < FEWEST:
        return Agreement(modality, (), np.zeros(0), 0)
    made = edge.aggregation()
    x, y = (
        _linked(file, keep, aggregation, made.names)
        for file, keep, aggregation in ((source, rows[0], made.source), (target, rows[1], made.target))
    )
    return Agreement(modality, made.names, pearson(x, y), len(rows[0]))


def pearson(x: CSR, y: CSR) -> DoubleArray:
    """Correlation of each column of two CSR matrices `(n, s)`; NaN where either is constant."""
    x, y = (m.astype(np.float64) for m in (x, y))
    mean_x, mean_y, mean_xy, mean_xx, mean_yy = (
        np.asarray(m.mean(axis=0)).ravel() for m in (x, y, x.multiply(y), x.multiply(x), y.multiply(y))
    )
    spread = (mean_xx - mean_x**2) * (mean_yy - mean_y**2)
    spread = np.where(spread > 1e-12 * mean_xx * mean_yy, spread, np.nan)
    correlation: DoubleArray = (mean_xy - mean_x * mean_y) / np.sqrt(spread)
    return correlation


def layer_of(file: ModalityFile) -> str | None:
    """Return the matrix to look at: counts where there are some, else what comes first."""
    return "counts" if "counts" in file.layers else next(iter(file.matrices), None)


def _shared(source: ModalityFile, target: ModalityFile) -> tuple[IntArray, IntArray]:
    """Rows of the cells in common, at most 5,000 spread evenly."""
    place = target.obs.index.get_indexer(source.obs.index)
    rows = np.flatnonzero(place >= 0)
    if len(rows) > _MOST:
        rows = rows[np.linspace(0, len(rows) - 1, _MOST).astype(np.int64)]
    return rows, place[rows]


def _linked(file: ModalityFile, rows: IntArray, aggregation: CSR, names: tuple[str, ...]) -> CSR:
    x = file.read(layer_of(file), rows=rows)
    transform = default_transform(file.kind, look(x), max_value=float(x.data.max(initial=0)))
    # no standardised values are needed: a correlation does not see scale and offset
    recipe = LinkRecipe.fit(x, aggregation=aggregation, transform=transform, names=names)
    return sparse.csr_matrix(recipe.apply(x).values)
