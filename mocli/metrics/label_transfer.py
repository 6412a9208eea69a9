"""Label transfer: whether the labels of one modality arrive at the right cells of another."""

from __future__ import annotations

import math
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from mocli.metrics.registry import Embedding, Score, metric
from mocli.nn.neighbors import nearest_rows

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
    "the value is the share of labels that agree. 'rna->prot' gives labels of rna to prot.",
    section="scMODAL, Methods, Label transfer accuracy",
)
def label_transfer(e: Embedding) -> Iterable[Score]:
    """Score both directions of every two modalities that have labels."""
    label = e.label or {}
    for giver, receiver in permutations(e.modalities, 2):
        if giver not in label or receiver not in label:
            continue
        known = [np.flatnonzero(np.asarray(label[m]) >= 0) for m in (giver, receiver)]
        of, n = f"{giver}->{receiver}", len(known[1])
        if min(map(len, known)) == 0:
            yield Score(math.nan, n, of)
            continue
        nearest = nearest_rows(e.rows(receiver)[known[1]], e.rows(giver)[known[0]], device=e.device)
        given = np.asarray(label[giver])[known[0]][nearest]
        yield Score(float(np.mean(given == np.asarray(label[receiver])[known[1]])), n, of)
