"""Effects of a perturbation, learnt from those of others: simple ways, each judged on targets left out.

No deep model has been shown to beat these (Ahlmann-Eltze, Huber and Anders, Nat Methods 2025): the mean
change over other perturbations for a target that was not seen, the sum of both singles for a double, and
linear models on embeddings of the perturbed features. All ways predict every target from the others only, and
which way is taken for a target is chosen without it, by what the ways predict of the others from each other
(nested cross-validation: Varma and Simon, BMC Bioinformatics 7:91, 2006): what is reported of the choice is
what a new target may expect.
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
"""Fewest other targets with an embedding for a linear model to be fitted."""

RANK = 20
"""Directions of change that a linear model predicts: the leading ones of the other targets."""


MOST_FOLDS = 100
"""Up to this many targets are left out one by one; of more, a hundredth at a time."""

MOST_CHOICES = 20
"""Up to this many targets get a choice of their own; of more, a twentieth at a time."""

FEWEST_CHOSEN = 5
"""With fewer targets nothing is chosen: the mean of the others is used."""


@dataclass(frozen=True, eq=False)
class Responses:
    """Predicted changes of targets, each from other targets only.

    Attributes:
        ways: By name, `(n_targets, n_features)`; rows of NaN where a way does not predict a target.
        chosen: Predictions of the way that was best for the other targets, `(n_targets, n_features)`.
        choices: Its name, target by target: chosen among doubles for doubles of which both singles were
            measured, among all others for these.
        scores, errors: Pearson correlation with the measured change, and root mean squared error, of every
            way and of `chosen`: by name `(n_targets,)`.
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

    Args:
        changes: Measured mean changes, `(n_targets, n_features)`.
        parts: Names of the features that were perturbed together, by target.
        embeddings: By name of an embedding: vectors of features, by name; features without one are left out.
        compared: Features that predictions are judged by, `(n_targets, n_features)`: not those perturbed.
        model: Predictions of the trained model, NaN where it has none.
    """
    n = len(changes)
    if n < 2:
        none = {name: np.full(n, np.nan) for name in (MEAN, CHOSEN)}
        return Responses({}, np.full(changes.shape, np.nan), (MEAN,) * n, none, none)
    task = _Asked(changes, tuple(tuple(names_of_target) for names_of_target in parts), compared, model)
    ways = _ways(task, embeddings)
    mean, doubles = ways[MEAN], task.doubles
    chosen, stacked, choices = mean.copy(), mean.copy(), np.full(n, MEAN, object)
    for left_out, rest in _folds(n, MOST_CHOICES) if n >= FEWEST_CHOSEN else ():
        rest_task = task.take(rest)
        inner = _ways(rest_task, embeddings)
        names = [name for name in ways if name in inner]
        every = np.array([_filled(ways[name][left_out], mean[left_out]) for name in names])
        gram, right = _moments([inner[name] for name in names], rest_task)
        stacked[left_out] = np.tensordot(non_negative(gram.sum(axis=0), right.sum(axis=0)), every, 1)
        inner[STACKED] = _stack([inner[name] for name in names], gram, right)
        scores = {
            name: _correlations(prediction, rest_task.changes, rest_task.compared)
            for name, prediction in inner.items()
        }
        # both singles known, their sum is the way to beat (Ahlmann-Eltze et al. 2025)
        for double, usual in ((True, ADDITIVE), (False, MEAN)):
            targets, alike = left_out[doubles[left_out] == double], rest_task.doubles == double
            if not len(targets):
                continue
            best = _best(scores, alike, usual if usual in scores else MEAN)
            choices[targets] = best
            predicted = stacked if best == STACKED else ways[best]
            chosen[targets] = _filled(predicted[targets], mean[targets])
    ways = ways if n < FEWEST_CHOSEN else {**ways, STACKED: stacked}
    every_way = {**ways, CHOSEN: chosen}
    return Responses(
        ways,
        chosen,
        tuple(choices),
        {name: _correlations(of_way, changes, compared) for name, of_way in every_way.items()},
        {name: _errors(of_way, changes, compared) for name, of_way in every_way.items()},
    )


@dataclass(frozen=True, eq=False)
class _Asked:
    """The input of `learn_responses`, for some targets."""

    changes: DoubleArray
    parts: tuple[tuple[str, ...], ...]
    compared: BoolArray
    model: DoubleArray | None

    def take(self, rows: IntArray) -> _Asked:
        model = None if self.model is None else self.model[rows]
        return _Asked(self.changes[rows], tuple(self.parts[k] for k in rows), self.compared[rows], model)

    @property
    def doubles(self) -> BoolArray:
        """Say which targets have several features, each of which was also perturbed alone, `(n_targets,)`."""
        singles = {names[0] for names in self.parts if len(names) == 1}
        return np.array([len(names) > 1 and singles.issuperset(names) for names in self.parts], bool)


def _ways(task: _Asked, embeddings: Mapping[str, Mapping[str, DoubleArray]]) -> dict[str, DoubleArray]:
    """Predict every target from the others by each way."""
    changes, parts, n = task.changes, task.parts, len(task.changes)
    folds = [rest for _, rest in _folds(n, MOST_FOLDS)]
    fold = np.arange(n) % len(folds)
    ways = {
        MEAN: np.array([changes[rest].mean(axis=0) for rest in folds])[fold],
        MEDIAN: np.array([np.median(changes[rest], axis=0) for rest in folds])[fold],
    }
    if any(len(together) > 1 for together in parts):
        names = sorted({name for together in parts for name in together})
        indicators = np.array([[name in together for name in names] for together in parts], float)
        (ways[SHARED],) = _ridge(changes, indicators, RIDGE[:1])
        ways[ADDITIVE] = _additive(changes, parts, ways[SHARED])
    for name, vectors in embeddings.items():
        embedded = _embed(parts, vectors)
        if (np.abs(embedded).sum(axis=1) > 0).sum() > FEWEST:
            by_penalty = _ridge(changes, embedded, RIDGE)
            ways |= {
                f"{name}, ridge {penalty:g}": prediction
                for penalty, prediction in zip(RIDGE, by_penalty, strict=True)
            }
    if task.model is not None and np.isfinite(task.model).any():
        ways[MODEL] = _scaled(task.model, changes, task.compared)
    return ways


def _folds(n: int, most: int) -> list[tuple[IntArray, IntArray]]:
    """Yield targets left out together, and the rest."""
    n_folds = min(n, most)
    fold = np.arange(n) % max(n_folds, 1)
    return [(np.flatnonzero(fold == k), np.flatnonzero(fold != k)) for k in range(n_folds)]


def _best(scores: Mapping[str, DoubleArray], rows: BoolArray, usual: str) -> str:
    """Return the way with the best scores of some targets.

    It is the usual one unless another is better on average by more than two standard errors; if several
    are, the best of them is chosen.
    """
    before = np.nan_to_num(scores[usual][rows])
    best, most = usual, 0.0
    if len(before) < FEWEST:
        return usual
    for name, values in scores.items():
        after = np.where(np.isfinite(values[rows]), values[rows], before)
        gain = after - before
        if gain.mean() > max(most, 2 * gain.std(ddof=1) / np.sqrt(len(gain))):
            best, most = name, float(gain.mean())
    return best


def _embed(parts: Sequence[Sequence[str]], vectors: Mapping[str, DoubleArray]) -> DoubleArray:
    """Sum of the embeddings of the features perturbed together, `(n_targets, d)`; 0 without any."""
    width = len(next(iter(vectors.values()))) if vectors else 1
    zero = np.zeros(width)
    return np.array([sum((vectors.get(name, zero) for name in together), zero) for together in parts])


def _additive(changes: DoubleArray, parts: Sequence[Sequence[str]], shared: DoubleArray) -> DoubleArray:
    """Return the sum of the changes of singles if all were measured, else what shared features predict."""
    singles = {together[0]: changes[k] for k, together in enumerate(parts) if len(together) == 1}
    out = shared.copy()
    for k, together in enumerate(parts):
        if len(together) > 1 and all(name in singles for name in together):
            out[k] = sum(singles[name] for name in together)
    return out


def _ridge(changes: DoubleArray, embedded: DoubleArray, penalties: Sequence[float]) -> list[DoubleArray]:
    """Predict each target by linear models of its embedding on the leading changes of the others.

    With K the products of embeddings and U the leading left singular vectors of the others' changes Y, less
    their mean, these are K (K + penalty)^-1 U U' Y.
    """
    embedded_there = np.abs(embedded).sum(axis=1) > 0
    products, kernel = changes @ changes.T, embedded @ embedded.T
    out = [np.empty_like(changes) for _ in penalties]
    for left_out, rest in _folds(len(changes), MOST_FOLDS):
        middle = changes[rest].mean(axis=0) if len(rest) else np.zeros(changes.shape[1])
        used, predicted_rows = rest[embedded_there[rest]], left_out[embedded_there[left_out]]
        for predicted in out:
            predicted[left_out] = middle
        if not len(predicted_rows) or len(used) < FEWEST:
            continue
        with_mean = products[np.ix_(used, rest)].mean(axis=1)
        centred = products[np.ix_(used, used)] - with_mean[:, None] - with_mean
        _, axes = np.linalg.eigh(centred + products[np.ix_(rest, rest)].mean())
        leading = axes[:, ::-1][:, :RANK]
        kernel_own, across = kernel[np.ix_(used, used)], kernel[np.ix_(predicted_rows, used)]
        y = leading @ (leading.T @ (changes[used] - middle))
        for predicted, penalty in zip(out, penalties, strict=True):
            scale = penalty * np.trace(kernel_own) / len(used)
            predicted[predicted_rows] = middle + across @ np.linalg.solve(
                kernel_own + scale * np.eye(len(used)), y
            )
    return out


def _scaled(predicted: DoubleArray, changes: DoubleArray, compared: BoolArray) -> DoubleArray:
    """Multiply predictions by the factor that fits the other targets best."""
    finite: BoolArray = np.asarray(np.isfinite(predicted).all(axis=1))
    p = np.where(compared & finite[:, None], np.nan_to_num(predicted), 0.0)
    top, bottom = (p * changes).sum(axis=1), (p * p).sum(axis=1)
    factor = (top.sum() - top) / np.maximum(bottom.sum() - bottom, 1e-12)
    return predicted * np.maximum(factor, 0.0)[:, None]


def _moments(ways: Sequence[DoubleArray], task: _Asked) -> tuple[DoubleArray, DoubleArray]:
    """Products of the ways' predictions with each other, and with the truth, every target counting alike.

    Returns:
        `(n_targets, n_ways, n_ways)` and `(n_targets, n_ways)`; `ways[0]` is used where a way predicts
        nothing.
    """
    masked = np.array(
        [np.where(task.compared, _filled(prediction, ways[0]), 0.0) for prediction in ways]
    ).transpose(1, 0, 2)
    y = np.where(task.compared, task.changes, 0.0)
    weight = 1 / np.maximum((y**2).sum(axis=1), 1e-12)
    gram = masked @ masked.transpose(0, 2, 1) * weight[:, None, None]
    return gram, (masked @ y[:, :, None])[:, :, 0] * weight[:, None]


def _stack(ways: Sequence[DoubleArray], gram: DoubleArray, right: DoubleArray) -> DoubleArray:
    """Combine the ways by weights that fit the other targets."""
    out = np.empty_like(ways[0])
    for left_out, rest in _folds(len(out), MOST_CHOICES):
        weights = non_negative(gram[rest].sum(axis=0), right[rest].sum(axis=0))
        out[left_out] = np.tensordot(
            weights, [_filled(prediction[left_out], ways[0][left_out]) for prediction in ways], 1
        )
    return out


def _filled(predicted: DoubleArray, mean: DoubleArray) -> DoubleArray:
    return np.where(np.isfinite(predicted), predicted, mean)


def _correlations(predicted: DoubleArray, changes: DoubleArray, compared: BoolArray) -> DoubleArray:
    """Pearson correlation over the features compared, `(n_targets,)`; NaN where one is constant or NaN."""
    n = compared.sum(axis=1)

    def centred(x: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
        mean = np.where(compared, x, 0).sum(axis=1) / np.maximum(n, 1)
        deviation = np.where(compared, x - mean[:, None], 0.0)
        square = (deviation**2).sum(axis=1)
        # what rounding alone leaves of a constant
        return deviation, np.where(square > 1e-26 * n * mean**2, square, np.nan)

    (p, square_p), (y, square_y) = centred(predicted), centred(changes)
    correlations: DoubleArray = (p * y).sum(axis=1) / np.sqrt(square_p * square_y)
    return np.where(n >= 3, correlations, np.nan)


def _errors(predicted: DoubleArray, changes: DoubleArray, compared: BoolArray) -> DoubleArray:
    squares = np.where(compared, (predicted - changes) ** 2, 0.0)
    return np.sqrt(squares.sum(axis=1) / np.maximum(compared.sum(axis=1), 1))


def pearson(a: DoubleArray, b: DoubleArray) -> float:
    """Pearson correlation of two vectors; NaN where one is constant or holds NaN."""
    if len(a) < 3 or not (np.isfinite(a).all() and np.isfinite(b).all()) or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
