"""Labels carried from reference cells to query cells by a weighted vote, with a confidence."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mocli.nn.neighbors import chunks, drawn_rows, knn
from mocli.types import FloatArray, IntArray

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
