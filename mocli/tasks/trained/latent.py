"""Coordinates of cells: a model's latent, or of their own values for ways that are linear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy import sparse

from mocli.data.bundle import FeatureMatrix, MultiOmics
from mocli.data.transforms.components import Components
from mocli.models.base import Encodes, EncodesJointly
from mocli.nn.neighbors import chunks, drawn_rows
from mocli.types import CSR, DoubleArray, FloatArray, IntArray, Pairing

_NEGLIGIBLE = 1e-6
"""Of single floats, relative."""


def gives_one_place(model: object, pairing: Pairing) -> bool:
    """Say whether a cell has one set of coordinates from all its modalities, not one for each modality.

    Where no cell was measured in two modalities, each modality has its own if the model encodes modalities.
    """
    is_apart = pairing is Pairing.UNPAIRED and isinstance(model, Encodes)
    return isinstance(model, EncodesJointly) and not is_apart


@dataclass(frozen=True, eq=False)
class Latent:
    """Latent coordinates of an integration.

    Attributes:
        by_modality: `(n_obs, d)` for each, rows in file order.
        joint: `(n_cells, d)` where all modalities of a cell give one set of coordinates; `by_modality` then
            repeats it.
        alone: Coordinates of cells had they been measured in one modality only, `(n_obs, d)` for each
            modality; empty where there are no joint ones.
    """

    by_modality: Mapping[str, FloatArray]
    joint: FloatArray | None = None
    alone: Mapping[str, FloatArray] = field(default_factory=dict)

    @classmethod
    def of_cells(
        cls, joint: FloatArray, bundle: MultiOmics, alone: Mapping[str, FloatArray] | None = None
    ) -> Latent:
        """Give every row of a modality the coordinates of its cell."""
        coordinates = {name: _rows_of(joint, bundle.cells_of(name)) for name in bundle.modalities}
        return cls(coordinates, joint, alone or {})

    @property
    def collapsed(self) -> list[str]:
        """Modalities of which all cells lie at one place, but for rounding."""
        return [
            name
            for name, z in self.by_modality.items()
            if len(z) > 1 and np.ptp(z, axis=0).max(initial=0.0) <= _NEGLIGIBLE * np.abs(z).max(initial=0.0)
        ]

    def whole(self, bundle: MultiOmics) -> FloatArray:
        """Return coordinates for each cell, `(n_cells, d)`: the mean where modalities have their own."""
        if self.joint is not None:
            return self.joint
        width = next(iter(self.by_modality.values())).shape[1]
        total, times = np.zeros((bundle.n_cells, width)), np.zeros((bundle.n_cells, 1))
        for name, z in self.by_modality.items():
            total[bundle.cells_of(name)] += z
            times[bundle.cells_of(name)] += 1
        return (total / np.maximum(times, 1)).astype(np.float32)

    def groups(self, bundle: MultiOmics) -> dict[str, CellLatent]:
        """Return the groups of cells whose mixing is meaningful.

        Modalities, where each has its own coordinates; else cells grouped by the modalities measured in
        them (`rna+atac`, `rna`).
        """
        if self.joint is None:
            return {name: CellLatent(z, bundle.cells_of(name)) for name, z in self.by_modality.items()}
        return {
            name: CellLatent(_rows_of(self.joint, cells), cells)
            for name, cells in measured_together(bundle).items()
        }

    def points(self, bundle: MultiOmics) -> CellLatent:
        """Return the points of all groups, one after the other."""
        groups = self.groups(bundle).values()
        if len(groups) == 1:
            return next(iter(groups))
        return CellLatent(np.concatenate([g.z for g in groups]), np.concatenate([g.cells for g in groups]))


class CellLatent(NamedTuple):
    """Coordinates `(n, d)` and their cells, `(n,)`."""

    z: FloatArray
    cells: IntArray


def _rows_of(z: FloatArray, cells: IntArray) -> FloatArray:
    """Return the coordinates of cells; of all in order no copy, as there may be very many."""
    return z if np.array_equal(cells, np.arange(len(z))) else z[cells]


def measured_together(bundle: MultiOmics) -> dict[str, IntArray]:
    """Return cells by the modalities they have; sets of more modalities come first."""
    patterns = bundle.patterns()
    names = list(bundle.modalities)
    patterns_of = []
    for pattern in np.unique(patterns):
        having = [name for m, name in enumerate(names) if pattern >> m & 1]
        patterns_of.append((len(having), "+".join(having), np.flatnonzero(patterns == pattern)))
    patterns_of.sort(key=lambda entry: -entry[0])
    return {name: cells for _, name, cells in patterns_of}


N_FEATURES = 3_000
"""This many features, those with the most excess variance, enter the components."""
LEAST_SEEN = 0.01
"""A feature detected in a smaller share of the cells does not enter the components."""
N_COMPONENTS, LEADING = 100, 30
"""Number of components, and of those that neighbours are found in: later ones are mostly noise."""
FIRST = 10
"""Components in which cells of a new type lie away from all others, if in any."""
N_LANDMARKS, RANK = 400, 100
ROUNDING = 1e-5
"""Eigenvalues below this share of the largest are rounding, in single precision."""
NEAR_PLAIN = 2
"""Place of the nearness in plain components among the coordinates of a cell."""
WIDTH = 0.5
"""Width of the kernel over the median squared distance between cells."""


@dataclass(frozen=True, eq=False)
class SourceCells:
    """Cells in the form that the ways take.

    Attributes:
        values: Log values of the source `(n, n_source)`, in the model's order.
        z: `(n, d)`, latent coordinates of the cells from the source alone; None without a model.
        absent: Features of the source that these cells were not measured for; they count as the mean.
    """

    values: CSR
    z: FloatArray | None = None
    absent: IntArray | None = None

    def take(self, rows: IntArray) -> SourceCells:
        """Return some of the cells."""
        return SourceCells(self.values[rows], None if self.z is None else self.z[rows], self.absent)

    @property
    def n(self) -> int:
        """Number of cells."""
        return int(self.values.shape[0])


@dataclass(frozen=True, eq=False)
class View:
    """Principal components of chosen features, `(n, k)`, the first of variance 1.

    Attributes:
        columns: `(c,)`.
        scale: `(c,)`, what features are divided by.
    """

    columns: IntArray
    scale: FloatArray
    components: Components

    @classmethod
    def fit(cls, x: CSR, *, standardise: bool, seed: int) -> View:
        """Fit to values `(n, p)`; standardised, every feature counts the same."""
        mean = np.asarray(x.mean(0), np.float64).ravel()
        variance = np.maximum(np.asarray(x.multiply(x).mean(0), np.float64).ravel() - np.square(mean), 0)
        columns = _variable(mean, variance, np.bincount(x.indices, minlength=x.shape[1]) / max(x.shape[0], 1))
        deviation = np.sqrt(variance[columns])
        scale = np.ones(len(columns), np.float32)
        if standardise and len(columns):
            scale = np.maximum(deviation, 0.1 * float(np.median(deviation))).astype(np.float32)
        values = _scaled(x, columns, scale)
        features = FeatureMatrix(values, tuple(map(str, columns)))
        components = Components.fit(features, n_components=N_COMPONENTS, seed=seed)
        spread = float(components.apply(features).values.std(0).max(initial=0)) or 1.0
        return cls(columns, scale, replace(components, loadings=components.loadings / np.float32(spread)))

    def values(self, cells: SourceCells) -> CSR:
        """Return the chosen features of cells, `(n, c)`."""
        return _scaled(cells.values, self.columns, self.scale)

    def __call__(self, cells: SourceCells) -> FloatArray:
        """Return coordinates `(n, k)` of cells."""
        values = self.values(cells)
        absent = None if cells.absent is None else np.flatnonzero(np.isin(self.columns, cells.absent))
        features = FeatureMatrix(values, tuple(map(str, self.columns)))
        return np.asarray(self.components.apply(features, absent).values, np.float32)

    def unexplained(self, cells: SourceCells, scores: FloatArray) -> DoubleArray:
        """Return a cell's squared deviation from the mean over what its scores explain of it, `(n,)`."""
        values = self.values(cells)
        mean = self.components.mean.astype(np.float64)
        total = np.asarray(values.multiply(values).sum(1), np.float64).ravel() - 2 * (values @ mean)
        total += np.square(mean).sum()
        # loadings are orthogonal vectors, all over one number
        size = float(np.square(self.components.loadings[:, :1]).sum()) or 1.0
        return over_explained(total, np.square(scores.astype(np.float64)).sum(1) / size)


def over_explained(total: DoubleArray, explained: DoubleArray) -> DoubleArray:
    """Return squared deviations over what is explained of them, `(n,)`."""
    ratio: DoubleArray = total / np.maximum(explained, 1e-9 * np.maximum(total, 1e-9))
    return ratio


def _scaled(x: CSR, columns: IntArray, scale: FloatArray) -> CSR:
    return sparse.csr_matrix(x[:, columns] @ sparse.diags(1 / scale), dtype=np.float32)


def _variable(mean: DoubleArray, variance: DoubleArray, seen: DoubleArray) -> IntArray:
    """Choose features that vary; if there are many, those that vary most for their mean."""
    able = np.flatnonzero((variance > 0) & (seen >= LEAST_SEEN))
    able = able if len(able) > 1 else np.flatnonzero(variance > 0)
    if len(able) <= N_FEATURES:
        return able
    excess = variance[able] / np.maximum(np.abs(mean[able]), 1e-12)
    return np.sort(able[np.argsort(-excess, kind="stable")[:N_FEATURES]])


@dataclass(frozen=True, eq=False)
class Nearness:
    """Coordinates `(n, r)` from the nearness to landmarks, by a Gaussian kernel.

    Attributes:
        landmarks: `(m, d)`.
        projection: `(m, r)`, from kernel to coordinates.
    """

    landmarks: FloatArray
    width: float
    projection: FloatArray

    @classmethod
    def fit(cls, points: FloatArray, *, seed: int) -> Nearness:
        """Take landmarks from points `(n, d)`, 500 at most."""
        chosen = drawn_rows(len(points), N_LANDMARKS, seed=seed)
        landmarks = np.asarray(points[chosen], np.float32)
        squared = _squared(landmarks[:300], landmarks[:300])
        distances = squared[np.triu_indices(len(squared), 1)]
        width = float(np.median(distances)) / WIDTH if len(distances) else 1.0
        width = width if width > 0 else 1.0
        kernel = np.exp(-_squared(landmarks, landmarks) / width).astype(np.float32)
        values, vectors = leading(kernel, RANK)
        kept = values > ROUNDING * max(values[0], 1e-12)
        projection = vectors[:, kept] / np.sqrt(values[kept])
        return cls(landmarks, width, np.asarray(projection, np.float32))

    def __call__(self, points: FloatArray) -> FloatArray:
        """Return coordinates of points `(n, d)`."""
        out = np.empty((len(points), self.projection.shape[1]), np.float32)
        for rows in chunks(len(points), 4096):
            out[rows] = np.exp(-_squared(points[rows], self.landmarks) / self.width) @ self.projection
        return out


def leading(symmetric: FloatArray, k: int) -> tuple[FloatArray, FloatArray]:
    """Return the k largest eigenvalues of `(n, n)`, largest first, and their vectors `(n, k)`."""
    from scipy.linalg import eigh

    n = len(symmetric)
    values, vectors = eigh(symmetric, subset_by_index=(max(n - k, 0), n - 1), overwrite_a=True)
    return values[::-1], vectors[:, ::-1]


def _squared(a: FloatArray, b: FloatArray) -> DoubleArray:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    squares: DoubleArray = np.maximum(np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T, 0)
    return squares


@dataclass(frozen=True, eq=False)
class CellCoordinates:
    """From cells to the coordinates of each way, fitted on some cells.

    Attributes:
        plain, standardised: Components of the cells' own values.
        latent: Nearness in a model's latent; None without one.
    """

    plain: View
    standardised: View
    near_plain: Nearness
    near_standardised: Nearness
    latent: Nearness | None

    @classmethod
    def fit(cls, cells: SourceCells, *, seed: int) -> CellCoordinates:
        """Fit to cells."""
        views = [View.fit(cells.values, standardise=s, seed=seed) for s in (False, True)]
        nearness = [Nearness.fit(view(cells)[:, :LEADING], seed=seed) for view in views]
        latent = None if cells.z is None else Nearness.fit(cells.z, seed=seed)
        return cls(views[0], views[1], nearness[0], nearness[1], latent)

    def __call__(self, cells: SourceCells) -> list[FloatArray]:
        """Return the coordinates `(n, r)` of each way but the linked features, in the order of `WAYS`."""
        scores = [self.plain(cells), self.standardised(cells)]
        return [*scores, *placed(scores, (self.near_plain, self.near_standardised), self.latent, cells.z)]

    def strangeness(self, cells: SourceCells) -> DoubleArray:
        """Return how unlike cells are to those fitted on, `(n, 2)`, as `strangeness`."""
        views = (self.plain, self.standardised)
        near = (self.near_plain, self.near_standardised)
        signs = np.zeros((cells.n, 2))
        for rows in chunks(cells.n, 4096):
            some = cells.take(np.arange(rows.start, rows.stop))
            scores = [view(some) for view in views]
            unexplained = [v.unexplained(some, s) for v, s in zip(views, scores, strict=True)]
            signs[rows] = strangeness(near, scores, unexplained)
        return signs


def placed(
    scores: Sequence[FloatArray], near: Sequence[Nearness], latent: Nearness | None, z: FloatArray | None
) -> list[FloatArray]:
    """Return nearness `(n, r)` in components `(n, k)`, plain and standardised, and in the latent `(n, d)`."""
    near_landmarks = [nearness(s[:, :LEADING]) for nearness, s in zip(near, scores, strict=True)]
    if latent is not None:
        assert z is not None
        near_landmarks.append(latent(z))
    return near_landmarks


def strangeness(
    near: Sequence[Nearness], scores: Sequence[FloatArray], unexplained: Sequence[DoubleArray]
) -> DoubleArray:
    """Return two measures of how unlike a cell is to those fitted on, `(n, 2)`.

    How far it lies from the fifth nearest landmark, over how far these landmarks lie from their own fifth
    nearest (as a local outlier factor: Breunig et al. 2000, doi:10.1145/335191.335388); and how little of
    its values the components explain; a cell they do not describe lies near the middle of all.
    """
    landmarks = np.concatenate([nearness.landmarks[:, :FIRST] for nearness in near], axis=1)
    usual, _ = _fifth(landmarks, landmarks, themselves=True)
    far, nearest = _fifth(np.concatenate([s[:, :FIRST] for s in scores], axis=1), landmarks)
    return np.stack([far / np.maximum(usual[nearest].mean(1), 1e-9), np.sqrt(sum(unexplained))], axis=1)


def _fifth(
    points: FloatArray, landmarks: FloatArray, *, themselves: bool = False
) -> tuple[DoubleArray, IntArray]:
    """Distance to the fifth nearest landmark, and the five, `(n,)` and `(n, 5)`."""
    squared = _squared(points, landmarks)
    if themselves:
        np.fill_diagonal(squared, np.inf)
    k = min(5, squared.shape[1] - 1)
    nearest = np.argpartition(squared, k - 1, axis=1)[:, :k]
    return np.sqrt(np.take_along_axis(squared, nearest, 1).max(1)), nearest
