"""Cells in the features of their own modality: coordinates, nearest cells, and averages over these.

A single cell is noisy, its neighbourhood in its own modality much less so. How strongly linked features are
averaged is estimated from the data: the less of a linked feature the neighbours' mean explains, the more of
it is noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from mocli.data.batches import dense_rows
from mocli.data.bundle import FeatureMatrix, Modality, MultiOmics
from mocli.data.transforms.components import Components, are_components, principal_scores, without_averaging
from mocli.data.transforms.recipe import Recipe, RecipeOptions, default_transform
from mocli.data.transforms.transform import find_transform
from mocli.nn.nearby import nearby_blocks
from mocli.nn.neighbors import chunks, drawn_rows, knn, without_self
from mocli.tasks.prepare.choice import usual_top
from mocli.tasks.run.guard import return_freed_memory
from mocli.types import (
    ANY_VALUES,
    CSR,
    LIKELIHOODS,
    FloatArray,
    IntArray,
    ModalityKind,
    RowNumbers,
    ValueKind,
    takes_counts,
)

N_NEIGHBORS = 15
N_COMPONENTS = 50

LEADING = 30
"""Principal components that define neighbours; the later ones are mostly noise."""

SAMPLE = 2000
"""Cells from which the share of noise is estimated."""

LEAST, MOST = 0.5, 0.95

MAX_REFERENCE = 50_000
"""Most training cells among which cells find their neighbours; kept with a model for new cells."""


@dataclass(frozen=True, eq=False)
class Reference:
    """Training cells of one modality, over which new cells are averaged as the training cells were.

    Attributes:
        scores: What encoders take, before averaging, `(n, n_vars)`.
        n_neighbors, weight: Neighbours averaged over, and the share that they have.
    """

    scores: FloatArray
    n_neighbors: int
    weight: float

    @classmethod
    def of(cls, features: FeatureMatrix, *, seed: int) -> Reference | None:
        """Keep the cells of an averaged matrix, 50,000 sampled ones at most; None where none is averaged."""
        if features.neighbors is None or features.smoothing == 0:
            return None
        rows = drawn_rows(features.n_obs, MAX_REFERENCE, seed=seed)
        scores = dense_rows(without_averaging(features), rows)
        return cls(scores, int(features.neighbors.shape[1]), features.smoothing)

    def average(self, features: FeatureMatrix, *, device: str = "cpu") -> FeatureMatrix:
        """Average new cells over their nearest training cells, a training cell itself left out.

        These are searched on the device.
        """
        values = dense_rows(without_averaging(features), np.arange(features.n_obs))
        ordered, center = are_components(features.names), self.scores.mean(0)
        points, reference = (leading(x - center, ordered=ordered) for x in (values, self.scores))
        k = min(self.n_neighbors, len(reference) - 1)
        averaged = np.empty_like(values)
        for part in chunks(len(values), 4096):
            nearest = knn(points[part], reference, k + 1, metric="cosine", device=device)[1]
            same = np.isclose(self.scores[nearest[:, 0]], values[part], rtol=1e-4, atol=1e-5).all(axis=1)
            nearest = np.where(np.asarray(same).reshape(-1, 1), nearest[:, 1:], nearest[:, :-1])
            mean = self.scores[nearest].mean(1)
            averaged[part] = (1 - self.weight) * values[part] + self.weight * mean
        return FeatureMatrix(averaged, features.names)


def smooth_inputs(
    bundle: MultiOmics, weight: float, *, seed: int, say: Callable[[str], None], device: str = "cpu"
) -> MultiOmics:
    """Return the bundle with encoder inputs averaged over own neighbours when a minibatch is cut.

    The neighbours are the round(sqrt(n)) nearest cells (10 to 100) by cosine in
    the leading 30 columns, searched on the device.
    """
    modalities = dict(bundle.modalities)
    for name, m in bundle.modalities.items():
        neighbors = find_neighbors(m.features, seed=seed, device=device)
        return_freed_memory()
        if neighbors is not None and weight > 0:
            modalities[name] = replace(m, features=replace(m.features, neighbors=neighbors, smoothing=weight))
            say(f"{name}: inputs averaged over the {neighbors.shape[1]} nearest cells, weight {weight:.2f}")
    return replace(bundle, modalities=modalities)


def smooth_links(
    bundle: MultiOmics, *, seed: int, say: Callable[[str], None], device: str = "cpu"
) -> MultiOmics:
    """Return the bundle with linked features that are averaged when a minibatch is cut.

    The neighbours are those of the inputs; the weight is 1 minus the mean R^2
    of predicting a linked feature from them, between 0.5 and 0.95.
    """
    neighbors: Mapping[str, RowNumbers | None] = {
        name: find_neighbors(m.features, seed=seed, device=device) for name, m in bundle.modalities.items()
    }
    links = []
    for link in bundle.links:
        sides = [_smoothed(side, neighbors[name], seed=seed) for name, side in link.sides.items()]
        for name, side in zip(link.edge, sides, strict=True):
            if side.neighbors is not None:
                nearest = f"the {side.neighbors.shape[1]} nearest cells, weight {side.smoothing:.2f}"
                say(f"{name}: linked features averaged over {nearest}")
        links.append(replace(link, source_features=sides[0], target_features=sides[1]))
    return replace(bundle, links=tuple(links))


def leading(points: FloatArray, *, ordered: bool) -> FloatArray:
    """Return the columns that define neighbours: the leading 30 of ordered components, else all."""
    return points[:, :LEADING] if ordered else points


def find_neighbors(features: FeatureMatrix, *, seed: int, device: str = "cpu") -> RowNumbers | None:
    """Neighbours of every cell within its modality, `(n, k)`; None for fewer than three cells.

    They are sought among all cells, or the 50,000 that a `Reference` keeps: so time grows with the cells, not
    with their square, and new cells are averaged as those of training.
    """
    if features.neighbors is not None:
        return features.neighbors
    n = features.n_obs
    if n < 3:
        return None
    ordered = features.n_vars > N_COMPONENTS or are_components(features.names)
    points = leading(principal_components(features, np.arange(n), seed=seed), ordered=ordered)
    some = drawn_rows(n, MAX_REFERENCE, seed=seed)
    k = min(int(np.clip(round(np.sqrt(n)), 10, 100)), len(some) - 1)
    # the table lives as long as the run does: as few bytes as the numbers need, and no second copy
    neighbors = np.empty((n, k), np.uint16 if n <= 2**16 else np.int32)
    for rows, _, nearest in nearby_blocks(points, points[some], k + 1, metric="cosine", device=device):
        neighbors[rows] = without_self(some[nearest], np.arange(n)[rows])
    return neighbors


def _smoothed(features: FeatureMatrix, neighbors: RowNumbers | None, *, seed: int) -> FeatureMatrix:
    if neighbors is None:
        return features
    weight = float(np.clip(1 - _explained(features, neighbors, seed=seed).mean(), LEAST, MOST))
    return replace(features, neighbors=neighbors, smoothing=weight)


def _explained(features: FeatureMatrix, neighbors: RowNumbers, *, seed: int) -> FloatArray:
    """R^2, at least 0, of each column when predicted by the neighbours' mean, `(n_columns,)`."""
    n = features.n_obs
    rows = np.sort(np.random.default_rng(seed).choice(n, min(n, SAMPLE), replace=False))
    values = dense_rows(features, rows)
    mean = dense_rows(replace(features, neighbors=neighbors, smoothing=1.0), rows)
    variance = values.var(0)
    residual = np.square(values - mean).mean(0)
    explained = np.zeros_like(variance)
    np.divide(variance - residual, variance, out=explained, where=variance > 0)
    return np.clip(explained, 0, 1)


def comparable(m: Modality, rows: IntArray, *, seed: int, standardise: bool) -> FeatureMatrix:
    """Return some rows after the default transform of their kind, whatever the model's likelihood.

    Counts of proteins become CLR, those of genes log-normalised, of peaks LSI; a modality without a
    likelihood was transformed before. So `integrate` and `benchmark` compare the same coordinates.

    `standardise`: whether all features count the same; else variable ones count more.
    """
    features = without_averaging(m.features)
    if m.likelihood is None or len(rows) < 2:
        values: CSR | FloatArray = features.values[rows]
        if standardise or features.deviation is None:
            return replace(features, values=values)
        values = (
            values * features.deviation
            if isinstance(values, np.ndarray)
            else (values @ sparse.diags(features.deviation)).tocsr()
        )
        # what was taken off is the same for all cells
        return FeatureMatrix(values, features.names)
    x = sparse.csr_matrix(features.values[rows])
    kind = ValueKind.COUNTS if takes_counts(m.likelihood) else ValueKind.POSITIVE
    largest = float(x.data.max()) if x.nnz else 0.0
    # values that are taken for normal were transformed before
    as_it_is = LIKELIHOODS[m.likelihood] == ANY_VALUES
    transform = "identity" if as_it_is else default_transform(m.kind, kind, max_value=largest)
    peaks = m.kind is ModalityKind.ATAC and not find_transform(transform).reduces
    n_top = usual_top(len(rows), peaks=peaks) if x.nnz else None  # nothing varies where nothing was seen
    options = RecipeOptions(transform=transform, n_top=n_top, standardise=standardise, seed=seed)
    return Recipe.fit(x, var_names=features.names, options=options).apply(x)


def own_coordinates(m: Modality, rows: IntArray, *, seed: int, standardise: bool = True) -> FloatArray:
    """Place some rows of a modality by the principal components of its own features, `(n, <= 50)`."""
    features = comparable(m, rows, seed=seed, standardise=standardise)
    return principal_components(features, np.arange(len(rows)), seed=seed)


def own_neighbors(places: FloatArray, *, device: str = "cpu") -> IntArray:
    """Nearest other cells within a modality by cosine between such coordinates, `(n, <= 15)`."""
    k = min(N_NEIGHBORS, max(len(places) - 1, 1))
    return knn(places, places, k, metric="cosine", exclude_self=True, device=device)[1]


def principal_components(features: FeatureMatrix, rows: IntArray, *, seed: int) -> FloatArray:
    """Scores `(n, <= 50)`, centred, not averaged over neighbours. Few features are used unchanged."""
    features = without_averaging(features)
    if min(N_COMPONENTS, len(rows) - 1, features.n_vars - 1) < 2 or features.n_vars <= N_COMPONENTS:
        return centred(dense_rows(features, rows))
    if features.on_disk and len(rows) == features.n_obs:
        # the same directions, on another scale
        components: FloatArray = (
            Components.fit(features, n_components=N_COMPONENTS, seed=seed).apply(features).values
        )
        return components[rows]
    if not np.array_equal(rows, np.arange(features.n_obs)):
        features = replace(features, values=features.values[rows])
    return principal_scores(features, n_components=N_COMPONENTS, seed=seed)


def centred(x: FloatArray) -> FloatArray:
    """Columns with mean 0."""
    return x - x.mean(0, keepdims=True)
