"""kBET: whether every neighbourhood has the modalities, or batches, in the proportions of the whole."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mocli.metrics.embedding import MAX_NEIGHBORS, Embedding
from mocli.metrics.registry import Score, metric
from mocli.nn.neighbors import chunks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from mocli.types import BoolArray, IntArray

ALPHA = 0.05
REPLICATES = 100
SAMPLE = 1000
MIN_NEIGHBORS = 10  # below this the chi-square approximation means nothing


@metric(
    name="kbet",
    title="kBET acceptance",
    better="higher",
    bounds=(0.0, 1.0),
    needs={"modalities"},
    sentence="Share of neighbourhoods in which the modalities occur as often as in the whole data; "
    "about 0.95 or more is well mixed, 0 is apart. Very strict: compare methods with it.",
    definition="For a cell, Pearson's chi-square test (modalities - 1 degrees of freedom) of the numbers of "
    "each modality among its k nearest other cells against k times the global shares; accepted if "
    "p >= 0.05. k is a quarter of the mean modality size, at least 10, at most 300. 100 replicates of "
    "1,000 random cells (all, if fewer); median over replicates of the mean acceptance. Undefined with "
    "fewer than 11 cells. Above 20,000 cells replicates are drawn among 20,000.",
    section="scMODAL, Methods, kBET; kBET, Nat Methods 2019",
    headline=7,
)
def kbet(e: Embedding) -> Iterable[Score]:
    """Score all modalities together."""
    yield acceptance(e, e.modality_codes)


@metric(
    name="kbet_batch",
    title="kBET acceptance of batches",
    better="higher",
    bounds=(0.0, 1.0),
    needs={"batches"},
    sentence="Share of neighbourhoods in which the batches occur as often as in the whole data; 1 is well "
    "mixed, 0 is apart. Batches that hold different cell types must not be well mixed.",
    definition="As kBET acceptance, of batches instead of modalities; cells of unknown batch count as a "
    "batch of their own.",
    section="kBET, Nat Methods 2019; scIB, Nat Methods 2022",
    headline=9,
)
def kbet_batch(e: Embedding) -> Iterable[Score]:
    """Score all batches together."""
    yield acceptance(e, e.joint_batch)


def acceptance(e: Embedding, codes: IntArray) -> Score:
    """Score how often the test accepts the groups that `codes` `(n,)` tell apart."""
    cells, neighbors = e.neighbors
    group, sizes = np.unique(codes, return_inverse=True, return_counts=True)[1:]
    if len(sizes) < 2 or neighbors.shape[1] < MIN_NEIGHBORS:
        return Score(math.nan, len(cells))
    accepted = _accepted(neighbors[:, : neighborhood_size(sizes)], group.reshape(-1), sizes)
    rng = np.random.default_rng(e.seed)
    size = min(SAMPLE, len(accepted))
    rates = [accepted[rng.choice(len(accepted), size, replace=False)].mean() for _ in range(REPLICATES)]
    return Score(float(np.median(rates)), len(cells))


def neighborhood_size(sizes: np.ndarray) -> int:
    """Quarter of the mean size, from 10 to 300."""
    return int(np.clip(sizes.mean() // 4, MIN_NEIGHBORS, MAX_NEIGHBORS))


def _accepted(near: NDArray[np.int32], group: IntArray, sizes: IntArray) -> BoolArray:
    """Whether the test accepts, for every cell by its nearest cells `(m, k)`."""
    from scipy.special import chdtrc  # scipy.stats would bring 40 MB for the same function

    k = near.shape[1]
    statistic = np.zeros(len(near))
    small = group.astype(np.int16) if len(sizes) < 2**15 else group
    for rows in chunks(len(near), 4096):
        of = small[near[rows]]
        for m, n in enumerate(sizes):
            expected = k * n / len(group)
            statistic[rows] += ((of == m).sum(axis=1) - expected) ** 2 / expected
    accepted: BoolArray = chdtrc(len(sizes) - 1, statistic) >= ALPHA
    return accepted
