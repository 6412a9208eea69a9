"""Mixing of modalities and of batches: mixing metric, alignment score, kBET, LISI."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mocli.metrics.embedding import MAX_NEIGHBORS, Embedding, nearest_among
from mocli.metrics.registry import Score, metric
from mocli.nn.neighbors import chunks
from mocli.types import BoolArray, DoubleArray, FloatArray, IntArray

NTH = 5  # cell of a modality that the mixing metric looks for
ALIGNED_SHARE = 0.01  # of the drawn cells: neighbours of the alignment score
ALIGNED_DRAWS = 4
ALPHA = 0.05
REPLICATES = 100
SAMPLE = 1000
MIN_NEIGHBORS = 10  # below this the chi-square approximation means nothing
FEWEST = 6  # neighbours for a perplexity of 2
PERPLEXITY_STEPS = 50
_VALUES = 2**22  # coordinates held at once

_WEIGHTS = (
    "For a cell, weights exp(-b d) of its 90 nearest other cells (all, if fewer) at Euclidean distance d in "
    "the joint latent, sum 1, b such that their perplexity is a third of their number; 1 / sum over {0} of "
    "(weight of the {0})^2 is the effective number of {0}. "
)
_SAMPLE = " Above 20,000 cells the median is over 20,000 drawn at random."


@metric(
    Embedding, better="lower", bounds=(float(NTH), float(MAX_NEIGHBORS)), needs={"modalities"}, headline=6
)
def mixing(e: Embedding) -> Iterable[Score]:
    """Mixing metric.

    Number of neighbours a cell needs to meet five cells of each modality; about 8 to 10 for two well mixed
    modalities, 300 (the maximum) if they are separate.

    For each cell the k = 300 nearest other cells of all modalities in the joint latent (k = n - 1 if
    fewer); for each modality the rank among them of its 5th cell, k if there is none; median over
    modalities (two: their mean), mean over cells. Undefined if n - 1 is less than 5 per modality. Above
    20,000 cells the mean is over 20,000 drawn at random.

    Source: scMODAL, Methods, Mixing metric.
    """
    cells, neighbors = e.neighbors
    present = np.unique(e.modality_codes)
    if len(present) < 2 or neighbors.shape[1] < NTH * len(present):
        yield Score(math.nan, len(cells))
        return
    total = 0.0
    for rows in chunks(len(cells), 4096):
        neighbor_modality = e.modality_codes[neighbors[rows]]
        ranks = np.stack([rank_of_nth(neighbor_modality == m, NTH) for m in present])
        total += float(np.median(ranks, axis=0).sum())
    yield Score(total / len(cells), len(cells))


def rank_of_nth(hits: BoolArray, nth: int) -> IntArray:
    """Rank, from 1, of the `nth` True of each row of `(n, k)`; k where there are fewer."""
    reached = hits.cumsum(axis=1, dtype=np.int32) >= nth
    return np.where(reached[:, -1], reached.argmax(axis=1) + 1, hits.shape[1])


@metric(Embedding, better="higher", bounds=(0.0, 1.0), needs={"modalities"})
def seurat_alignment(e: Embedding) -> Iterable[Score]:
    """Seurat alignment score.

    Whether neighbours come from all modalities alike: 1 means fully mixed, 0 separate.

    As many cells of each of the N modalities as the smallest has, drawn at random; for each its k nearest
    other drawn cells in the joint latent, k a hundredth of the drawn cells, from 1 to 300; x the mean number
    among them of its own modality; (k - x) N / (k (N - 1)), at most 1; mean of 4 draws (one, if nothing is
    left to chance). Above 20,000 cells they are drawn among 20,000.

    Source: scCross, seurat_alignment_score; Seurat, Nat Biotechnol 2018.
    """
    cells, _ = e.neighbors
    group = e.modality_codes[cells]
    present, sizes = np.unique(group, return_counts=True)
    smallest = int(sizes.min(initial=len(cells)))
    n = smallest * len(present)
    k = min(MAX_NEIGHBORS, max(1, round(ALIGNED_SHARE * n)))
    if len(present) < 2 or n <= k:
        yield Score(math.nan, n)
        return
    rng = np.random.default_rng(e.seed)
    values = []
    for _ in range(ALIGNED_DRAWS if sizes.max() > smallest else 1):
        drawn = np.concatenate(
            [rng.choice(np.flatnonzero(group == m), smallest, replace=False) for m in present]
        )
        members = np.zeros(len(e.joint), bool)
        members[cells[drawn]] = True
        neighbors = nearest_among(e, drawn, members, k)
        same = float((e.modality_codes[neighbors] == group[drawn, None]).sum(axis=1).mean())
        values.append((k - same) * len(present) / (k * (len(present) - 1)))
    mean = float(np.mean(values)) if values else math.nan
    yield Score(min(1.0, mean), n)


@metric(Embedding, better="higher", bounds=(0.0, 1.0), needs={"modalities"}, headline=7)
def kbet(e: Embedding) -> Iterable[Score]:
    """kBET acceptance.

    Share of neighbourhoods in which the modalities occur as often as in the whole data; about 0.95 or more
    means well mixed, 0 separate. It is very strict: use it to compare methods.

    For a cell, Pearson's chi-square test (modalities - 1 degrees of freedom) of the numbers of each modality
    among its k nearest other cells against k times the global shares; accepted if p >= 0.05. k is a quarter
    of the mean modality size, at least 10, at most 300. 100 replicates of 1,000 random cells (all, if fewer);
    median over replicates of the mean acceptance. Undefined with fewer than 11 cells. Above 20,000 cells
    replicates are drawn among 20,000.

    Source: scMODAL, Methods, kBET; kBET, Nat Methods 2019.
    """
    yield _accepted(e, e.modality_codes)


TWINS = {"kbet": "kbet_batch", "ilisi_modality": "ilisi_batch"}
"""Metrics of modalities that are another of batches, where one grouping stands for both."""


@metric(Embedding, better="higher", bounds=(0.0, 1.0), needs={"batches"}, headline=9)
def kbet_batch(e: Embedding) -> Iterable[Score]:
    """kBET acceptance of batches.

    Share of neighbourhoods in which the batches occur as often as in the whole data; 1 means well mixed, 0
    separate. Batches that hold different cell types must not be well mixed.

    As kBET acceptance, of batches instead of modalities; cells of unknown batch count as a batch of their
    own.

    Source: kBET, Nat Methods 2019; scIB, Nat Methods 2022.
    """
    yield _accepted(e, e.joint_batch)


@metric(
    Embedding,
    better="higher",
    bounds=(0.0, 1.0),
    needs={"modalities"},
    definition=_WEIGHTS.format("modalities")
    + "Median over cells, less 1, divided by the number of modalities "
    "less 1. Modalities of unequal size cannot reach 1." + _SAMPLE,
)
def ilisi_modality(e: Embedding) -> Iterable[Score]:
    """iLISI of modalities.

    Effective number of modalities among a cell's neighbours, rescaled: 1 means all in equal parts, 0 a
    single one.

    Source: LISI, Nat Methods 2019; scIB, Nat Methods 2022, iLISI, with modalities as batches.
    """
    yield _mixed(e, e.modality_codes)


@metric(
    Embedding,
    better="higher",
    bounds=(0.0, 1.0),
    needs={"batches"},
    definition=_WEIGHTS.format("batches")
    + "Median over cells, less 1, divided by the number of batches less "
    "1; cells of unknown batch count as a batch of their own." + _SAMPLE,
)
def ilisi_batch(e: Embedding) -> Iterable[Score]:
    """iLISI of batches.

    Effective number of batches among a cell's neighbours, rescaled: 1 means all in equal parts, 0 a single
    one. Batches that hold different cell types must not be well mixed.

    Source: LISI, Nat Methods 2019; scIB, Nat Methods 2022, iLISI.
    """
    yield _mixed(e, e.joint_batch)


@metric(
    Embedding,
    better="higher",
    bounds=(0.0, 1.0),
    needs={"label"},
    definition=_WEIGHTS.format("labels") + "The number of labels less the median over cells of known label, "
    "divided by the number of labels less 1; neighbours of unknown label are left out of the weights."
    + _SAMPLE,
)
def clisi(e: Embedding) -> Iterable[Score]:
    """cLISI of labels.

    Whether a cell's neighbours are of one type: 1 means a single type, 0 all types in equal parts.

    Source: LISI, Nat Methods 2019; scIB, Nat Methods 2022, cLISI.
    """
    cells, _ = e.neighbors
    levels = np.unique(e.joint_label[e.joint_label >= 0])
    labelled = e.joint_label[cells] >= 0
    n = int(labelled.sum())
    if len(levels) < 2:
        yield Score(math.nan, n)
        return
    numbers = lisi_around(e, np.where(e.joint_label < 0, -1, np.searchsorted(levels, e.joint_label)))
    numbers = numbers[labelled & np.isfinite(numbers)]
    middle = float(np.median(numbers)) if len(numbers) else math.nan
    yield Score(_within((len(levels) - middle) / (len(levels) - 1)), n)


def kbet_acceptance(neighbors: NDArray[Any], groups: IntArray, *, seed: int = 0) -> float:
    """Return the acceptance rate of kBET: median over 100 replicates of 1,000 random cells.

    Args:
        neighbors: `(m, k)` nearest other cells of the cells asked, as rows of `groups`, nearest first; as
            many are used as `neighborhood_size` says.
        groups: `(n,)` group of every cell.

    Returns:
        From 0 to 1; NaN where there is one group, or fewer than 10 neighbours.
    """
    from scipy.special import chdtrc  # scipy.stats would bring 40 MB for the same function

    group, sizes = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    if len(sizes) < 2 or neighbors.shape[1] < MIN_NEIGHBORS:
        return math.nan
    k = min(neighborhood_size(sizes), neighbors.shape[1])
    statistic = np.zeros(len(neighbors))
    small = group.reshape(-1).astype(np.int16 if len(sizes) < 2**15 else np.int64)
    for rows in chunks(len(neighbors), 4096):
        groups_near = small[neighbors[rows, :k]]
        for m, n in enumerate(sizes):
            expected = k * n / len(groups)
            statistic[rows] += ((groups_near == m).sum(axis=1) - expected) ** 2 / expected
    accepted: BoolArray = chdtrc(len(sizes) - 1, statistic) >= ALPHA
    rng = np.random.default_rng(seed)
    size = min(SAMPLE, len(accepted))
    rates = [accepted[rng.choice(len(accepted), size, replace=False)].mean() for _ in range(REPLICATES)]
    return float(np.median(rates))


def neighborhood_size(sizes: IntArray) -> int:
    """Return a quarter of the mean size of a group, from 10 to 300."""
    return int(np.clip(sizes.mean() // 4, MIN_NEIGHBORS, MAX_NEIGHBORS))


def _accepted(e: Embedding, codes: IntArray) -> Score:
    cells, neighbors = e.neighbors
    return Score(kbet_acceptance(neighbors, codes, seed=e.seed), len(cells))


def effective_numbers(neighbors: NDArray[Any], weights: FloatArray, groups: IntArray) -> DoubleArray:
    """Return the effective number of groups around every cell, `(m,)` (inverse Simpson index).

    Args:
        neighbors, weights: Nearest other cells as rows of `groups`, `(m, >= k)`, and their weights, `(m, k)`.
        groups: `(n,)` codes from 0, -1 for what is left out; NaN where nothing is left.
    """
    n_groups = int(groups.max(initial=-1)) + 1
    numbers = np.full(len(neighbors), math.nan)
    k = weights.shape[1]
    if k == 0 or n_groups == 0:
        return numbers
    for rows in chunks(len(neighbors), max(1, _VALUES // max(n_groups, k))):
        group = groups[neighbors[rows, :k]]
        weight = np.where(group >= 0, weights[rows], 0.0).astype(np.float64)
        bins = np.arange(len(group))[:, None] * n_groups + np.maximum(group, 0)
        share = np.bincount(bins.ravel(), weight.ravel(), len(group) * n_groups).reshape(-1, n_groups)
        np.divide(share.sum(1) ** 2, (share**2).sum(1), out=numbers[rows], where=share.any(1))
    return numbers


def lisi_around(e: Embedding, codes: IntArray) -> DoubleArray:
    """Effective number of groups around every cell of `e.neighbors`, `(m,)`, by the codes of all cells."""
    weights = e.share("perplexity weights", lambda: _weights(e))
    return effective_numbers(e.neighbors[1], weights, codes)


def _mixed(e: Embedding, codes: IntArray) -> Score:
    levels, group = np.unique(codes, return_inverse=True)
    if len(levels) < 2:
        return Score(math.nan, len(e.neighbors[0]))
    numbers = lisi_around(e, group.reshape(-1))
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
    for _ in range(PERPLEXITY_STEPS):
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
