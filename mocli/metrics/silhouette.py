"""Silhouettes: whether labels stay apart, and modalities together, in the joint latent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import numpy as np

from mocli.metrics.registry import Embedding, Score, metric

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mocli.types import DoubleArray, FloatArray, IntArray

WORKING_MB = 128


@metric(
    name="silhouette",
    title="Label silhouette (ASW)",
    better="higher",
    bounds=(-1.0, 1.0),
    needs={"label"},
    sentence="How well cell types are kept apart: 1 is compact and separate, 0 is overlapping, "
    "below 0 is intermingled.",
    definition="Mean over cells of known label of (b - a) / max(a, b): a the mean Euclidean distance in the "
    "joint latent to the other cells of the label, b the smallest mean distance to the cells of another "
    "label; from -1 to 1, not rescaled. At most 20,000 cells, drawn at random.",
    section="scMODAL, Methods, ASW",
)
def silhouette(e: Embedding) -> Iterable[Score]:
    """Score all labelled cells of all modalities together."""
    cells = e.draw(np.flatnonzero(e.joint_label >= 0))
    widths = _widths(e.joint[cells], e.joint_label[cells])
    yield Score(math.nan if widths is None else float(widths.mean()), len(cells))


@metric(
    name="silhouette_modality",
    title="Modality silhouette within labels",
    better="higher",
    bounds=(0.0, 1.0),
    needs={"modalities", "label"},
    sentence="How well the modalities overlap inside each cell type: 1 is on top of each other, 0 is apart.",
    definition="Within each label that several modalities have, mean over its cells of 1 - |s|, where s is "
    "the silhouette of the cell's modality among the cells of that label in the joint latent; mean over "
    "those labels. At most 20,000 cells, drawn at random.",
    section="scIB, Nat Methods 2022, batch ASW, with modalities as batches",
)
def silhouette_modality(e: Embedding) -> Iterable[Score]:
    """Score the labels that occur in two modalities or more."""
    cells = e.draw(np.flatnonzero(e.joint_label >= 0))
    label, modality = e.joint_label[cells], e.modality_codes[cells]
    means, used = [], 0
    for level in np.unique(label):
        of_level = label == level
        widths = _widths(e.joint[cells[of_level]], modality[of_level])
        if widths is not None:
            means.append(float(np.mean(1 - np.abs(widths))))
            used += len(widths)
    yield Score(float(np.mean(means)) if means else math.nan, used)


def _widths(x: FloatArray, groups: IntArray) -> DoubleArray | None:
    """Silhouette of every row; None where it is undefined (one group, or every row its own)."""
    from sklearn import config_context
    from sklearn.metrics import silhouette_samples

    if not 2 <= len(np.unique(groups)) < len(groups):
        return None
    with config_context(working_memory=WORKING_MB):
        return cast("DoubleArray", np.clip(silhouette_samples(x, groups), -1.0, 1.0))
