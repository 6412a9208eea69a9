"""Label transfer: whether the labels of one modality arrive at the right cells of another."""

from __future__ import annotations

import math
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from mocli.metrics.registry import Embedding, Score, metric

if TYPE_CHECKING:
    from collections.abc import Iterable


@metric(
    name="label_transfer",
    title="Label transfer accuracy",
    better="higher",
    bounds=(0.0, 1.0),
    needs={"modalities", "label"},
    sentence="Share of cells whose nearest cell of the other modality carries the same cell type; "
    "1 is perfect, guessing gives the share of the commonest types.",
    definition="Each cell of known label in the receiving modality takes the label of its nearest cell "
    "(Euclidean, joint latent, k = 1) among the cells of known label in the giving modality; "
    "the value is the share of labels that agree. 'rna->prot' gives labels of rna to prot. "
    "At most 20,000 cells receive, drawn at random.",
    section="scMODAL, Methods, Label transfer accuracy",
)
def label_transfer(e: Embedding) -> Iterable[Score]:
    """Score both directions of every two modalities that have labels."""
    label = e.label or {}
    for giver, receiver in permutations(e.modalities, 2):
        if giver not in label or receiver not in label:
            continue
        to, nearest = e.nearest_known(giver, receiver)
        of = f"{giver}->{receiver}"
        if min(len(to), len(nearest)) == 0:
            yield Score(math.nan, len(to), of)
            continue
        agree = np.asarray(label[giver])[nearest] == np.asarray(label[receiver])[to]
        yield Score(float(agree.mean()), len(to), of)
