"""Silhouettes: whether labels are separate, and modalities and batches mixed, in the joint latent."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from mocli.metrics.embedding import Embedding
from mocli.metrics.registry import Score, metric
from mocli.nn.neighbors import chunks
from mocli.types import DoubleArray, FloatArray, IntArray

SIDE = 1024  # of the square of distances held at once
SAME = 1e-12  # squared distance, relative to the squared norm, that float32 coordinates cannot express


@metric(Embedding, better="higher", bounds=(-1.0, 1.0), needs={"label"})
def silhouette(e: Embedding) -> Iterable[Score]:
    """Label silhouette (ASW).

    How well cell types are separated: 1 means compact and separate, 0 overlapping, below 0 intermingled.

    Mean over cells of known label of (b - a) / max(a, b): a the mean Euclidean distance in the joint latent
    to the other cells of the label, b the smallest mean distance to the cells of another label; 0 for the
    only cell of a label; from -1 to 1, not rescaled. At most 20,000 cells, drawn at random.

    Source: scMODAL, Methods, ASW.
    """
    cells, widths = label_widths(e)
    yield Score(math.nan if widths is None else float(widths.mean()), len(cells))


@metric(Embedding, better="higher", bounds=(0.0, 1.0), needs={"label"})
def silhouette_label(e: Embedding) -> Iterable[Score]:
    """Label silhouette, rescaled.

    The label silhouette from 0 to 1: 1 means compact and separate, 0.5 overlapping.

    (s + 1) / 2, s the label silhouette (ASW).

    Source: scIB, Nat Methods 2022, label ASW; Multigrate, evaluation; scCross, avg_silhouette_width.
    """
    (raw,) = silhouette(e)
    yield Score((raw.value + 1) / 2, raw.n)


@metric(Embedding, better="higher", bounds=(0.0, 1.0), needs={"modalities", "label"})
def silhouette_modality(e: Embedding) -> Iterable[Score]:
    """Modality silhouette within labels.

    How well the modalities overlap within each cell type: 1 means fully mixed, 0 separate.

    Within each label that several modalities have, mean over its cells of 1 - |s|, where s is the silhouette
    of the cell's modality among the cells of that label in the joint latent; mean over those labels. At most
    20,000 cells, drawn at random.

    Source: scIB, Nat Methods 2022, batch ASW, with modalities as batches.
    """
    yield _overlap(e, e.modality_codes)


@metric(Embedding, better="higher", bounds=(0.0, 1.0), needs={"batches", "label"})
def silhouette_batch(e: Embedding) -> Iterable[Score]:
    """Batch silhouette within labels.

    How well the batches overlap within each cell type: 1 means fully mixed, 0 separate.

    As the modality silhouette within labels, of batches instead of modalities; cells of unknown batch count
    as a batch of their own.

    Source: scIB, Nat Methods 2022, batch ASW.
    """
    yield _overlap(e, e.joint_batch)


@metric(Embedding, better="higher", bounds=(0.0, 2.0), needs={"batches"})
def silhouette_batch_raw(e: Embedding) -> Iterable[Score]:
    """1 - batch silhouette over all cells.

    How well the batches overlap whatever the cell types: 1 means overlapping, 0 separate; needs no labels.

    1 - mean over cells of the silhouette of their batch in the joint latent, not rescaled: above 1 where
    batches are intermingled. Cells of unknown batch count as a batch of their own. At most 20,000 cells,
    drawn at random.

    Source: multiDGD, Methods, 1 - ASW of batches.
    """
    cells = e.draw(np.arange(len(e.joint)))
    widths = silhouette_widths(e.joint[cells], e.joint_batch[cells])
    yield Score(math.nan if widths is None else 1 - float(widths.mean()), len(cells))


def label_widths(e: Embedding) -> tuple[IntArray, DoubleArray | None]:
    """Cells of known label `(m,)` (`MAX_CELLS` drawn), and the silhouette of each; None if undefined."""
    cells = e.draw(np.flatnonzero(e.joint_label >= 0))
    return cells, e.share("label widths", lambda: silhouette_widths(e.joint[cells], e.joint_label[cells]))


def _overlap(e: Embedding, codes: IntArray) -> Score:
    cells = e.draw(np.flatnonzero(e.joint_label >= 0))
    label, group = e.joint_label[cells], codes[cells]
    means, used = [], 0
    for level in np.unique(label):
        of_level = label == level
        widths = silhouette_widths(e.joint[cells[of_level]], group[of_level])
        if widths is not None:
            means.append(float(np.mean(1 - np.abs(widths))))
            used += len(widths)
    return Score(float(np.mean(means)) if means else math.nan, used)


def silhouette_widths(x: FloatArray, groups: IntArray) -> DoubleArray | None:
    """Return the silhouette of every cell (Rousseeuw 1987), from -1 to 1.

    (b - a) / max(a, b): a the mean Euclidean distance to the other cells of its group, b the smallest
    mean distance to the cells of another; 0 for the only cell of a group.

    Args:
        x: Coordinates, `(n, d)`.
        groups: Group of each cell, `(n,)`.

    Returns:
        `(n,)`; None where it is undefined: a single group, or every cell a group of its own.
    """
    levels, group = np.unique(groups, return_inverse=True)
    if not 2 <= len(levels) < len(groups):
        return None
    size = np.bincount(group)
    total = _total_distances(x, group, len(levels))
    rows = np.arange(len(x))
    within = total[rows, group] / np.maximum(size[group] - 1, 1)
    total /= size
    total[rows, group] = np.inf
    nearest = total.min(axis=1)
    larger = np.maximum(within, nearest)
    widths: DoubleArray = np.divide(nearest - within, larger, out=np.zeros(len(x)), where=larger > 0)
    widths[size[group] == 1] = 0.0
    return widths


def _total_distances(x: FloatArray, group: IntArray, n_groups: int) -> DoubleArray:
    """Sum of the distances of each row to the rows of each group, `(n, n_groups)`.

    A distance serves both of its ends. Sums are made in float32 of at most 1,024 distances at a time.
    """
    import torch

    z = torch.as_tensor(x).double()
    z = z - z.mean(0)
    square = z.square().sum(1)
    member = torch.nn.functional.one_hot(torch.as_tensor(group), n_groups).float()
    total = torch.zeros(len(x), n_groups, dtype=torch.float64)
    for rows in chunks(len(x), SIDE):
        row_square = square[rows, None]
        for columns in chunks(rows.stop, SIDE):
            d = torch.addmm(square[columns], z[rows], z[columns].T, alpha=-2.0).add_(row_square)
            d = d.masked_fill_(d <= SAME * row_square, 0.0).float().sqrt_()
            total[rows] += d @ member[columns]
            if columns.start < rows.start:
                total[columns] += d.T @ member[rows]
    return total.numpy()
