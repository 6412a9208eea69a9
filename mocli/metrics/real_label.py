"""Whether simulated cells are of the label asked for: their nearest real cells, their markers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mocli.metrics.generated import Generated, generation_metric, moments
from mocli.nn.neighbors import knn

if TYPE_CHECKING:
    from mocli.metrics.generated import Of
    from mocli.types import CSR, DoubleArray, FloatArray

AMONG = 15
N_MARKERS = 50
FEWEST = 5


@generation_metric(
    name="nearest_label",
    title="Nearest real label",
    best=1.0,
    bounds=(0.0, 1.0),
    needs={"labels"},
    sentence="Share of simulated cells that look most like real cells of the label asked for; of noisy cells "
    "not even real ones reach 1.",
    definition="Share of a label's simulated cells most of whose 15 nearest real cells (Euclidean, first 20 "
    "principal components of the real cells' logged values) have that label.",
    section="mocli",
)
def nearest_label(cells: Generated, of: Of, code: int) -> float:
    """Look among measured values."""
    real, simulated = cells.components(of[0])
    return _share(cells, of[0], code, real, simulated)


@generation_metric(
    name="nearest_label_latent",
    title="Nearest real label, encoded again",
    best=1.0,
    bounds=(0.0, 1.0),
    needs={"labels", "latent"},
    sentence="The same after the model has encoded simulated and real cells from their measured values.",
    definition="As the nearest real label, in the model's latent by the modality alone.",
    section="mocli",
)
def nearest_label_latent(cells: Generated, of: Of, code: int) -> float:
    """Look in the latent."""
    return _share(cells, of[0], code, *cells.latent[of[0]])


@generation_metric(
    name="nearest_mean",
    title="Nearest real label's mean",
    best=1.0,
    bounds=(0.0, 1.0),
    needs={"labels"},
    sentence="Share of simulated cells nearest to the mean of the real cells of the label asked for.",
    definition="As the nearest real label, by the nearest of the labels' means instead of 15 cells, so that "
    "frequent labels have no advantage.",
    section="mocli",
)
def nearest_mean(cells: Generated, of: Of, code: int) -> float:
    """Look among the labels' means."""
    real, simulated = cells.components(of[0])
    label = cells.real_label[of[0]]
    codes = np.unique(label[label >= 0])
    means = np.stack([real[label == k].mean(0) for k in codes])
    near = knn(simulated[cells.rows(of[0], code)[1]], means, 1)[1][:, 0]
    return float(np.mean(codes[near] == code))


@generation_metric(
    name="marker_overlap",
    title="Overlap of markers",
    best=1.0,
    bounds=(0.0, 1.0),
    needs={"labels"},
    sentence="Share of the label's strongest real markers that are also found from simulated cells.",
    definition="Share of the 50 features of greatest Welch t (logged values, the label's real cells against "
    "all "
    "other real cells) that are among the 50 of the label's simulated cells against the same others.",
    section="mocli",
)
def marker_overlap(cells: Generated, of: Of, code: int) -> float:
    """Compare markers."""
    logged, _ = cells.logged(of[0])
    x, y = cells.logged_of(of[0], code)
    label = cells.real_label[of[0]]
    others = logged[(label != code) & (label >= 0)]
    if min(x.shape[0], y.shape[0], others.shape[0]) < FEWEST:
        return math.nan
    n = min(N_MARKERS, max(1, x.shape[1] // 4))
    real, simulated = (np.argsort(-_welch(m, others), kind="stable")[:n] for m in (x, y))
    return float(len(np.intersect1d(real, simulated)) / n)


def _welch(x: CSR, others: CSR) -> DoubleArray:
    (mean_x, var_x), (mean_o, var_o) = moments(x), moments(others)
    n, m = x.shape[0], others.shape[0]
    spread = np.sqrt(var_x / n + var_o / m)
    t: DoubleArray = np.divide(mean_x - mean_o, spread, out=np.zeros_like(spread), where=spread > 0)
    return t


def _share(
    cells: Generated,
    name: str,
    code: int,
    real: DoubleArray | FloatArray,
    simulated: DoubleArray | FloatArray,
) -> float:
    label = cells.real_label[name]
    known = np.flatnonzero(label >= 0)
    if len(known) < AMONG:
        return math.nan
    near = knn(simulated[cells.rows(name, code)[1]], real[known], AMONG)[1]
    of = label[known][near]
    votes = np.stack([(of == k).sum(1) for k in range(len(cells.levels))], 1)
    return float(np.mean(votes.argmax(1) == code))
