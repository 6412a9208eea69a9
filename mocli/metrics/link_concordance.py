"""Link concordance: whether linked features agree between a cell and its cross-modal neighbours."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mocli.metrics.registry import Score, metric
from mocli.nn.neighbors import chunks, neighbor_mean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mocli.metrics.embedding import Embedding
    from mocli.types import DoubleArray, FloatArray, IntArray

COLUMNS = 64  # at a time


@metric(
    name="link_concordance",
    title="Link concordance",
    better="higher",
    bounds=(-1.0, 1.0),
    needs={"modalities", "linked"},
    sentence="Whether cells sit next to cells of the other modality with matching linked features "
    "(a protein and its gene); needs no labels. 0 is chance, and noise keeps even a true match below 1.",
    definition="For each linked feature, Pearson correlation over the cells of one modality between the "
    "measured value and the mean value of their 15 nearest cells (all, if fewer) of the other modality in "
    "the joint latent; mean of the two directions (of one, if the other is constant); median over the "
    "linked features that are not constant. n counts these. At most 20,000 cells of a modality, drawn at "
    "random, look for neighbours among all of the other.",
    section="mocli",
    headline=8,
)
def link_concordance(e: Embedding) -> Iterable[Score]:
    """Score every two modalities that have links."""
    for (a, b), values in concordance_by_link(e).items():
        used = values[np.isfinite(values)]
        yield Score(float(np.median(used)) if len(used) else math.nan, len(used), f"{a}-{b}")


def concordance_by_link(e: Embedding) -> dict[tuple[str, str], DoubleArray]:
    """Concordance of every linked feature, `(n_links,)` by edge; NaN where both sides are constant."""
    found = {}
    for (a, b), (x, y, names) in (e.linked or {}).items():
        if min(len(x), len(y)) == 0:
            found[a, b] = np.full(len(names), math.nan)
            continue
        (cells_a, near_b), (cells_b, near_a) = e.across(a, b), e.across(b, a)
        forth, back = _concordance(x[cells_a], y, near_b), _concordance(y[cells_b], x, near_a)
        of_columns = np.stack([forth, back])
        defined = np.isfinite(of_columns)
        directions = defined.sum(axis=0)
        total = np.where(defined, of_columns, 0.0).sum(axis=0)
        means = np.full(len(names), math.nan)
        np.divide(total, directions, out=means, where=directions > 0)
        found[a, b] = means
    return found


def _concordance(own: FloatArray, other: FloatArray, neighbors: IntArray) -> DoubleArray:
    """Correlate each column with its mean over neighbours of the other modality, `(s,)`."""
    parts = [
        pearson(own[:, columns], neighbor_mean(other[:, columns], neighbors))
        for columns in chunks(own.shape[1], COLUMNS)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def pearson(x: np.ndarray, y: np.ndarray) -> DoubleArray:
    """Correlation of each column of two `(n, s)` arrays; NaN where either is constant or not finite."""
    x, y = (_standardised(v.astype(np.float64)) for v in (x, y))
    correlation: DoubleArray = np.clip((x * y).sum(axis=0), -1.0, 1.0)
    return correlation


def _standardised(v: DoubleArray) -> DoubleArray:
    """Columns of mean 0 and norm 1; NaN where constant up to float32 rounding."""
    peak = np.abs(v).max(axis=0)
    v = v - v.mean(axis=0)
    norm = np.sqrt((v**2).sum(axis=0))
    constant = ~(norm > 1e-6 * peak * math.sqrt(len(v)))
    return v / np.where(constant, np.nan, norm)
