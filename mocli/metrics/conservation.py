"""What integration keeps and what it removes, compared with the features of each modality alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from mocli.metrics.embedding import MAX_NEIGHBORS, Embedding
from mocli.metrics.registry import Score, metric
from mocli.nn.neighbors import without_self
from mocli.types import FloatArray, IntArray

SHARE = 0.01
FEWEST = 15  # neighbours
MAX_ASKING = 2000  # cells whose neighbours are compared: a share is known to 0.01 by then


@metric(Embedding, better="higher", bounds=(0.0, 1.0), needs={"own"})
def neighbor_conservation(e: Embedding) -> Iterable[Score]:
    """Neighbour conservation.

    Share of a cell's neighbours by its own measured features that are still its neighbours after integration;
    1 keeps all, integration that removes batches or noise scores lower.

    Our reading. For a cell, the share of its k nearest cells of the same modality by that modality's own
    features (principal components) that are among its k nearest cells of that modality in the joint latent;
    k a hundredth of the cells, from 15 to 300; mean over cells, at most 2,000 cells, drawn at random, whose
    neighbours are searched among at most 20,000.

    Source: scCross, neighbor_conservation.
    """
    for name, rows, places in _own(e):
        n = len(rows)
        k = min(max(FEWEST, round(SHARE * n)), MAX_NEIGHBORS, n - 1)
        if k < 1:
            yield Score(math.nan, n, name)
            continue
        asking = np.arange(n)
        if n > MAX_ASKING:
            asking = np.random.default_rng(e.seed).choice(n, MAX_ASKING, replace=False)
        before, after = (
            without_self(e.search(x[asking], x, k + 1), asking) for x in (places, e.rows(name)[rows])
        )
        both = np.sort(np.concatenate([before, after], axis=1), axis=1)
        in_both = (both[:, 1:] == both[:, :-1]).sum(axis=1)  # within one list no cell occurs twice
        yield Score(float(in_both.mean()) / k, len(asking), name)


@metric(Embedding, better="higher", bounds=(0.0, 1.0), needs={"own", "batches"})
def pcr_comparison(e: Embedding) -> Iterable[Score]:
    """PCR comparison.

    Part of the variation between batches that integration removed: 1 means all of it, 0 none (or more than
    before). Where batches hold different cell types, some variation must stay.

    Principal component regression over all components: the share of the total variance that lies between the
    means of the batches. (share by the modality's own features - share in the joint latent) / share by its
    own features, at least 0, of the cells of one modality; cells of unknown batch count as a batch of their
    own. At most 20,000 cells, drawn at random.

    Source: scIB, Nat Methods 2022, PCR comparison.
    """
    for name, rows, places in _own(e):
        batch = e.joint_batch[e.modality_codes == e.modalities.index(name)][rows]
        before, after = (between_share(x, batch) for x in (places, e.rows(name)[rows]))
        if len(np.unique(batch)) < 2:
            continue
        removed = (before - after) / before if before > 0 else math.nan
        yield Score(removed if math.isnan(removed) else max(0.0, removed), len(rows), name)


def between_share(x: FloatArray, group: IntArray) -> float:
    """Share of the variance of `(n, d)` that lies between groups `(n,)`; NaN where nothing varies."""
    x = x.astype(np.float64)
    x = x - x.mean(axis=0) if len(x) else x
    whole = float((x**2).sum())
    between = 0.0
    for level in np.unique(group):
        of_level = x[group == level]
        between += len(of_level) * float((of_level.mean(axis=0) ** 2).sum())
    return between / whole if whole > 0 else math.nan


def _own(e: Embedding) -> Iterator[tuple[str, IntArray, FloatArray]]:
    """Yield modality, rows and their own coordinates; at most `MAX_CELLS`."""
    for name, (rows, places) in (e.own or {}).items():
        drawn = e.draw(np.arange(len(rows)))
        yield name, np.asarray(rows)[drawn], np.asarray(places)[drawn]
