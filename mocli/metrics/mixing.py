"""Mixing metric: how far a cell looks until it has met every modality."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mocli.metrics.embedding import MAX_NEIGHBORS, Embedding
from mocli.metrics.registry import Score, metric
from mocli.nn.neighbors import chunks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mocli.types import BoolArray, IntArray

NTH = 5


@metric(
    name="mixing",
    title="Mixing metric",
    better="lower",
    bounds=(float(NTH), float(MAX_NEIGHBORS)),
    needs={"modalities"},
    sentence="How far a cell must look to have met five cells of each modality; "
    "about 8 to 10 for two well mixed modalities, 300 (the most) if they lie apart.",
    definition="For each cell the k = 300 nearest other cells of all modalities in the joint latent "
    "(k = n - 1 if fewer); for each modality the rank among them of its 5th cell, k if there is none; "
    "median over modalities (two: their mean), mean over cells. Undefined if n - 1 is less than 5 per "
    "modality. Above 20,000 cells the mean is over 20,000 drawn ones.",
    section="scMODAL, Methods, Mixing metric",
    headline=6,
)
def mixing(e: Embedding) -> Iterable[Score]:
    """Score all modalities together."""
    cells, neighbors = e.neighbors
    present = np.unique(e.modality_codes)
    if len(present) < 2 or neighbors.shape[1] < NTH * len(present):
        yield Score(math.nan, len(cells))
        return
    total = 0.0
    for rows in chunks(len(cells), 4096):
        near = e.modality_codes[neighbors[rows]]
        ranks = np.stack([rank_of_nth(near == m, NTH) for m in present])
        total += float(np.median(ranks, axis=0).sum())
    yield Score(total / len(cells), len(cells))


def rank_of_nth(hits: BoolArray, nth: int) -> IntArray:
    """Rank, from 1, of the `nth` True of each row of `(n, k)`; k where there are fewer."""
    reached = hits.cumsum(axis=1, dtype=np.int32) >= nth
    ranks: IntArray = np.where(reached[:, -1], reached.argmax(axis=1) + 1, hits.shape[1])
    return ranks
