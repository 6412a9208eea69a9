"""Labels carried to query cells by a weighted vote, and how well a cell maps onto labelled cells.

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

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mocli.nn.nearby import nearby
from mocli.nn.neighbors import chunks, drawn_rows, knn
from mocli.types import DoubleArray, FloatArray, IntArray

MAX_REFERENCE = 20_000  # labelled cells that a forest is grown on
N_TREES = 200
_VOTES = 2**21  # shares held at once


class Votes(NamedTuple):
    """Outcome of the neighbours' vote, `(n,)` each.

    Attributes:
        best: The winner; -1 only if no reference cell has a label.
        confidence: The winner's share of the weight, in [0, 1].
    """

    best: IntArray
    confidence: FloatArray


def vote(
    z_query: NDArray[Any],
    z_reference: NDArray[Any],
    labels: NDArray[Any],
    *,
    n_levels: int,
    k: int = 15,
    device: str = "cpu",
) -> Votes:
    """Let the k nearest labelled reference cells vote on every query cell.

    Args:
        z_query, z_reference: `(n, d)` and `(m, d)`, one latent, finite.
        labels: `(m,)` codes below `n_levels`; negative is unknown, and such cells do not vote.
        k: Neighbours that vote, capped at the cells with a label; one at distance d weighs exp(-d^2 / (2
            h^2)), h the distance to the k-th. On a tie the lowest code wins.
        device: Torch device for the distances.

    Raises:
        ValueError: Shapes that do not fit, values that are not finite, codes out of range, or k < 1.
    """
    codes = np.asarray(labels)
    if codes.shape != (len(z_reference),) or k < 1:
        raise ValueError(f"{codes.shape} labels for {len(z_reference)} cells, k = {k}")
    if codes.max(initial=-1) >= n_levels:
        raise ValueError(f"label code {codes.max()} where there are {n_levels} levels")
    labelled = codes >= 0
    reference, codes = z_reference[labelled], codes[labelled].astype(np.int64)
    n = len(z_query)
    best, confidence = np.full(n, -1, np.int64), np.zeros(n, np.float32)
    if not len(reference):
        return Votes(best, confidence)
    distances, neighbors = knn(z_query, reference, k, device=device)
    for rows in chunks(n, max(1, _VOTES // max(n_levels, distances.shape[1]))):
        shares = _shares(distances[rows], codes[neighbors[rows]], n_levels)
        best[rows], confidence[rows] = shares.argmax(1), shares.max(1)
    return Votes(best, confidence)


def left_out_share(
    z: FloatArray, labels: IntArray, *, n_levels: int, k: int = 15, device: str = "cpu"
) -> float:
    """Return the share of labelled cells whose own label wins the vote of the others, in [0, 1].

    `z`: `(n, d)`, finite; `labels`: `(n,)` codes from 0. Of many cells 5,000 are asked, among themselves; of
    fewer than two none is.
    """
    rows = _evenly(len(z), MAX_LEFT_OUT)
    z, codes = np.asarray(z[rows], np.float32), np.asarray(labels, np.int64)[rows]
    if len(z) < 2:
        return 0.0
    distances, neighbors = knn(z, z, min(k, len(z) - 1), exclude_self=True, device=device)
    return float((_shares(distances, codes[neighbors], n_levels).argmax(1) == codes).mean())


def calibration_error(confidence: NDArray[Any], correct: NDArray[Any], *, n_bins: int = 10) -> float:
    """Return the expected calibration error of the confidence against the share of correct labels.

    Args:
        confidence: `(n,)` in [0, 1].
        correct: `(n,)` boolean: whether the winner is right.
        n_bins: Bins of equal width, closed above; each counts by its cells (Guo et al. 2017, eq. 3).

    Returns:
        0 means calibrated; NaN without cells.

    Raises:
        ValueError: Lengths that differ, or a confidence outside [0, 1].
    """
    stated, right = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if stated.shape != right.shape or not bool(((stated >= 0) & (stated <= 1)).all()):
        raise ValueError("confidences must be in [0, 1], one for each cell")
    if not len(stated):
        return math.nan
    bins = np.clip(np.ceil(stated * n_bins).astype(np.int64) - 1, 0, None)
    gaps = np.bincount(bins, weights=stated - right, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(stated))


def _shares(distances: FloatArray, codes: IntArray, n_levels: int) -> FloatArray:
    """Return the share of the weight that each label gets, `(rows, n_levels)`.

    It is rounded to float32 so that ties do not depend on the order of summation.
    """
    n = len(codes)
    d = distances.astype(np.float64)
    width = np.where(d[:, -1:] > 0, d[:, -1:], 1.0)
    weight = np.exp(-0.5 * np.square(d / width))
    cells = np.arange(n)[:, None] * n_levels + codes
    votes = np.bincount(cells.ravel(), weights=weight.ravel(), minlength=n * n_levels)
    shares = votes.reshape(n, n_levels) / weight.sum(1, keepdims=True)
    return np.minimum(shares, 1.0).astype(np.float32)


def forest(
    z_query: NDArray[Any], z_reference: NDArray[Any], labels: NDArray[Any], *, n_levels: int, seed: int
) -> tuple[IntArray, FloatArray]:
    """Let a random forest trained on labelled reference cells label every query cell.

    Args:
        z_query, z_reference: `(n, d)` and `(m, d)`, one latent, finite.
        labels: `(m,)` codes below `n_levels`; negative is unknown. Of more than 20,000 labelled cells, 20,000
            are drawn.

    Returns:
        Winner and its mean vote over the trees, `(n,)` each; -1 and 0 where no reference cell has a label.
        Classes weigh the same in every tree, as in the Multigrate paper (Methods, "Label transfer").
    """
    from sklearn.ensemble import RandomForestClassifier

    codes = np.asarray(labels)
    rows = np.flatnonzero(codes >= 0)
    if codes.max(initial=-1) >= n_levels:
        raise ValueError(f"label code {codes.max()} where there are {n_levels} levels")
    if not len(rows) or not len(z_query):
        return np.full(len(z_query), -1, np.int64), np.zeros(len(z_query), np.float32)
    rows = drawn_rows(rows, MAX_REFERENCE, seed=seed)
    trees = RandomForestClassifier(N_TREES, class_weight="balanced_subsample", random_state=seed, n_jobs=1)
    trees.fit(z_reference[rows], codes[rows])
    shares = trees.predict_proba(z_query)
    best: IntArray = trees.classes_[shares.argmax(1)].astype(np.int64)
    return best, shares.max(1).astype(np.float32)


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
