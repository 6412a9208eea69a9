"""Mean average precision: whether the nearest cells of a cell are of its type, the nearest most of all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mocli.metrics.embedding import MAX_NEIGHBORS, Embedding
from mocli.metrics.graph import nearest_among
from mocli.metrics.registry import Score, metric
from mocli.nn.neighbors import chunks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mocli.types import BoolArray, DoubleArray

SHARE = 0.01


@metric(
    name="mean_average_precision",
    title="Mean average precision (MAP)",
    better="higher",
    bounds=(0.0, 1.0),
    needs={"label"},
    sentence="Whether the nearest cells of a cell, of any modality, are of its cell type: 1 is always so.",
    definition="For a cell, the k nearest other cells of known label (all modalities, joint latent), k a "
    "hundredth of their number, from 1 to 300; mean, over the ranks that hold a cell of its label, of the "
    "share of its label up to that rank, 0 if there is none; mean over cells of known label. Above 20,000 "
    "cells the mean is over 20,000 drawn at random.",
    section="scCross, mean_average_precision",
)
def mean_average_precision(e: Embedding) -> Iterable[Score]:
    """Score all labelled cells of all modalities together."""
    cells, _ = e.neighbors
    members = e.joint_label >= 0
    asking = np.flatnonzero(members[cells])
    k = min(MAX_NEIGHBORS, max(1, round(SHARE * int(members.sum()))))
    near = nearest_among(e, asking, members, k)
    if near.size == 0:
        yield Score(math.nan, len(asking))
        return
    own = e.joint_label[cells[asking], None]
    total = sum(
        float(average_precision(e.joint_label[near[rows]] == own[rows]).sum())
        for rows in chunks(len(asking), 4096)
    )
    yield Score(min(1.0, total / len(asking)), len(asking))


def average_precision(hits: BoolArray) -> DoubleArray:
    """Average precision of each row of `(m, k)`, nearest first; 0 without a hit."""
    precision = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
    n_hits = hits.sum(axis=1)
    values: DoubleArray = (precision * hits).sum(axis=1) / np.maximum(n_hits, 1)
    return values
