"""What needs no model: baselines beside every integration.

Two place cells by their linked features, standardised per column and scaled to
unit length, so that Euclidean neighbours are cosine neighbours; one, for cells with a
single place, by principal components.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from mocli.data.batches import dense_rows
from mocli.data.bundle import FeatureMatrix
from mocli.data.transforms.components import principal_scores, without_averaging
from mocli.data.transforms.recipe import Recipe, RecipeOptions, default_transform
from mocli.nn.neighbors import knn, smooth
from mocli.tasks.prepare.choice import usual_top
from mocli.tasks.trained.latent import measured_together
from mocli.types import COUNT_LIKELIHOODS, ModalityKind, ValueKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mocli.data.bundle import LinkedFeatures, Modality, MultiOmics
    from mocli.types import CSR, FloatArray, IntArray

N_NEIGHBORS = 15
SMOOTHING = 0.9
MAX_CELLS = 10_000
MAX_VALUES = 2**24
"""Coordinates of one modality, cells x links: 64 MB, of which a dozen copies may exist at a time."""
DRAWN = f"at most {MAX_CELLS:,} cells of each modality (fewer above {MAX_VALUES // MAX_CELLS:,} links)"
N_COMPONENTS = 50


@dataclass(frozen=True)
class Baseline:
    """A placement of cells that needs no model."""

    name: str
    title: str
    definition: str
    z: Mapping[str, FloatArray]


def link_baselines(
    bundle: MultiOmics, link: LinkedFeatures, rows: Mapping[str, IntArray], seed: int
) -> Iterator[Baseline]:
    """Yield link features alone, then smoothed over each modality's own neighbours, one at a time.

    Parameters
    ----------
    rows
        Rows of each modality to place (all, or a sample where there are many).
    """
    raw = {
        link.source: dense_rows(link.source_features, rows[link.source]),
        link.target: dense_rows(link.target_features, rows[link.target]),
    }
    yield Baseline(
        "link_features",
        "linked features alone",
        f"cells placed by their standardised linked features, cosine; {DRAWN}",
        {name: unit(values) for name, values in raw.items()},
    )
    smoothed = {}
    for name in list(raw):
        near = own_neighbors(bundle.modalities[name], rows[name], seed=seed)
        smoothed[name] = unit(smooth(raw.pop(name), near, SMOOTHING))
    yield Baseline(
        "smoothed_link_features",
        "linked features, smoothed",
        f"linked features averaged over the {N_NEIGHBORS} nearest cells of the same modality "
        f"(weight {SMOOTHING}), cosine; {DRAWN}",
        smoothed,
    )


def component_baseline(
    bundle: MultiOmics, cells: IntArray, seed: int
) -> tuple[Baseline, dict[str, IntArray]]:
    """Place cells by the principal components of their modalities side by side, without any correction.

    Every modality has the same total variance; where it was not measured a cell lies at its mean.

    Returns
    -------
    The baseline, and the cells of each of its groups.
    """
    blocks = []
    for position, m in enumerate(bundle.modalities.values()):
        rows = bundle.rows[cells, position]
        measured = np.flatnonzero(rows >= 0)
        # standardised, hundreds of features that hardly vary would drown the others
        scores = own_places(m, rows[measured], seed=seed, standardise=False)
        spread = float(np.sqrt(scores.var(0).sum())) or 1.0
        block = np.zeros((len(cells), scores.shape[1]), dtype=np.float32)
        block[measured] = scores / spread
        blocks.append(block)
    z = np.concatenate(blocks, axis=1)
    of = {name: np.intersect1d(own, cells) for name, own in measured_together(bundle).items()}
    of = {name: own for name, own in of.items() if len(own)}
    drawn = "" if len(cells) == bundle.n_cells else f"; {len(cells):,} cells drawn at random"
    base = Baseline(
        "principal_components",
        "principal components, uncorrected",
        f"at most {N_COMPONENTS} principal components of each modality, after its usual transform (counts "
        "of genes log-normalised, of proteins CLR, of peaks TF-IDF and LSI), scaled to the "
        f"same total variance, side by side; a modality that was not measured at its mean{drawn}",
        {name: z[np.searchsorted(cells, own)] for name, own in of.items()},
    )
    return base, of


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
    kind = ValueKind.COUNTS if m.likelihood in {*COUNT_LIKELIHOODS, "bernoulli"} else ValueKind.POSITIVE
    largest = float(x.data.max()) if x.nnz else 0.0
    # values that are taken for normal were transformed before
    transform = "identity" if m.likelihood == "normal" else default_transform(m.kind, kind, max_value=largest)
    peaks = m.kind is ModalityKind.ATAC and transform != "tfidf-lsi"
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


def unit(x: FloatArray) -> FloatArray:
    """Rows of length 1; a zero row stays zero."""
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    out: FloatArray = np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)
    return out
