"""Normal scores of real cells, in which equal values, the zeros of most features, are told apart.

A value stands for a span of a standard normal variable, wide where many cells share it. Where a cell lies in
its span is drawn (as with the extended rank likelihood: Hoff, Ann Appl Stat 1:265, 2007,
doi:10.1214/07-AOAS107), given two cues: what the cells nearest to it have, and its total, as depth makes all
features of shallow cells go together. In random order equal values would take correlations between features,
and between modalities, down; in the order of a cue they would take them up.

How much a cue says follows from the values: with s the mean of the normal variable g over a value's span, and
a cue that depends on the value through g alone, cov(cue, g) is cov(cue, s) / var(s).
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from scipy.special import ndtr, ndtri

from mocli.types import CSR, DoubleArray

EXPLAINED = 0.9
"""Most of a feature's variance that cues are taken to explain."""
APART = 0.05
"""Least share of a cue's variance that the other one does not have, so that slopes stay finite."""


def spans(values: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """Return the share of cells with less, and with no more, than each value of a column, `(n, p)` each."""
    n, p = values.shape
    order = np.argsort(values, axis=0, kind="stable")
    ordered = np.take_along_axis(values, order, axis=0)
    place, step = np.arange(n)[:, None], ordered[1:] != ordered[:-1]
    edge = np.ones((1, p), bool)
    first = np.maximum.accumulate(np.where(np.vstack([edge, step]), place, 0), axis=0)
    last = np.minimum.accumulate(np.where(np.vstack([step, edge]), place + 1, n)[::-1], axis=0)[::-1]
    below, within = np.empty((n, p)), np.empty((n, p))
    np.put_along_axis(below, order, first / n, axis=0)
    np.put_along_axis(within, order, last / n, axis=0)
    return below, within


def normal_scores(values: DoubleArray, nearby: CSR, total: DoubleArray, rng: Generator) -> DoubleArray:
    """Return scores of each column of values, about a standard normal variable, `(n, p)`.

    Args:
        values: `(n, p)`: scores have their order.
        nearby: Weights of the cells near each, `(n, n)`, as `means_nearby` gives them.
        total: Sum of each cell's values over all features, `(n,)`.
    """
    n = len(values)
    below, within = spans(values)
    lower, upper = ndtri(below), ndtri(within)
    middle = (_density(lower) - _density(upper)) / (within - below)
    variance = np.maximum(np.square(middle).mean(0), 1e-9)
    near = _standard(np.asarray(nearby @ middle))
    less_deep, as_deep = spans(total[:, None])
    depth = _standard(ndtri((less_deep + as_deep) / 2))

    noise = 1 / (n * variance)
    # a cell's neighbours are not less like it than others are
    by_near = np.maximum(pooled((near * middle).mean(0) / variance, noise), 0)
    by_depth = pooled((depth * middle).mean(0) / variance, noise)
    common = (near * depth).mean(0)
    alone = np.maximum(1 - np.square(common), APART)
    slope_near, slope_depth = (by_near - common * by_depth) / alone, (by_depth - common * by_near) / alone
    explained = slope_near * by_near + slope_depth * by_depth
    less = np.sqrt(np.minimum(1, EXPLAINED / np.maximum(explained, 1e-9)))
    mean = (slope_near * near + slope_depth * depth) * less
    deviation = np.sqrt(1 - np.clip(explained * less**2, 0, EXPLAINED))

    low, high = ndtr((lower - mean) / deviation), ndtr((upper - mean) / deviation)
    drawn = low + (high - low) * rng.random(values.shape)
    scores: DoubleArray = mean + deviation * ndtri(np.clip(drawn, 1e-12, 1 - 1e-12))
    return scores


def pooled(found: DoubleArray, noise: DoubleArray) -> DoubleArray:
    """Draw noisy numbers `(p,)` to their common mean, as much as their noise says.

    `noise`: the variance of each. How much the numbers differ beyond it is estimated by moments
    (DerSimonian and Laird, Control Clin Trials 7:177, 1986, doi:10.1016/0197-2456(86)90046-2).
    """
    weight = 1 / noise
    total = weight.sum()
    mean = (weight * found).sum() / total
    spare = total - np.square(weight).sum() / total
    beyond = (weight * np.square(found - mean)).sum() - (len(found) - 1)
    differing = max(0.0, beyond / spare) if spare > 0 else np.inf
    if not np.isfinite(differing):
        return found
    shrunk: DoubleArray = mean + (found - mean) * differing / (differing + noise)
    return shrunk


def _density(x: DoubleArray) -> DoubleArray:
    density: DoubleArray = np.exp(-np.square(x) / 2) / np.sqrt(2 * np.pi)
    return density


def _standard(x: DoubleArray) -> DoubleArray:
    """Columns with mean 0 and variance 1; zeros where they do not vary."""
    away = x - x.mean(0)
    deviation = away.std(0)
    standard: DoubleArray = away / np.where(deviation > 1e-9, deviation, np.inf)
    return standard
