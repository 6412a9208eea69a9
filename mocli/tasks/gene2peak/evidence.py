"""One score of a pair from metacells and silencing, weighed by promoters, chromosome by chromosome.

A gene's own promoter peaks are pairs that are true for sure, and the same gene with promoters of genes on
other chromosomes, at the same distance, are pairs that are not. A logistic regression on these weighs what
each way says; a chromosome's pairs are scored by weights that were found on the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mocli.tasks.relate.promoters import PROMOTER
from mocli.types import BoolArray, DoubleArray, IntArray

FEWEST_PROMOTERS = 60
"""With fewer promoter peaks than this the ways get their usual weights."""
USUAL = {"metacells": 2.0, "silencing": 1.0, "correlation": 1.0}
LIMIT = 8.0
"""Scores are clipped at this many standard deviations."""


@dataclass(frozen=True, eq=False)
class Combined:
    """Ways weighed together.

    Attributes:
        score: `(n_pairs,)`, large where the peak goes with the gene; NaN where no way says anything.
        at_controls: The same of the controls, `(n_controls,)`.
        weights: By way, in units of its standard deviation; means over chromosomes.
        learnt: Whether promoters were enough to find the weights.
    """

    score: DoubleArray
    at_controls: DoubleArray
    weights: Mapping[str, float]
    learnt: bool


def combine(
    scores: Mapping[str, DoubleArray],
    at_controls: Mapping[str, DoubleArray],
    distance: IntArray,
    home: IntArray,
    control_home: IntArray,
) -> Combined:
    """Weigh ways by how they tell promoters from controls of other chromosomes.

    Args:
        scores, at_controls: By way, `(n_pairs,)` and `(n_controls,)`, large where the peak goes with the
            gene.
        distance: Of the pairs' peaks from the transcription start, `(n_pairs,)`.
        home, control_home: Chromosome of the gene of every pair and of every control.
    """
    names = list(scores)
    x, c = (np.stack([values[name] for name in names], axis=1) for values in (scores, at_controls))
    silent = ~np.isfinite(x).any(1)
    # a way that says nothing at all has no spread
    spread = np.array(
        [values[np.isfinite(values)].std() if np.isfinite(values).any() else 0 for values in x.T]
    )
    spread = np.where(spread > 0, spread, 1)
    x, c = (np.clip(np.nan_to_num(values / spread), -LIMIT, LIMIT) for values in (x, c))
    promoter = np.abs(distance) <= PROMOTER
    usual = np.array([USUAL.get(name, 1.0) for name in names])
    learnt = bool(min(promoter.sum(), len(c)) >= FEWEST_PROMOTERS and len(np.unique(home[promoter])) > 2)
    score, control_score = np.empty(len(x)), np.empty(len(c))
    fold_weights = []
    for k in np.unique(np.concatenate([home, control_home])):
        weights = usual
        if learnt:
            weights = _fit(x[promoter & (home != k)], c[control_home != k], usual)
        fold_weights.append(weights)
        score[home == k], control_score[control_home == k] = (
            x[home == k] @ weights,
            c[control_home == k] @ weights,
        )
    score[silent] = np.nan
    mean = np.mean(fold_weights, axis=0) if fold_weights else usual
    return Combined(score, control_score, dict(zip(names, map(float, mean), strict=True)), learnt)


def _fit(true: DoubleArray, false: DoubleArray, usual: DoubleArray) -> DoubleArray:
    """Return the weights of a logistic regression, none negative; their mean square is 1."""
    from sklearn.linear_model import LogisticRegression

    if not len(true) or not len(false):
        return usual
    x = np.concatenate([true, false])
    y: BoolArray = np.arange(len(x)) < len(true)
    used = np.ones(x.shape[1], bool)
    weights = np.zeros(x.shape[1])
    while used.any():
        fitted = LogisticRegression(C=1.0).fit(x[:, used], y).coef_[0]
        if (fitted >= 0).all():
            weights[used] = fitted
            break
        used[np.flatnonzero(used)[fitted < 0]] = False
    size = float(np.sqrt(np.square(weights).mean()))
    return weights / size if size > 0 else usual
