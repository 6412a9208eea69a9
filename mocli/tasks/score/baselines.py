"""Baselines of every integration, which need no model.

Two use the linked features, standardised per column and scaled to unit length, so that Euclidean neighbours
are cosine neighbours; one, for cells with one set of coordinates, principal components.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mocli.data.batches import dense_rows
from mocli.data.bundle import LinkedFeatures, MultiOmics
from mocli.nn.neighbors import smooth, unit_rows
from mocli.tasks.prepare.smoothing import N_COMPONENTS, N_NEIGHBORS, own_coordinates, own_neighbors
from mocli.tasks.trained.latent import measured_together
from mocli.types import FloatArray, IntArray

SMOOTHING = 0.9
MAX_CELLS = 10_000
MAX_VALUES = 2**24
"""Most values of one modality's coordinates, cells x links: 64 MB, of which a dozen copies may exist."""
MAX_COLUMNS = 100
"""Wider coordinates are replaced by this many of their principal components."""
NARROWED = f", by the first {MAX_COLUMNS} principal components of both modalities"
DRAWN = f"at most {MAX_CELLS:,} cells of each modality (fewer above {MAX_VALUES // MAX_CELLS:,} links)"


@dataclass(frozen=True)
class Baseline:
    """Coordinates of cells that need no model.

    Attributes:
        z: By modality, or by group of cells measured in the same ones.
        joint: Coordinates of all cells in their order, where a cell has one set of them.
    """

    name: str
    title: str
    definition: str
    z: Mapping[str, FloatArray]
    joint: FloatArray | None = None


def link_baselines(
    bundle: MultiOmics,
    link: LinkedFeatures,
    rows: Mapping[str, IntArray],
    seed: int,
    places: Mapping[str, FloatArray] | None = None,
    device: str = "cpu",
) -> Iterator[Baseline]:
    """Yield link features alone, then smoothed over each modality's own neighbours, one at a time.

    Args:
        rows: Rows of each modality to place (all, or a sample where there are many).
        places: Coordinates of these cells from their own features, if they are known already.
        device: Where their neighbours are searched.
    """
    raw = {name: dense_rows(features, rows[name]) for name, features in link.sides.items()}
    narrowed = "" if len(link.names) <= MAX_COLUMNS else NARROWED
    yield Baseline(
        "link_features",
        "linked features alone",
        f"cells placed by their standardised linked features, cosine{narrowed}; {DRAWN}",
        narrow({name: unit_rows(values) for name, values in raw.items()}, seed=seed),
    )
    smoothed = {}
    for name in list(raw):
        x = (
            own_coordinates(bundle.modalities[name], rows[name], seed=seed)
            if places is None
            else places[name]
        )
        smoothed[name] = unit_rows(smooth(raw.pop(name), own_neighbors(x, device=device), SMOOTHING))
    yield Baseline(
        "smoothed_link_features",
        "linked features, smoothed",
        f"linked features averaged over the {N_NEIGHBORS} nearest cells of the same modality "
        f"(weight {SMOOTHING}), cosine{narrowed}; {DRAWN}",
        narrow(smoothed, seed=seed),
    )


def narrow(z: Mapping[str, FloatArray], *, seed: int) -> dict[str, FloatArray]:
    """Return coordinates `(n, d)` of modalities unchanged, or 100 components of more than 100 columns.

    The principal components of all modalities together: distances between them hardly change, and
    cost a tenth.
    """
    width = next(iter(z.values())).shape[1]
    joint = np.concatenate([*z.values()])
    if width <= MAX_COLUMNS or len(joint) <= MAX_COLUMNS:
        return dict(z)
    from sklearn.decomposition import PCA

    reduced = PCA(MAX_COLUMNS, svd_solver="randomized", iterated_power=3, random_state=seed).fit_transform(
        joint
    )
    parts = np.split(reduced.astype(np.float32), np.cumsum([len(x) for x in z.values()])[:-1])
    return dict(zip(z, parts, strict=True))


def component_baseline(
    bundle: MultiOmics, cells: IntArray, seed: int
) -> tuple[Baseline, dict[str, IntArray]]:
    """Place cells by the principal components of their modalities side by side, without any correction.

    Every modality has the same total variance; a cell without it gets its mean.

    Returns:
        The baseline, and the cells of each of its groups.
    """
    blocks = []
    for position, m in enumerate(bundle.modalities.values()):
        rows = bundle.rows[cells, position]
        measured = np.flatnonzero(rows >= 0)
        # standardised, hundreds of features that hardly vary would drown the others
        scores = own_coordinates(m, rows[measured], seed=seed, standardise=False)
        spread = float(np.sqrt(scores.var(0).sum())) or 1.0
        block = np.zeros((len(cells), scores.shape[1]), dtype=np.float32)
        block[measured] = scores / spread
        blocks.append(block)
    z = np.concatenate(blocks, axis=1)
    cells_of = {name: np.intersect1d(own_rows, cells) for name, own_rows in measured_together(bundle).items()}
    cells_of = {name: own_rows for name, own_rows in cells_of.items() if len(own_rows)}
    drawn = "" if len(cells) == bundle.n_cells else f"; {len(cells):,} cells drawn at random"
    base = Baseline(
        "principal_components",
        "principal components, uncorrected",
        f"at most {N_COMPONENTS} principal components of each modality, after its usual transform (counts "
        "of genes log-normalised, of proteins CLR, of peaks TF-IDF and LSI), scaled to the same total "
        f"variance, side by side; a modality that was not measured is at its mean{drawn}",
        {name: z[np.searchsorted(cells, own_rows)] for name, own_rows in cells_of.items()},
        z,
    )
    return base, cells_of
