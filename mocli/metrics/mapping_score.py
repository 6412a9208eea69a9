"""How well a cell maps onto labelled cells of a reference: cells of types that it lacks get no label.

The mapping score of a cell is the share of reference cells that lie at least as far from their own 10th
nearest labelled cell as the cell does from its own 10th. It is a conformal p-value: of cells like those of
the reference, a share t scores below t. Distances are taken in coordinates in which cells of one label
spread alike in all directions (the inverse root of the covariance within labels, half of it shrunk towards
a sphere), so that a direction in which labels do not differ counts no more than one in which they do.

The threshold below which a cell is unknown is found by leaving out each type in turn: its cells are scored
against the cells of all others, and the threshold is the t between `LEAST` and `MOST` at which the share of
these cells that score below t, mean over types, exceeds t by most. The bounds are needed because the model
was trained with the left-out type: a type that it has never seen lies nearer. They were chosen on reference
models trained without a type (tests/benchmarks/RESULTS.md, "Types that the reference lacks").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mocli.nn.nearest.nearby import nearby
from mocli.nn.neighbors import knn
from mocli.types import DoubleArray, FloatArray, IntArray

K = 10
LEAST, MOST = 0.07, 0.10
MAX_ASKED = 20_000
"""Labelled cells whose own distances are measured."""
MAX_LEFT_OUT = 5_000
"""Labelled cells among which types are left out."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labelled cells, and the distances among them.

    Attributes:
        places: `(m, d)`, in coordinates in which labels spread alike.
        codes: Label of each, `(m,)`.
        axes: Map from latent coordinates to those of `places`, `(d, d)`.
        sample, reach: Rows of cells, and their distance to the 10th other cell, `(n,)` each.
    """

    places: FloatArray
    codes: IntArray
    axes: DoubleArray
    sample: IntArray
    reach: FloatArray
    device: str = "cpu"

    @classmethod
    def of(cls, z: FloatArray, labels: IntArray, *, device: str = "cpu") -> Labelled:
        """Use the cells that have a label (0 or more) as reference; `z` is `(m, d)`, finite."""
        codes = np.asarray(labels, np.int64)
        z, codes = z[codes >= 0], codes[codes >= 0]
        axes = _axes(z, codes)
        places = (z @ axes).astype(np.float32)
        sample = _evenly(len(z), MAX_ASKED)
        k = min(K, len(z) - 1)
        # a cell is its own nearest or among its equals, at distance 0 either way: the last is the k-th other
        reach = (
            nearby(places[sample], places, k + 1, device=device)[0][:, -1]
            if k > 0
            else np.zeros(0, np.float32)
        )
        return cls(places, codes, axes, sample if k > 0 else sample[:0], reach, device)

    def score(self, z: FloatArray, *, apart_as_a_whole: bool = False) -> FloatArray:
        """Return mapping scores in (0, 1] of cells `(n, d)`; 1 where the reference has no scale.

        `apart_as_a_whole`: whether all cells may lie somewhat farther for a reason that is not their type,
        such as another modality: where their median distance is larger than the reference's own, distances
        shrink by the ratio of the two.
        """
        if not len(self.reach) or not len(z):
            return np.ones(len(z), np.float32)
        k = min(K, len(self.places) - 1)
        far = nearby((z @ self.axes).astype(np.float32), self.places, k, device=self.device)[0][:, -1]
        typical = float(np.median(self.reach))
        if apart_as_a_whole and typical > 0:
            far = far / max(1.0, float(np.median(far)) / typical)
        return _share_as_far(self.reach, far)

    def left_out(self) -> dict[int, FloatArray]:
        """Leave each label out in turn: scores of its cells against the cells of all others.

        Labels of fewer than 10 cells, or with fewer than 10 cells left to compare with, are skipped.
        """
        drawn = self._sample()
        scores = {}
        for code in np.unique(drawn.codes):
            its = drawn.codes == code
            if its.sum() < K or (~its).sum() <= K:
                continue
            far = knn(drawn.places[its], drawn.places[~its], K, device=self.device)[0][:, -1]
            scores[int(code)] = _share_as_far(drawn.reach[~its[drawn.sample]], far)
        return scores

    def _sample(self) -> Labelled:
        rows = _evenly(len(self.places), MAX_LEFT_OUT)
        if len(rows) == len(self.places):
            return self
        return Labelled.of(self.places[rows], self.codes[rows], device=self.device)


def threshold(left_out: dict[int, FloatArray]) -> float:
    """Return the score below which a cell has none of the labels, found by `Labelled.left_out`."""
    steps = np.round(np.arange(LEAST, MOST + 1e-9, 0.01), 2)
    gained = np.array([np.mean([(s < t).mean() for s in left_out.values()] or [0.0]) - t for t in steps])
    return float(steps[int(gained.argmax())])


def _axes(z: FloatArray, codes: IntArray) -> DoubleArray:
    """Return the inverse root of the covariance within labels plus its mean variance, `(d, d)`."""
    d = z.shape[1]
    levels, level = np.unique(codes, return_inverse=True)
    means = np.zeros((len(levels), d))
    np.add.at(means, level, z)
    centred = z - (means / np.maximum(np.bincount(level, minlength=len(levels)), 1)[:, None])[level]
    values, vectors = np.linalg.eigh(centred.T @ centred / max(len(z), 1))
    mean = float(values.mean()) if d else 0.0
    if mean <= 0:
        return np.eye(d)
    return vectors / np.sqrt(np.maximum(values, 0) + mean)


def _share_as_far(distances: FloatArray, far: FloatArray) -> FloatArray:
    """Return, for each of `far`, the share of `distances` (and of itself) that is at least as large."""
    nearer = np.searchsorted(np.sort(distances), far, side="left")
    return ((1 + len(distances) - nearer) / (1 + len(distances))).astype(np.float32)


def _evenly(n: int, most: int) -> IntArray:
    return np.linspace(0, n - 1, most).astype(np.int64) if n > most else np.arange(n)
