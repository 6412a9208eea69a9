"""Labels carried from reference cells to query cells by a weighted vote, with a confidence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mocli.nn.neighbors import chunks, knn
from mocli.types import BoolArray, FloatArray, IntArray

TYPICAL = 99  # percentile of the reference's own distances that still counts as near
MAX_REFERENCE = 20_000  # reference cells whose own distances are measured
N_TREES = 200
_VOTES = 2**21  # shares held at once


@dataclass(frozen=True, eq=False)
class Votes:
    """What the neighbours say, `(n,)` each.

    Attributes
    ----------
    codes
        The winner where it is trusted, otherwise -1.
    confidence
        The winner's share of the weight, in [0, 1]; 0 for cells that are `far`.
    best
        The winner, trusted or not; -1 only if no reference cell has a label.
    runner_up
        The label with the second largest weight, -1 if all neighbours agree.
    far
        Cells so far from all of the reference that its labels say nothing about them.
    """

    codes: IntArray
    confidence: FloatArray
    best: IntArray
    runner_up: IntArray
    far: BoolArray


def vote(
    z_query: NDArray[Any],
    z_reference: NDArray[Any],
    labels: NDArray[Any],
    *,
    n_levels: int,
    k: int = 15,
    min_confidence: float = 0.5,
    max_distance_ratio: float = 3.0,
    device: str = "cpu",
) -> Votes:
    """Let the k nearest labelled reference cells vote on every query cell.

    Parameters
    ----------
    z_query, z_reference
        `(n, d)` and `(m, d)`, one latent, finite.
    labels
        `(m,)` codes below `n_levels`; negative is unknown, and such cells take no part at all.
    k
        Neighbours that vote, capped at the cells with a label; one at distance d weighs
        exp(-d^2 / (2 h^2)), h the distance to the k-th.
    min_confidence
        Below it the code is -1. Equal shares go to the lowest code.
    max_distance_ratio
        A query is far if its k-th neighbour lies more than this many times the 99th percentile of
        the distances that reference cells have to their own k-th neighbour (of 20,000 evenly spaced
        cells, if there are more). `math.inf` calls none far; nor is any where that percentile is 0.
    device
        Torch device for the distances.

    Raises
    ------
    ValueError
        Shapes that do not fit, values that are not finite, codes out of range, or k < 1.
    """
    codes = np.asarray(labels)
    if codes.shape != (len(z_reference),) or k < 1:
        raise ValueError(f"{codes.shape} labels for {len(z_reference)} cells, k = {k}")
    if codes.max(initial=-1) >= n_levels:
        raise ValueError(f"label code {codes.max()} where there are {n_levels} levels")
    known = codes >= 0
    reference, codes = z_reference[known], codes[known].astype(np.int64)
    n, m = len(z_query), len(reference)
    if m == 0:
        none = np.full(n, -1, np.int64)
        return Votes(none, np.zeros(n, np.float32), none.copy(), none.copy(), np.ones(n, bool))
    distances, neighbors = knn(z_query, reference, k, device=device)
    best, runner_up = np.empty(n, np.int64), np.empty(n, np.int64)
    confidence = np.empty(n, np.float32)
    for rows in chunks(n, max(1, _VOTES // max(n_levels, distances.shape[1]))):
        shares = _shares(distances[rows], codes[neighbors[rows]], n_levels)
        best[rows], confidence[rows] = shares.argmax(1), shares.max(1)
        shares[np.arange(len(shares)), best[rows]] = 0
        runner_up[rows] = np.where(shares.any(1), shares.argmax(1), -1)
    limit = max_distance_ratio * _typical_distance(reference, k, device)
    far = distances[:, max(0, min(k, m - 1) - 1)] > limit
    confidence[far] = 0
    trusted = ~far & (confidence >= np.float32(min_confidence))
    return Votes(np.where(trusted, best, -1), confidence, best, runner_up, far)


def calibration_error(confidence: NDArray[Any], correct: NDArray[Any], *, n_bins: int = 10) -> float:
    """Return the expected calibration error: how far stated confidence is from the share correct.

    Parameters
    ----------
    confidence
        `(n,)` in [0, 1].
    correct
        `(n,)` boolean: whether the winner is right.
    n_bins
        Bins of equal width, closed above; each counts by its cells (Guo et al. 2017, eq. 3).

    Returns
    -------
    0 is calibrated; NaN without cells.

    Raises
    ------
    ValueError
        Lengths that differ, or a confidence outside [0, 1].
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
    """Share of the weight that each label gets, `(rows, n_levels)`.

    Rounded to float32 so that ties do not hang on the order of summation.
    """
    n = len(codes)
    d = distances.astype(np.float64)
    width = np.where(d[:, -1:] > 0, d[:, -1:], 1.0)
    weight = np.exp(-0.5 * np.square(d / width))
    cells = np.arange(n)[:, None] * n_levels + codes
    votes = np.bincount(cells.ravel(), weights=weight.ravel(), minlength=n * n_levels)
    shares = votes.reshape(n, n_levels) / weight.sum(1, keepdims=True)
    rounded: FloatArray = np.minimum(shares, 1.0).astype(np.float32)
    return rounded


def _typical_distance(reference: NDArray[Any], k: int, device: str) -> float:
    """99th percentile of distances to the k-th other cell; infinite where there is no scale."""
    m = len(reference)
    k = min(k, m - 1)
    if k < 1:
        return math.inf
    asking = reference
    if m > MAX_REFERENCE:
        asking = reference[np.linspace(0, m - 1, MAX_REFERENCE).astype(np.int64)]
    # a cell is its own nearest or among its equals, at distance 0 either way: the last is the k-th other
    own = knn(asking, reference, k + 1, device=device)[0][:, -1]
    return float(np.percentile(own, TYPICAL)) or math.inf


def forest(
    z_query: NDArray[Any],
    z_reference: NDArray[Any],
    labels: NDArray[Any],
    *,
    n_levels: int,
    seed: int,
) -> tuple[IntArray, FloatArray]:
    """Let a random forest trained on labelled reference cells label every query cell.

    Parameters
    ----------
    z_query, z_reference
        `(n, d)` and `(m, d)`, one latent, finite.
    labels
        `(m,)` codes below `n_levels`; negative is unknown. Of more than 20,000 labelled cells as
        many are drawn.

    Returns
    -------
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
    if len(rows) > MAX_REFERENCE:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_REFERENCE, replace=False))
    trees = RandomForestClassifier(N_TREES, class_weight="balanced_subsample", random_state=seed, n_jobs=1)
    trees.fit(z_reference[rows], codes[rows])
    shares = trees.predict_proba(z_query)
    best: IntArray = trees.classes_[shares.argmax(1)].astype(np.int64)
    return best, shares.max(1).astype(np.float32)
