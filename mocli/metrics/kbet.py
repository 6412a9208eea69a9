"""kBET: whether every neighbourhood has the modalities in the proportions of the whole."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mocli.metrics.registry import MAX_NEIGHBORS, Embedding, Score, metric

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mocli.types import BoolArray

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
)
def kbet(e: Embedding) -> Iterable[Score]:
    """Score all modalities together."""
    cells, neighbors = e.neighbors
    sizes = np.bincount(e.modality_codes, minlength=len(e.z))
    if np.count_nonzero(sizes) < 2 or neighbors.shape[1] < MIN_NEIGHBORS:
        yield Score(math.nan, len(cells))
        return
    accepted = _accepted(e, k=neighborhood_size(sizes[sizes > 0]))
    rng = np.random.default_rng(e.seed)
    size = min(SAMPLE, len(accepted))
    rates = [accepted[rng.choice(len(accepted), size, replace=False)].mean() for _ in range(REPLICATES)]
    yield Score(float(np.median(rates)), len(cells))


def neighborhood_size(sizes: np.ndarray) -> int:
    """Quarter of the mean size, from 10 to 300."""
    return int(np.clip(sizes.mean() // 4, MIN_NEIGHBORS, MAX_NEIGHBORS))


def _accepted(e: Embedding, *, k: int) -> BoolArray:
    """Whether the test accepts, for every cell whose neighbours are known."""
    from scipy.special import chdtrc  # scipy.stats would bring 40 MB for the same function

    near = e.neighbors[1][:, :k]
    share = np.bincount(e.modality_codes) / len(e.modality_codes)
    present = np.flatnonzero(share)
    statistic = np.zeros(len(near))
    for m in present:
        start = int(np.searchsorted(e.modality_codes, m))
        stop = int(np.searchsorted(e.modality_codes, m, side="right"))
        observed = ((near >= start) & (near < stop)).sum(axis=1)  # joint rows of a modality are contiguous
        expected = near.shape[1] * share[m]
        statistic += (observed - expected) ** 2 / expected
    accepted: BoolArray = chdtrc(len(present) - 1, statistic) >= ALPHA
    return accepted
