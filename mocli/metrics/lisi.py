"""LISI: how many modalities, batches or cell types a cell effectively has around it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mocli.metrics.registry import Score, metric
from mocli.nn.neighbors import chunks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mocli.metrics.embedding import Embedding
    from mocli.types import DoubleArray, FloatArray, IntArray

FEWEST = 6  # neighbours for a perplexity of 2
STEPS = 50
_VALUES = 2**22  # coordinates held at once

_WEIGHTS = (
    "For a cell, weights exp(-b d) of its 90 nearest other cells (all, if fewer) at Euclidean distance d in "
    "the joint latent, sum 1, b such that their perplexity is a third of their number; 1 / sum over {0} of "
    "(weight of the {0})^2 is the effective number of {0}. "
)
_SAMPLE = " Above 20,000 cells the median is over 20,000 drawn at random."


@metric(
    name="ilisi_modality",
    title="iLISI of modalities",
    better="higher",
    bounds=(0.0, 1.0),
    needs={"modalities"},
    sentence="How many modalities a cell effectively has around it: 1 is all in equal parts, 0 one alone.",
    definition=_WEIGHTS.format("modalities")
    + "Median over cells, less 1, divided by the number of modalities "
    "less 1. Modalities of unequal size cannot reach 1." + _SAMPLE,
    section="LISI, Nat Methods 2019; scIB, Nat Methods 2022, iLISI, with modalities as batches",
)
def ilisi_modality(e: Embedding) -> Iterable[Score]:
    """Score all modalities together."""
    yield _mixed(e, e.modality_codes)


@metric(
    name="ilisi_batch",
    title="iLISI of batches",
    better="higher",
    bounds=(0.0, 1.0),
    needs={"batches"},
    sentence="How many batches a cell effectively has around it: 1 is all in equal parts, 0 one alone. "
    "Batches that hold different cell types must not be well mixed.",
    definition=_WEIGHTS.format("batches")
    + "Median over cells, less 1, divided by the number of batches less "
    "1; cells of unknown batch count as a batch of their own." + _SAMPLE,
    section="LISI, Nat Methods 2019; scIB, Nat Methods 2022, iLISI",
)
def ilisi_batch(e: Embedding) -> Iterable[Score]:
    """Score all batches together."""
    yield _mixed(e, e.joint_batch)


@metric(
    name="clisi",
    title="cLISI of labels",
    better="higher",
    bounds=(0.0, 1.0),
    needs={"label"},
    sentence="Whether a cell has cells of one type around it: 1 is one type, 0 is all types in equal parts.",
    definition=_WEIGHTS.format("labels") + "The number of labels less the median over cells of known label, "
    "divided by the number of labels less 1; neighbours of unknown label are left out of the weights."
    + _SAMPLE,
    section="LISI, Nat Methods 2019; scIB, Nat Methods 2022, cLISI",
)
def clisi(e: Embedding) -> Iterable[Score]:
    """Score all labels together."""
    cells, _ = e.neighbors
    levels = np.unique(e.joint_label[e.joint_label >= 0])
    known = e.joint_label[cells] >= 0
    n = int(known.sum())
    if len(levels) < 2:
        yield Score(math.nan, n)
        return
    numbers = effective_numbers(e, np.where(e.joint_label < 0, -1, np.searchsorted(levels, e.joint_label)))
    numbers = numbers[known & np.isfinite(numbers)]
    middle = float(np.median(numbers)) if len(numbers) else math.nan
    yield Score(_within((len(levels) - middle) / (len(levels) - 1)), n)


def effective_numbers(e: Embedding, codes: IntArray) -> DoubleArray:
    """Effective number of groups around every cell of `e.neighbors`, `(m,)`.

    `codes` `(n,)` from 0 are of the joint latent, -1 for what is left out; NaN where nothing is left.
    """
    cells, lists = e.neighbors
    weights = e.share("perplexity weights", lambda: _weights(e))
    n_groups = int(codes.max(initial=-1)) + 1
    numbers = np.full(len(cells), math.nan)
    if weights.shape[1] == 0 or n_groups == 0:
        return numbers
    for rows in chunks(len(cells), max(1, _VALUES // max(n_groups, weights.shape[1]))):
        group = codes[lists[rows, : weights.shape[1]]]
        weight = np.where(group >= 0, weights[rows], 0.0).astype(np.float64)
        bins = np.arange(len(group))[:, None] * n_groups + np.maximum(group, 0)
        share = np.bincount(bins.ravel(), weight.ravel(), len(group) * n_groups).reshape(-1, n_groups)
        np.divide(share.sum(1) ** 2, (share**2).sum(1), out=numbers[rows], where=share.any(1))
    return numbers


def _mixed(e: Embedding, codes: IntArray) -> Score:
    levels, group = np.unique(codes, return_inverse=True)
    if len(levels) < 2:
        return Score(math.nan, len(e.neighbors[0]))
    numbers = effective_numbers(e, group.reshape(-1))
    numbers = numbers[np.isfinite(numbers)]
    middle = float(np.median(numbers)) if len(numbers) else math.nan
    return Score(_within((middle - 1) / (len(levels) - 1)), len(e.neighbors[0]))


def _within(value: float) -> float:
    return value if math.isnan(value) else min(1.0, max(0.0, value))


def _weights(e: Embedding) -> FloatArray:
    """Weights of the neighbours of every cell of `e.neighbors`, `(m, <= 90)`; no column if too few."""
    distances = e.near_distances
    k = distances.shape[1]
    if k < FEWEST:
        return np.zeros((len(distances), 0), np.float32)
    weights = np.empty((len(distances), k), np.float32)
    for rows in chunks(len(distances), max(1, _VALUES // k)):
        weights[rows] = perplexity_weights(distances[rows].astype(np.float64), k / 3)
    return weights


def perplexity_weights(distances: DoubleArray, perplexity: float) -> DoubleArray:
    """Weights exp(-b d), rows `(m, k)` of sum 1 with exp(entropy) = perplexity.

    Where more than that many are nearest alike, they share the weight.
    """
    d = distances - distances.min(axis=1, keepdims=True)
    scale = d.mean(axis=1, keepdims=True)
    d /= np.where(scale > 0, scale, 1.0)
    target = math.log(perplexity)
    low, high = np.zeros(len(d)), np.full(len(d), np.inf)
    beta = np.ones(len(d))
    weights = _normalised(d, beta)
    for _ in range(STEPS):
        entropy = np.log(weights[1]) + beta * (weights[0] * d).sum(axis=1)
        flat = entropy > target
        low, high = np.where(flat, beta, low), np.where(flat, high, beta)
        beta = np.where(np.isinf(high), 2 * beta, (low + np.where(np.isinf(high), 0.0, high)) / 2)
        weights = _normalised(d, beta)
    return weights[0]


def _normalised(d: DoubleArray, beta: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    raw = np.exp(-d * beta[:, None])
    total = raw.sum(axis=1)
    return raw / total[:, None], total
