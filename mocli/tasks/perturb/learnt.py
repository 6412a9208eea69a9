"""What a perturbation does, learnt from what others did: simple ways, each judged on targets left out.

No deep model has been shown to beat these (Ahlmann-Eltze, Huber and Anders, Nat Methods 2025): the mean
change over other perturbations for a target that was not seen, the sum of both singles for a double, and
linear models on embeddings of the perturbed features. All ways predict every target from the others only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mocli.nn.readout import non_negative
from mocli.types import BoolArray, DoubleArray, IntArray

MEAN, MEDIAN, ADDITIVE = "mean", "median", "additive"
SHARED, MODEL, STACKED, CHOSEN = "shared features", "model", "stacked", "chosen"
RIDGE = (0.3, 3.0)
"""Penalties of the linear models, in units of the mean squared length of an embedding."""

FEWEST = 3
"""Other targets with an embedding, below which a linear model is not fitted."""

RANK = 20
"""Directions of change that a linear model predicts: the leading ones of the other targets."""


MOST_FOLDS = 100
"""Up to as many targets are left out one by one; of more, a hundredth at a time."""


@dataclass(frozen=True, eq=False)
class Responses:
    """Predicted changes of targets, each from other targets only.

    Attributes
    ----------
    ways
        By name, `(n_targets, n_features)`; rows of NaN where a way says nothing of a target.
    chosen
        Of the best way, `(n_targets, n_features)`.
    choices
        Its name, target by target: one for doubles of which both singles were measured, one for all others.
    scores, errors
        Pearson correlation with the measured change, and root mean squared error, of every way and of
        `chosen`: by name `(n_targets,)`.
    """

    ways: Mapping[str, DoubleArray]
    chosen: DoubleArray
    choices: tuple[str, ...]
    scores: Mapping[str, DoubleArray]
    errors: Mapping[str, DoubleArray]

    @property
    def gain(self) -> tuple[float, float]:
        """Mean gain in correlation of the chosen way over the mean of the others, and its standard error."""
        gain = (self.scores[CHOSEN] - self.scores[MEAN])[np.isfinite(self.scores[CHOSEN] + self.scores[MEAN])]
        if len(gain) < 2:
            return 0.0, float("nan")
        return float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain)))


def learn_responses(
    changes: DoubleArray,
    parts: Sequence[Sequence[str]],
    embeddings: Mapping[str, Mapping[str, DoubleArray]],
    *,
    compared: BoolArray,
    model: DoubleArray | None = None,
) -> Responses:
    """Predict every target's change from those of the others, by each way, and choose among the ways.

    Parameters
    ----------
    changes
        Measured mean changes, `(n_targets, n_features)`.
    parts
        Names of the features that were perturbed together, by target.
    embeddings
        By name of an embedding: vectors of features, by name; features without one are left out.
    compared
        Features that predictions are judged by, `(n_targets, n_features)`: not those perturbed.
    model
        Predictions of the trained model, NaN where it has none.
    """
    n = len(changes)
    if n < 2:
        none = {name: np.full(n, np.nan) for name in (MEAN, CHOSEN)}
        return Responses({}, np.full(changes.shape, np.nan), (MEAN,) * n, none, none)
    folds = [rest for _, rest in _folds(n)]
    fold = np.arange(n) % len(folds)
    mean = np.array([changes[rest].mean(axis=0) for rest in folds])[fold]
    ways = {MEAN: mean, MEDIAN: np.array([np.median(changes[rest], axis=0) for rest in folds])[fold]}
    names = sorted({name for of in parts for name in of})
    singles = {of[0] for of in parts if len(of) == 1}
    doubles = np.array([len(of) > 1 and singles.issuperset(of) for of in parts])
    if any(len(of) > 1 for of in parts):
        indicators = np.array([[name in of for name in names] for of in parts], float)
        ways[SHARED] = _ridge(changes, indicators, RIDGE[0])
        ways[ADDITIVE] = _additive(changes, parts, ways[SHARED])
    for name, vectors in embeddings.items():
        embedded = _embed(parts, vectors)
        if (np.abs(embedded).sum(axis=1) > 0).sum() > FEWEST:
            for penalty in RIDGE:
                ways[f"{name}, ridge {penalty:g}"] = _ridge(changes, embedded, penalty)
    if model is not None and np.isfinite(model).any():
        ways[MODEL] = _scaled(model, changes, compared)
    ways[STACKED] = _stack(ways, changes, compared)
    scores = {name: _correlations(of, changes, compared) for name, of in ways.items()}
    # both singles known, their sum is the way to beat (Ahlmann-Eltze et al. 2025)
    of_doubles = _best(scores, doubles, ADDITIVE) if doubles.any() else MEAN
    of_others = _best(scores, ~doubles, MEAN)
    choices = tuple(of_doubles if double else of_others for double in doubles)
    chosen = np.array([_filled(ways[name][k], mean[k]) for k, name in enumerate(choices)])
    every = {**ways, CHOSEN: chosen}
    return Responses(
        ways,
        chosen,
        choices,
        {name: _correlations(of, changes, compared) for name, of in every.items()},
        {name: _errors(of, changes, compared) for name, of in every.items()},
    )


def _folds(n: int) -> list[tuple[IntArray, IntArray]]:
    """Targets left out together, and those that are left."""
    n_folds = n if n <= MOST_FOLDS else MOST_FOLDS
    fold = np.arange(n) % max(n_folds, 1)
    return [(np.flatnonzero(fold == k), np.flatnonzero(fold != k)) for k in range(n_folds)]


def _best(scores: Mapping[str, DoubleArray], rows: BoolArray, usual: str) -> str:
    """Return the way with the best scores of some targets.

    It is the usual one unless another is better in the mean and in the median, where of several the best of
    both together is taken.
    """
    before = np.nan_to_num(scores[usual][rows])
    best, most = usual, 0.0
    for name, values in scores.items():
        after = np.where(np.isfinite(values[rows]), values[rows], before)
        mean, median = after.mean() - before.mean(), np.median(after) - np.median(before)
        if min(mean, median) > 0 and mean + median > most:
            best, most = name, float(mean + median)
    return best


def _embed(parts: Sequence[Sequence[str]], vectors: Mapping[str, DoubleArray]) -> DoubleArray:
    """Sum of the embeddings of the features perturbed together, `(n_targets, d)`; 0 without any."""
    width = len(next(iter(vectors.values()))) if vectors else 1
    zero = np.zeros(width)
    return np.array([sum((vectors.get(name, zero) for name in of), zero) for of in parts])


def _additive(changes: DoubleArray, parts: Sequence[Sequence[str]], shared: DoubleArray) -> DoubleArray:
    """Sum of the changes of singles where all were measured, else what shared features say."""
    singles = {of[0]: changes[k] for k, of in enumerate(parts) if len(of) == 1}
    out = shared.copy()
    for k, of in enumerate(parts):
        if len(of) > 1 and all(name in singles for name in of):
            out[k] = sum(singles[name] for name in of)
    return out


def _ridge(changes: DoubleArray, embedded: DoubleArray, penalty: float) -> DoubleArray:
    """Predict each target by a linear model of its embedding on the leading changes of the others."""
    there = np.abs(embedded).sum(axis=1) > 0
    out = np.empty_like(changes)
    for left_out, rest in _folds(len(changes)):
        out[left_out] = middle = changes[rest].mean(axis=0) if len(rest) else 0.0
        used, asked = rest[there[rest]], left_out[there[left_out]]
        if not len(asked) or len(used) < FEWEST:
            continue
        y = changes[used] - middle
        _, _, axes = np.linalg.svd(y, full_matrices=False)
        kernel = embedded[used] @ embedded[used].T
        scale = penalty * np.trace(kernel) / len(used)
        weights = np.linalg.solve(kernel + scale * np.eye(len(used)), y @ axes[:RANK].T)
        out[asked] = middle + (embedded[asked] @ embedded[used].T) @ weights @ axes[:RANK]
    return out


def _scaled(predicted: DoubleArray, changes: DoubleArray, compared: BoolArray) -> DoubleArray:
    """Multiply predictions by the factor that fits the other targets best."""
    known: BoolArray = np.asarray(np.isfinite(predicted).all(axis=1))
    p = np.where(compared & known[:, None], np.nan_to_num(predicted), 0.0)
    top, bottom = (p * changes).sum(axis=1), (p * p).sum(axis=1)
    factor = (top.sum() - top) / np.maximum(bottom.sum() - bottom, 1e-12)
    scaled: DoubleArray = predicted * np.maximum(factor, 0.0)[:, None]
    return scaled


def _stack(ways: Mapping[str, DoubleArray], changes: DoubleArray, compared: BoolArray) -> DoubleArray:
    """Combine the ways with weights of at least 0 that fit the other targets, each target counting alike.

    The predictions of these were made without them, but with the target that is left out here: of it the
    weights, one a way, know that little.
    """
    every = np.array([_filled(of, ways[MEAN]) for of in ways.values()])  # ways, targets, features
    masked = np.where(compared, every, 0.0)
    y = np.where(compared, changes, 0.0)
    weight = 1 / np.maximum((y**2).sum(axis=1), 1e-12)
    gram = np.einsum("vtp,wtp,t->tvw", masked, masked, weight)
    right = np.einsum("vtp,tp,t->tv", masked, y, weight)
    out = np.empty_like(changes)
    for left_out, rest in _folds(len(changes)):
        weights = non_negative(gram[rest].sum(axis=0), right[rest].sum(axis=0))
        out[left_out] = np.tensordot(weights, every[:, left_out], 1)
    return out


def _filled(predicted: DoubleArray, mean: DoubleArray) -> DoubleArray:
    return np.where(np.isfinite(predicted), predicted, mean)


def _correlations(predicted: DoubleArray, changes: DoubleArray, compared: BoolArray) -> DoubleArray:
    return np.array([pearson(p[c], y[c]) for p, y, c in zip(predicted, changes, compared, strict=True)])


def _errors(predicted: DoubleArray, changes: DoubleArray, compared: BoolArray) -> DoubleArray:
    return np.array(
        [np.sqrt(np.mean((p[c] - y[c]) ** 2)) for p, y, c in zip(predicted, changes, compared, strict=True)]
    )


def pearson(a: DoubleArray, b: DoubleArray) -> float:
    """Pearson correlation of two vectors; NaN where one is constant or holds NaN."""
    if len(a) < 3 or not (np.isfinite(a).all() and np.isfinite(b).all()) or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
