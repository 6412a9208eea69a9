"""Pictures besides the UMAP: cells in the tissue, clusters of one modality against those of another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from mocli.data.batches import dense_rows
from mocli.data.bundle import Codes, FeatureMatrix, MultiOmics
from mocli.data.files.inspect import is_spatial
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obsm import open_obsm
from mocli.errors import InputError
from mocli.report import featureplots, scatter
from mocli.report.html import Drawn
from mocli.types import DoubleArray, FloatArray

SPATIAL = "spatial"
MOST_LEVELS = 60
"""Most levels of a column that a picture can show."""


class ObsColumns(Protocol):
    """Columns that a run adds to the obs of a modality."""

    def of_modality(self, modality: str) -> Mapping[str, object]:
        """Return columns by name."""
        ...


def tissue_coordinates(file: ModalityFile) -> FloatArray | None:
    """Return the cells' coordinates in the tissue, `(n_obs, 2)`, y upwards; None without obsm['spatial']."""
    if not is_spatial(file):
        return None
    with open_obsm(file, SPATIAL) as part:
        x = part.read()
    if x.shape[1] < 2:
        return None
    names = tuple(map(str, range(x.shape[1])))
    xy = dense_rows(FeatureMatrix(x, names), np.arange(file.n_obs))[:, :2].astype(np.float32)
    return xy * np.array([1, -1], np.float32)  # images count rows downwards


def draw_tissue(
    files: Sequence[ModalityFile], columns: Sequence[ObsColumns], warn: Callable[[str], None]
) -> list[Drawn]:
    """Draw labels, clusters and other columns of cells in the tissue.

    Coordinates that cannot be read are warned of: what was made of the cells needs none.
    """
    drawn = []
    for file in files:
        try:
            xy = tissue_coordinates(file)
        except InputError as error:
            warn(f"cells of {file.name} are not drawn in the tissue: {error.message} ({error.field})")
            continue
        if xy is None:
            continue
        shown: dict[str, object] = {}
        for column in columns:
            shown |= dict(column.of_modality(file.name))
        for title, values in shown.items():
            picture = _coloured(xy, values, title)
            if picture is not None:
                drawn.append(
                    Drawn(
                        picture,
                        f"{file.name} in the tissue, by {title}",
                        "Cells at their coordinates in obsm['spatial'].",
                        wide=False,
                    )
                )
    return drawn


def _coloured(xy: FloatArray, values: Any, title: str) -> Any:
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        return scatter.by_value(xy, values, title) if values.ndim == 1 else None
    codes, levels = pd.factorize(pd.Series(values, dtype=object), sort=True)
    if not 0 < len(levels) <= MOST_LEVELS:
        return None
    return scatter.by_category(xy, scatter.Category(codes.astype(np.int64), [str(v) for v in levels]))


def cluster_correlations(
    bundle: MultiOmics, clusters: Codes, *, fewest: int = 5
) -> dict[tuple[str, str], tuple[DoubleArray, list[str], list[str]]]:
    """Correlate the clusters' mean linked features of one modality with those of another.

    Returns
    -------
    By edge: Pearson correlation over linked features `(n_source, n_target)` of the clusters that have
    at least 5 cells in a modality, and their names.
    """
    by_edge = {}
    for link in bundle.links:
        if len(link.names) < 3:
            continue
        sides = []
        for name, features in ((link.source, link.source_features), (link.target, link.target_features)):
            codes = clusters.codes[bundle.cells_of(name)]
            sizes = np.bincount(codes[codes >= 0], minlength=len(clusters.levels))
            large = np.flatnonzero(sizes >= fewest)
            means = np.stack(
                [dense_rows(features, np.flatnonzero(codes == k)).mean(0, dtype=np.float64) for k in large]
            ) if len(large) else np.zeros((0, len(link.names)))  # fmt: skip
            sides.append((means, [clusters.levels[k] for k in large]))
        (x, rows), (y, columns) = sides
        if min(len(x), len(y)) < 2:
            continue
        x, y = (v - v.mean(0) for v in (x, y))
        x, y = (v - v.mean(1, keepdims=True) for v in (x, y))
        size = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)[None]
        r = np.divide(x @ y.T, size, out=np.full(size.shape, np.nan), where=size > 0)
        by_edge[link.edge] = (r, rows, columns)
    return by_edge


def draw_correlations(bundle: MultiOmics, clusters: Codes) -> list[Drawn]:
    """Draw `cluster_correlations`, a heat map an edge."""
    drawn = []
    for (a, b), (r, rows, columns) in cluster_correlations(bundle, clusters).items():
        picture = featureplots.heat_map(
            r, [f"{a} {row}" for row in rows], [f"{b} {column}" for column in columns], label="correlation"
        )
        caption = (
            f"Correlation, over linked features, of each cluster's mean in {a} (rows) with that in {b} "
            "(columns), each less the mean of all clusters: red where they agree. A strong diagonal says "
            "that clusters are the same cells in both."
        )
        drawn.append(Drawn(picture, f"Clusters of {a} against clusters of {b}", caption, wide=False))
    return drawn
