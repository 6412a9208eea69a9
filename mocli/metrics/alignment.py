"""Seurat alignment score: whether neighbours come from all modalities alike."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mocli.metrics.embedding import MAX_NEIGHBORS, Embedding
from mocli.metrics.graph import nearest_among
from mocli.metrics.registry import Score, metric

if TYPE_CHECKING:
    from collections.abc import Iterable

SHARE = 0.01
REPEATS = 4


@metric(
    name="seurat_alignment",
    title="Seurat alignment score",
    better="higher",
    bounds=(0.0, 1.0),
    needs={"modalities"},
    sentence="Whether neighbours come from all modalities alike: 1 is as if modalities were shuffled, "
    "0 is apart.",
    definition="As many cells of each of the N modalities as the smallest has, drawn at random; for each "
    "its k nearest other drawn cells in the joint latent, k a hundredth of the drawn cells, from 1 to 300; "
    "x the mean number among them of its own modality; (k - x) N / (k (N - 1)), at most 1; mean of 4 draws "
    "(one, if nothing is left to chance). Above 20,000 cells they are drawn among 20,000.",
    section="scCross, seurat_alignment_score; Seurat, Nat Biotechnol 2018",
)
def seurat_alignment(e: Embedding) -> Iterable[Score]:
    """Score all modalities together."""
    cells, _ = e.neighbors
    group = e.modality_codes[cells]
    present, sizes = np.unique(group, return_counts=True)
    smallest = int(sizes.min(initial=len(cells)))
    n = smallest * len(present)
    k = min(MAX_NEIGHBORS, max(1, round(SHARE * n)))
    if len(present) < 2 or n <= k:
        yield Score(math.nan, n)
        return
    rng = np.random.default_rng(e.seed)
    values = []
    for _ in range(REPEATS if sizes.max() > smallest else 1):
        drawn = np.concatenate(
            [rng.choice(np.flatnonzero(group == m), smallest, replace=False) for m in present]
        )
        members = np.zeros(len(e.joint), bool)
        members[cells[drawn]] = True
        near = nearest_among(e, drawn, members, k)
        same = float((e.modality_codes[near] == group[drawn, None]).sum(axis=1).mean())
        values.append((k - same) * len(present) / (k * (len(present) - 1)))
    mean = float(np.mean(values)) if values else math.nan
    yield Score(min(1.0, mean), n)
