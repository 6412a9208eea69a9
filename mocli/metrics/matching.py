"""Matching of cells across modalities: distance to the true partner, agreement of linked features."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np

from mocli.metrics.correlation import unit_dense
from mocli.metrics.embedding import Embedding
from mocli.metrics.registry import Score, metric
from mocli.nn.neighbors import MatchedDistances, chunks, matched_distances, neighbor_mean
from mocli.types import DoubleArray, FloatArray, IntArray

COLUMNS = 64  # linked features correlated at a time


@metric(Embedding, better="lower", bounds=(0.0, 1.0), needs={"modalities", "pairs"}, headline=4)
def foscttm(e: Embedding) -> Iterable[Score]:
    """FOSCTTM.

    Fraction of cells of the other modality that lie closer to a cell than its true match does; 0 is
    perfect, 0.5 is chance.

    Fraction of samples closer than the true match: over the n cells measured in both modalities, sum over i
    of #{j: d(a_i, b_j) < d(a_i, b_i)} + #{j: d(a_j, b_i) < d(a_i, b_i)}, divided by 2 n^2; d Euclidean in the
    joint latent; cells at exactly the distance of the match count one half. Above 20,000 such cells n are
    20,000 drawn at random.

    Source: scMODAL, Methods, FOSCTTM.
    """
    for pair, n, matched in _matched(e):
        if matched is None:
            yield Score(math.nan, n, pair)
        else:
            closer = float(matched.closer_in_a.sum() + matched.closer_in_b.sum())
            yield Score(closer / (2 * n * n), n, pair)


@metric(Embedding, better="lower", bounds=(0.0, math.inf), needs={"modalities", "pairs"})
def pair_distance(e: Embedding) -> Iterable[Score]:
    """Pair distance.

    Distance from a cell to its true match relative to its mean distance to all cells; 0 is perfect, 1 is no
    better than a random partner.

    Our reading of the printed formula: mean over the n cells measured in both modalities of 1/2 [d_ii /
    mean_j d_ij + d_ii / mean_j d_ji], d_ij the Euclidean distance of cell i in the first and cell j in the
    second modality, j over all n cells; cells with a mean of 0 are left out. Above 20,000 such cells n are
    20,000 drawn at random.

    Source: scMODAL, Methods, Pair distance.
    """
    for pair, n, matched in _matched(e):
        if matched is None:
            yield Score(math.nan, n, pair)
            continue
        defined = (matched.mean_to_b > 0) & (matched.mean_to_a > 0)
        partner_distance = matched.own[defined].astype(np.float64)
        ratios = (
            partner_distance / matched.mean_to_b[defined] + partner_distance / matched.mean_to_a[defined]
        ) / 2
        yield Score(float(ratios.mean()) if len(ratios) else math.nan, len(ratios), pair)


def _matched(e: Embedding) -> Iterator[tuple[str, int, MatchedDistances | None]]:
    """Yield each pair of modalities, its number of shared cells, and their distances (None below two)."""
    for (a, b), rows in (e.pairs or {}).items():
        drawn = rows[e.draw(np.arange(len(rows)))]
        matched = e.share(("matched", a, b), partial(_compare, e, a, b, drawn)) if len(drawn) > 1 else None
        yield f"{a}-{b}", len(drawn), matched


def _compare(e: Embedding, a: str, b: str, rows: IntArray) -> MatchedDistances:
    return matched_distances(e.rows(a)[rows[:, 0]], e.rows(b)[rows[:, 1]], device=e.device)


@metric(Embedding, better="higher", bounds=(-1.0, 1.0), needs={"modalities", "linked"}, headline=8)
def link_concordance(e: Embedding) -> Iterable[Score]:
    """Link concordance.

    Whether a cell's neighbours of the other modality have matching linked features (a protein and its
    gene); needs no labels. 0 is chance, and noise keeps even a true match below 1.

    For each linked feature, Pearson correlation over the cells of one modality between the measured value and
    the mean value of their 15 nearest cells (all, if fewer) of the other modality in the joint latent; mean
    of the two directions (of one, if the other is constant); median over the linked features that are not
    constant. n counts these. At most 20,000 cells of a modality, drawn at random, look for neighbours among
    all of the other.

    Source: mocli.
    """
    for (a, b), values in concordance_by_link(e).items():
        used = values[np.isfinite(values)]
        yield Score(float(np.median(used)) if len(used) else math.nan, len(used), f"{a}-{b}")


def concordance_by_link(e: Embedding) -> dict[tuple[str, str], DoubleArray]:
    """Concordance of every linked feature, `(n_links,)` by edge; NaN where both sides are constant."""
    by_edge = {}
    for (a, b), (x, y, names) in (e.linked or {}).items():
        if min(len(x), len(y)) == 0:
            by_edge[a, b] = np.full(len(names), math.nan)
            continue
        (cells_a, near_b), (cells_b, near_a) = e.across(a, b), e.across(b, a)
        forth, back = _concordance(x[cells_a], y, near_b), _concordance(y[cells_b], x, near_a)
        of_columns = np.stack([forth, back])
        defined = np.isfinite(of_columns)
        directions = defined.sum(axis=0)
        total = np.where(defined, of_columns, 0.0).sum(axis=0)
        means = np.full(len(names), math.nan)
        np.divide(total, directions, out=means, where=directions > 0)
        by_edge[a, b] = means
    return by_edge


def _concordance(values: FloatArray, other: FloatArray, neighbors: IntArray) -> DoubleArray:
    """Correlate each column with its mean over neighbours of the other modality, `(s,)`."""
    parts = [
        pearson(values[:, columns], neighbor_mean(other[:, columns], neighbors))
        for columns in chunks(values.shape[1], COLUMNS)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def pearson(x: np.ndarray, y: np.ndarray) -> DoubleArray:
    """Correlation of each column of two `(n, s)` arrays; NaN where either is constant or not finite."""
    return np.clip((unit_dense(x) * unit_dense(y)).sum(axis=0), -1.0, 1.0)
