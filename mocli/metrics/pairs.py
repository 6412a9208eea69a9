"""Where cells measured in both modalities land relative to their true partners."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mocli.metrics.registry import Score, metric
from mocli.nn.neighbors import matched_distances

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mocli.metrics.embedding import Embedding
    from mocli.nn.neighbors import MatchedDistances
    from mocli.types import IntArray


@metric(
    name="foscttm",
    title="FOSCTTM",
    better="lower",
    bounds=(0.0, 1.0),
    needs={"modalities", "pairs"},
    sentence="Fraction of cells that lie closer to a cell than its own other half does; "
    "0 is perfect, 0.5 is chance.",
    definition="Fraction of samples closer than the true match: over the n cells measured in both "
    "modalities, sum over i of #{j: d(a_i, b_j) < d(a_i, b_i)} + #{j: d(a_j, b_i) < d(a_i, b_i)}, "
    "divided by 2 n^2; d Euclidean in the joint latent, < strict. Above 20,000 such cells n are 20,000 "
    "drawn at random.",
    section="scMODAL, Methods, FOSCTTM",
    headline=4,
)
def foscttm(e: Embedding) -> Iterable[Score]:
    """Score every two modalities that share cells."""
    for of, n, matched in _matched(e):
        if matched is None:
            yield Score(math.nan, n, of)
        else:
            closer = int(matched.closer_in_a.sum()) + int(matched.closer_in_b.sum())
            yield Score(closer / (2 * n * n), n, of)


@metric(
    name="pair_distance",
    title="Pair distance",
    better="lower",
    bounds=(0.0, math.inf),
    needs={"modalities", "pairs"},
    sentence="Distance between the two halves of a cell relative to its distance to everyone; "
    "0 is perfect, 1 is no better than a random partner.",
    definition="Our reading of the printed formula: mean over the n cells measured in both modalities of "
    "1/2 [d_ii / mean_j d_ij + d_ii / mean_j d_ji], d_ij the Euclidean distance of cell i in the first "
    "and cell j in the second modality, j over all n cells; cells with a mean of 0 are left out. Above "
    "20,000 such cells n are 20,000 drawn at random.",
    section="scMODAL, Methods, Pair distance",
)
def pair_distance(e: Embedding) -> Iterable[Score]:
    """Score every two modalities that share cells."""
    for of, n, matched in _matched(e):
        if matched is None:
            yield Score(math.nan, n, of)
            continue
        defined = (matched.mean_to_b > 0) & (matched.mean_to_a > 0)
        own = matched.own[defined].astype(np.float64)
        ratios = (own / matched.mean_to_b[defined] + own / matched.mean_to_a[defined]) / 2
        yield Score(float(ratios.mean()) if len(ratios) else math.nan, len(ratios), of)


def _matched(e: Embedding) -> Iterator[tuple[str, int, MatchedDistances | None]]:
    """Yield each pair of modalities, its number of shared cells, and their distances (None below two)."""
    for (a, b), rows in (e.pairs or {}).items():
        drawn = rows[e.draw(np.arange(len(rows)))]
        matched = e.share(("matched", a, b), partial(_compare, e, a, b, drawn)) if len(drawn) > 1 else None
        yield f"{a}-{b}", len(drawn), matched


def _compare(e: Embedding, a: str, b: str, rows: IntArray) -> MatchedDistances:
    return matched_distances(e.rows(a)[rows[:, 0]], e.rows(b)[rows[:, 1]], device=e.device)
