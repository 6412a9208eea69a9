"""Whether simulated cells are like real ones: single features, correlations, labels, discriminability."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from mocli.metrics.generated import Generated, LabelView, moments, project
from mocli.metrics.registry import metric
from mocli.nn.neighbors import knn
from mocli.types import CSR, DoubleArray, FloatArray, IntArray

SEEN_IN = 0.05
"""Share of the real cells that a feature must be seen in for its variance to be compared."""
FEWEST = 3
"""Cells below which nothing is compared."""
MOST_COMPARED = 100
"""Features whose correlations are compared."""
FEWEST_CELLS, FEWEST_FEATURES = 20, 3
AMONG = 15
"""Nearest real cells whose labels are counted."""
N_MARKERS = 50
FEWEST_MARKED = 5
FEWEST_TOLD, MOST_TOLD = 20, 1_000
"""Real and simulated cells, each, that a classifier is shown."""
FOLDS = 5
TREES = 60


@metric(LabelView, best=1.0, bounds=(-1.0, 1.0))
def mean_correlation(seen: LabelView) -> float:
    """Correlation of feature means.

    Whether features have the same mean as in real cells; 1 is perfect.

    Pearson correlation over features of the mean of logged values of simulated and real cells of a label.

    Source: mocli.
    """
    real, simulated = (moments(x)[0] for x in seen.logged())
    if min(np.ptp(real), np.ptp(simulated)) == 0:
        return math.nan
    return float(np.corrcoef(real, simulated)[0, 1])


@metric(LabelView, best=0.0, bounds=(0.0, math.inf), needs={"counts"})
def mean_variance(seen: LabelView) -> float:
    """Error of the mean-variance relation.

    Log2 fold difference between the variance at a given mean of simulated and of real cells; 0 is perfect.

    Median over features detected in at least 5 % of the label's real cells of |log2 (variance / mean of
    simulated counts) - log2 (variance / mean of real counts)|.

    Source: mocli.
    """
    x, y = seen.raw()
    if min(x.shape[0], y.shape[0]) < FEWEST:
        return math.nan
    (mean_x, var_x), (mean_y, var_y) = moments(x), moments(y)
    often = np.diff(x.tocsc().indptr) >= SEEN_IN * x.shape[0]
    often &= (mean_x > 0) & (mean_y > 0) & (var_x > 0) & (var_y > 0)
    if not often.any():
        return math.nan
    ratio = np.log2(var_y[often] / mean_y[often]) - np.log2(var_x[often] / mean_x[often])
    return float(np.median(np.abs(ratio)))


@metric(LabelView, best=0.0, bounds=(0.0, 1.0), needs={"counts"})
def zero_fraction(seen: LabelView) -> float:
    """Error of the share of zeros.

    Difference between a feature's share of zeros in simulated and in real cells; 0 is perfect.

    Mean over features of |share of zeros in simulated cells - share in real cells| of a label.

    Source: mocli.
    """
    x, y = seen.raw()
    if min(x.shape[0], y.shape[0]) < FEWEST:
        return math.nan
    above = [np.diff(m.tocsc().indptr) / m.shape[0] for m in (x, y)]
    return float(np.abs(above[0] - above[1]).mean())


@metric(LabelView, best=0.0, bounds=(0.0, 1.0), needs={"counts"})
def library_ks(seen: LabelView) -> float:
    """Difference of library sizes.

    Whether library sizes are distributed as in real cells; 0 is perfect.

    Kolmogorov-Smirnov statistic of the total counts of simulated and real cells of a label.

    Source: mocli.
    """
    from scipy.stats import ks_2samp

    totals = [np.asarray(x.sum(1)).ravel() for x in seen.raw()]
    return float(ks_2samp(*totals, method="asymp").statistic) if min(map(len, totals)) >= FEWEST else math.nan


@metric(LabelView, best=1.0, bounds=(0.0, math.inf))
def variance_ratio(seen: LabelView) -> float:
    """Variance ratio.

    It should be about 1: below 1 simulated cells of a label are more alike than real ones.

    Variance of logged values within a label, summed over features: simulated over real cells.

    Source: mocli.
    """
    x, y = seen.logged()
    if min(x.shape[0], y.shape[0]) < FEWEST:
        return math.nan
    total = float(moments(x)[1].sum())
    return float(moments(y)[1].sum()) / total if total > 0 else math.nan


@metric(LabelView, best=1.0, bounds=(0.0, math.inf))
def component_variance_ratio(seen: LabelView) -> float:
    """Variance ratio of principal components.

    It should be about 1. It measures the diversity that features share within a label, not the noise of
    each feature.

    As the variance ratio, over the first 20 principal components of one half of all real cells; the variance
    of real cells is that of the other half.

    Source: mocli.
    """
    if min(map(len, seen.rows())) < FEWEST:
        return math.nan
    half, real, simulated = seen.cells.share(
        ("apart", seen.modality), partial(_components, seen.cells, seen.modality)
    )
    of_half = np.isin(half, seen.rows()[0])
    simulated_rows = seen.rows()[1]
    if min(int(of_half.sum()), len(simulated_rows)) < FEWEST:
        return math.nan
    total = float(real[of_half].var(0).sum())
    return float(simulated[simulated_rows].var(0).sum()) / total if total > 0 else math.nan


def _components(cells: Generated, name: str) -> tuple[IntArray, DoubleArray, DoubleArray]:
    """Place half of the real cells, and simulated ones, on the components of the other half."""
    x, y = cells.logged(name)
    order = np.random.default_rng(cells.seed).permutation(x.shape[0])
    half = np.sort(order[::2])
    real, simulated = project(x[np.sort(order[1::2])], x[half], y, seed=cells.seed)
    return half, real, simulated


@metric(LabelView, best=1.0, bounds=(-1.0, 1.0))
def feature_correlation(seen: LabelView) -> float:
    """Agreement of feature-feature correlations.

    Whether the same features are correlated within a label; compare with the value of other real cells, as
    correlations of low counts are noisy.

    Pearson correlation, over all pairs of the 100 features of greatest variance among the label's real cells,
    of their correlations in simulated and in real cells (logged values).

    Source: mocli.
    """
    x, y = seen.logged()
    chosen = _most_variable(x, y)
    if min(x.shape[0], y.shape[0]) < FEWEST_CELLS or len(chosen) < FEWEST_FEATURES:
        return math.nan
    pairs = np.triu_indices(len(chosen), 1)
    return _agreement(*(_correlations(m[:, chosen], m[:, chosen])[pairs] for m in (x, y)))


@metric(LabelView, best=1.0, bounds=(-1.0, 1.0), needs={"two", "paired"})
def cross_correlation(seen: LabelView) -> float:
    """Agreement of correlations across modalities.

    Whether features of two modalities are correlated as in real cells; needs cells measured in both.

    As the agreement of feature-feature correlations, over pairs of one feature from each of two modalities
    (the 100 most variable of each).

    Source: mocli.
    """
    (x, y), (v, w) = (seen.logged(k) for k in (0, 1))
    first, second = _most_variable(x, y), _most_variable(v, w)
    if min(x.shape[0], y.shape[0]) < FEWEST_CELLS or min(len(first), len(second)) < FEWEST_FEATURES:
        return math.nan
    real = _correlations(x[:, first], v[:, second])
    return _agreement(real.ravel(), _correlations(y[:, first], w[:, second]).ravel())


def _most_variable(x: CSR, y: CSR) -> IntArray:
    """Return the most variable features of real cells that also vary among simulated ones."""
    variance = moments(x)[1] * (moments(y)[1] > 0)
    order = np.argsort(-variance, kind="stable")[:MOST_COMPARED]
    return np.sort(order[variance[order] > 0])


def _correlations(a: CSR, b: CSR) -> DoubleArray:
    """Pearson correlations of the columns of two matrices with the same rows."""
    product = (a.T @ b).astype(np.float64) @ np.eye(b.shape[1]) / a.shape[0]
    (mean_a, var_a), (mean_b, var_b) = moments(a), moments(b)
    return (product - np.outer(mean_a, mean_b)) / np.sqrt(np.outer(var_a, var_b))


def _agreement(real: DoubleArray, simulated: DoubleArray) -> float:
    if min(np.ptp(real), np.ptp(simulated)) == 0:
        return math.nan
    return float(np.corrcoef(real, simulated)[0, 1])


@metric(LabelView, best=1.0, bounds=(0.0, 1.0), needs={"labels"})
def nearest_label(seen: LabelView) -> float:
    """Nearest real label.

    Share of simulated cells that look most like real cells of the label asked for; with noisy data not even
    real cells reach 1.

    Share of a label's simulated cells most of whose 15 nearest real cells (Euclidean, first 20 principal
    components of the real cells' logged values) have that label.

    Source: mocli.
    """
    real, simulated = seen.cells.components(seen.modality)
    return _share(seen, real, simulated)


@metric(LabelView, best=1.0, bounds=(0.0, 1.0), needs={"labels", "latent"})
def nearest_label_latent(seen: LabelView) -> float:
    """Nearest real label, encoded again.

    As the nearest real label, but in the model's latent, after encoding simulated and real cells from their
    values.

    As the nearest real label, in the model's latent by the modality alone.

    Source: mocli.
    """
    return _share(seen, *seen.cells.latent[seen.modality])


@metric(LabelView, best=1.0, bounds=(0.0, 1.0), needs={"labels"})
def nearest_mean(seen: LabelView) -> float:
    """Nearest real label's mean.

    Share of simulated cells nearest to the mean of the real cells of the label asked for.

    As the nearest real label, by the nearest of the labels' means instead of 15 cells, so that frequent
    labels have no advantage.

    Source: mocli.
    """
    real, simulated = seen.cells.components(seen.modality)
    label = seen.label
    codes = np.unique(label[label >= 0])
    means = np.stack([real[label == k].mean(0) for k in codes])
    nearest = knn(simulated[seen.rows()[1]], means, 1)[1][:, 0]
    return float(np.mean(codes[nearest] == seen.code))


@metric(LabelView, best=1.0, bounds=(0.0, 1.0), needs={"labels"})
def marker_overlap(seen: LabelView) -> float:
    """Overlap of markers.

    Share of the label's strongest markers in real cells that are also found in simulated cells.

    Share of the 50 features of greatest Welch t (logged values, the label's real cells against all other real
    cells) that are among the 50 of the label's simulated cells against the same others.

    Source: mocli.
    """
    logged, _ = seen.cells.logged(seen.modality)
    x, y = seen.logged()
    label = seen.label
    others = logged[(label != seen.code) & (label >= 0)]
    if min(x.shape[0], y.shape[0], others.shape[0]) < FEWEST_MARKED:
        return math.nan
    n = min(N_MARKERS, max(1, x.shape[1] // 4))
    real, simulated = (np.argsort(-_welch(m, others), kind="stable")[:n] for m in (x, y))
    return float(len(np.intersect1d(real, simulated)) / n)


def _welch(x: CSR, others: CSR) -> DoubleArray:
    (mean_x, var_x), (mean_o, var_o) = moments(x), moments(others)
    n, m = x.shape[0], others.shape[0]
    spread = np.sqrt(var_x / n + var_o / m)
    return np.divide(mean_x - mean_o, spread, out=np.zeros_like(spread), where=spread > 0)


def _share(seen: LabelView, real: DoubleArray | FloatArray, simulated: DoubleArray | FloatArray) -> float:
    labelled = np.flatnonzero(seen.label >= 0)
    if len(labelled) < AMONG:
        return math.nan
    neighbors = knn(simulated[seen.rows()[1]], real[labelled], AMONG)[1]
    neighbor_labels = seen.label[labelled][neighbors]
    votes = np.stack([(neighbor_labels == k).sum(1) for k in range(len(seen.cells.levels))], 1)
    return float(np.mean(votes.argmax(1) == seen.code))


@metric(LabelView, best=0.5, bounds=(0.0, 1.0))
def discriminability(seen: LabelView) -> float:
    """Discriminability.

    How well a classifier tells simulated cells of a label from real ones: 0.5 means not at all, 1 always;
    below 0.5, simulated cells are nearer to single training cells than these to each other.

    Area under the ROC curve, cells held out in 5 folds, of 60 extremely randomised trees that see 20
    principal components of real and simulated cells together (logged values), library size and number of
    detected features; as many real as simulated cells, at most 1,000 each.

    Source: mocli.
    """
    from scipy import sparse
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    logged, raw = seen.logged(), seen.raw()
    n = min(logged[0].shape[0], logged[1].shape[0], MOST_TOLD)
    if n < FEWEST_TOLD:
        return math.nan
    rng = np.random.default_rng(seen.cells.seed)
    chosen = [np.sort(rng.choice(x.shape[0], n, replace=False)) for x in logged]
    both = sparse.vstack([x[rows] for x, rows in zip(logged, chosen, strict=True)], format="csr")
    counts = sparse.vstack([x[rows] for x, rows in zip(raw, chosen, strict=True)], format="csr")
    (components,) = project(both, both, seed=seen.cells.seed)
    depth = np.stack([np.asarray(counts.sum(1)).ravel(), np.diff(counts.indptr)], 1)
    features = np.hstack([components, depth])
    simulated = np.repeat([0, 1], n)
    classifier = ExtraTreesClassifier(TREES, min_samples_leaf=3, random_state=seen.cells.seed, n_jobs=1)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seen.cells.seed)
    # by fold: scores of different classifiers are not on one scale
    return float(cross_val_score(classifier, features, simulated, cv=folds, scoring="roc_auc").mean())
