"""Coordinates of cells by the features of one modality alone, and their nearest cells by these."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import sparse

from mocli.data.batches import dense_rows
from mocli.data.bundle import FeatureMatrix, Modality
from mocli.data.transforms.components import principal_scores, without_averaging
from mocli.data.transforms.recipe import Recipe, RecipeOptions, default_transform
from mocli.data.transforms.transform import find_transform
from mocli.nn.neighbors import knn
from mocli.tasks.prepare.choice import usual_top
from mocli.types import (
    ANY_VALUES,
    CSR,
    LIKELIHOODS,
    FloatArray,
    IntArray,
    ModalityKind,
    ValueKind,
    takes_counts,
)

N_NEIGHBORS = 15
N_COMPONENTS = 50


def comparable(m: Modality, rows: IntArray, *, seed: int, standardise: bool) -> FeatureMatrix:
    """Return some rows after the transform that their kind has by default, whatever a model takes them for.

    Counts of proteins become CLR, of genes log-normalised, of peaks LSI; what has no likelihood was
    transformed before. So the figures of `integrate` and `benchmark` are of the same places.

    Parameters
    ----------
    standardise
        Whether all features count the same; else the variable ones lead.
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


def own_places(m: Modality, rows: IntArray, *, seed: int, standardise: bool = True) -> FloatArray:
    """Place some rows of a modality by the principal components of its own features, `(n, <= 50)`."""
    features = comparable(m, rows, seed=seed, standardise=standardise)
    return principal_components(features, np.arange(len(rows)), seed=seed)


def own_neighbors(m: Modality, rows: IntArray, *, seed: int, n_neighbors: int = N_NEIGHBORS) -> IntArray:
    """Nearest cells within a modality by cosine in principal components of its own features."""
    points = own_places(m, rows, seed=seed)
    k = min(n_neighbors, max(len(rows) - 1, 1))
    return knn(points, points, k, metric="cosine", exclude_self=True)[1]


def principal_components(features: FeatureMatrix, rows: IntArray, *, seed: int) -> FloatArray:
    """Scores `(n, <= 50)`, centred, not averaged over neighbours. Few features are taken as they are."""
    features = without_averaging(features)
    if min(N_COMPONENTS, len(rows) - 1, features.n_vars - 1) < 2 or features.n_vars <= N_COMPONENTS:
        return centred(dense_rows(features, rows))
    if not np.array_equal(rows, np.arange(features.n_obs)):
        features = replace(features, values=features.values[rows])
    return principal_scores(features, n_components=N_COMPONENTS, seed=seed)


def centred(x: FloatArray) -> FloatArray:
    """Columns with mean 0."""
    out: FloatArray = x - x.mean(0, keepdims=True)
    return out
