"""Matching of cells across modalities: true partners, labels of neighbours, linked features."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import permutations

import numpy as np

from mocli.metrics.correlation import unit_dense
from mocli.metrics.embedding import MAX_NEIGHBORS, NEIGHBORS, Embedding, nearest_among
from mocli.metrics.registry import Score, metric
from mocli.nn.neighbors import MatchedDistances, chunks, matched_distances, neighbor_mean
from mocli.types import BoolArray, DoubleArray, FloatArray, IntArray

SHARE = 0.01  # of the labelled cells: neighbours of the mean average precision
TREES = 100
MAX_LEARNED = 5000


@metric(Embedding, better="higher", bounds=(0.0, 1.0), needs={"modalities", "label"}, headline=5)
def label_transfer(e: Embedding) -> Iterable[Score]:
    """Label transfer accuracy.

    Share of cells whose nearest cell of the other modality carries the same cell type; 1 is perfect,
    guessing scores as high as the commonest types are frequent.

    Each cell of known label in the receiving modality takes the label of its nearest cell (Euclidean, joint
    latent, k = 1) among the cells of known label in the giving modality; the value is the share of labels
    that agree. 'rna->prot' gives labels of rna to prot. At most 20,000 cells receive, drawn at random.

    Source: scMODAL, Methods, Label transfer accuracy.
    """
    for giver, receiver, giver_label, true in _directions(e):
        to, nearest = e.nearest_known(giver, receiver)
        yield _agreement(giver_label[nearest], true[to], f"{giver}->{receiver}")


@metric(Embedding, better="higher", bounds=(0.0, 1.0), needs={"modalities", "label"})
def label_transfer_knn(e: Embedding) -> Iterable[Score]:
    """Label transfer accuracy, vote of 15.

    As label transfer accuracy, by a vote of the 15 nearest cells: single stray cells matter less.

    As label transfer accuracy, but the label that most of the 15 nearest cells (all, if fewer) of known label
    in the giving modality have; on a tie the one with the smallest sum of ranks. At most 20,000 cells
    receive, drawn at random.

    Source: scMODAL, annotate_by_nn; Multigrate, label transfer.
    """
    for giver, receiver, giver_label, true in _directions(e):
        to, neighbors = e.nearby_known(giver, receiver)
        winners = majority(giver_label[neighbors]) if neighbors.size else np.zeros(0, np.int64)
        yield _agreement(winners, true[to], f"{giver}->{receiver}")


@metric(Embedding, better="higher", bounds=(0.0, 1.0), needs={"modalities", "label"})
def label_transfer_forest(e: Embedding) -> Iterable[Score]:
    """Label transfer accuracy, random forest.

    Share of cells whose cell type a classifier trained on the other modality gets right; it also works where
    modalities are shifted a little.

    A random forest (100 trees, classes weighted inversely to their size in every bootstrap sample) learns the
    labels of one modality from the joint latent and predicts those of the other; the value is the share of
    labels that agree. It learns from at most 5,000 and predicts at most 20,000 cells of known label, drawn at
    random.

    Source: Multigrate, evaluation, label transfer.
    """
    forests: dict[str, object] = {}
    for giver, receiver, giver_label, true in _directions(e):
        to = e.draw(np.flatnonzero(true >= 0))
        learned = np.flatnonzero(giver_label >= 0)
        if min(len(to), len(learned)) == 0:
            yield Score(math.nan, len(to), f"{giver}->{receiver}")
            continue
        if giver not in forests:
            forests[giver] = _forest(e, giver, learned, giver_label)
        predicted = forests[giver].predict(e.rows(receiver)[to])  # type: ignore[attr-defined]
        yield _agreement(predicted, true[to], f"{giver}->{receiver}")


@metric(Embedding, better="higher", bounds=(0.0, 1.0), needs={"label"})
def mean_average_precision(e: Embedding) -> Iterable[Score]:
    """Mean average precision (MAP).

    Whether the nearest cells of a cell, of any modality, are of its cell type: 1 means always.

    For a cell, the k nearest other cells of known label (all modalities, joint latent), k a hundredth of
    their number, from 1 to 300; mean, over the ranks that hold a cell of its label, of the share of its label
    up to that rank, 0 if there is none; mean over cells of known label. Above 20,000 cells the mean is over
    20,000 drawn at random.

    Source: scCross, mean_average_precision.
    """
    k = max(1, round(SHARE * int((e.joint_label >= 0).sum())))
    labels, own_label = _labels_around(e, min(MAX_NEIGHBORS, k))
    if labels.size == 0:
        yield Score(math.nan, len(own_label))
        return
    total = sum(
        float(average_precision(labels[rows] == own_label[rows, None]).sum())
        for rows in chunks(len(own_label), 4096)
    )
    yield Score(min(1.0, total / len(own_label)), len(own_label))


@metric(Embedding, better="higher", bounds=(0.0, 1.0), needs={"label"})
def knn_accuracy(e: Embedding) -> Iterable[Score]:
    """Accuracy of labels by 15 neighbours.

    Share of cells whose cell type the vote of their 15 nearest cells, of any modality, gets right; 1 is
    perfect, guessing scores as high as the commonest types are frequent.

    For a cell, the label that most of its 15 nearest other cells (all, if fewer) of known label have (all
    modalities, joint latent), on a tie the one with the smallest sum of ranks; the share of cells of known
    label that have it. Above 20,000 cells the share is of 20,000 drawn at random.

    Source: Cover and Hart 1967, doi:10.1109/TIT.1967.1053964, leave one out.
    """
    labels, own_label = _labels_around(e, NEIGHBORS)
    winners = majority(labels) if labels.size else np.zeros(0, np.int64)
    yield _agreement(winners, own_label, None)


def _labels_around(e: Embedding, k: int) -> tuple[IntArray, IntArray]:
    """Return labels of each cell's k nearest others of known label, `(m, k)`, and its own, `(m,)`."""
    cells, _ = e.neighbors
    members = e.joint_label >= 0
    asking = np.flatnonzero(members[cells])
    return e.joint_label[nearest_among(e, asking, members, k)], e.joint_label[cells[asking]]


def average_precision(hits: BoolArray) -> DoubleArray:
    """Average precision of each row of `(m, k)`, nearest first; 0 without a hit."""
    precision = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
    n_hits = hits.sum(axis=1)
    return (precision * hits).sum(axis=1) / np.maximum(n_hits, 1)


def majority(labels: IntArray) -> IntArray:
    """Commonest code of each row of `(m, k)`, nearest first; on a tie that of the smallest rank sum."""
    levels, code = np.unique(labels, return_inverse=True)
    n, k = labels.shape
    bins = np.arange(n)[:, None] * len(levels) + code.reshape(n, k)
    # ranks count so little that they decide between equals alone
    weight = np.broadcast_to(1.0 - np.arange(k) / (k * k + 1.0) / k, (n, k))
    votes = np.bincount(bins.ravel(), weight.ravel(), n * len(levels)).reshape(n, len(levels))
    return levels[np.round(votes, 9).argmax(axis=1)]


def _directions(e: Embedding) -> Iterator[tuple[str, str, IntArray, IntArray]]:
    """Yield giving and receiving modality, and the labels of each."""
    label = e.label or {}
    for giver, receiver in permutations(e.modalities, 2):
        if giver in label and receiver in label:
            yield giver, receiver, np.asarray(label[giver]), np.asarray(label[receiver])


def _agreement(got: IntArray, true: IntArray, direction: str | None) -> Score:
    agree = float((got == true).mean()) if min(len(got), len(true)) else math.nan
    return Score(agree, len(true), direction)


def _forest(e: Embedding, giver: str, learned: IntArray, label: IntArray) -> object:
    import torch
    from sklearn.ensemble import RandomForestClassifier

    if len(learned) > MAX_LEARNED:
        learned = np.random.default_rng(e.seed).choice(learned, MAX_LEARNED, replace=False)
    x = e.rows(giver)[learned]
    order = np.lexsort(x.T[::-1])  # bootstrap samples are by row: file order must not matter
    # every tree has a seed of its own: the same forest by any number of threads
    forest = RandomForestClassifier(
        TREES, class_weight="balanced_subsample", random_state=e.seed, n_jobs=torch.get_num_threads()
    )
    with warnings.catch_warnings():
        # many labels of few cells each are still labels
        warnings.filterwarnings("ignore", message="The number of unique classes", category=UserWarning)
        forest.fit(x[order], label[learned][order])
    # threads would add up the votes in any order
    return forest.set_params(n_jobs=1)


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
