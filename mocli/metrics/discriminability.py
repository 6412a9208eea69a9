"""Whether a classifier can tell simulated cells from real ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from mocli.metrics.generated import Generated, generation_metric, project

if TYPE_CHECKING:
    from mocli.metrics.generated import Of

FEWEST = 20
MOST = 1_000
FOLDS = 5
TREES = 60


@generation_metric(
    name="discriminability",
    title="Discriminability",
    best=0.5,
    bounds=(0.0, 1.0),
    sentence="How well a classifier tells simulated cells of a label from real ones: 0.5 is not at all, 1 "
    "always, and below 0.5 simulated cells are nearer to single training cells than those to each other.",
    definition="Area under the ROC curve, cells held out in 5 folds, of 60 extremely randomised trees that "
    "see "
    "20 principal components of real and simulated cells together (logged values), total and number of "
    "features seen; as many real as simulated cells, 1,000 each at most.",
    section="mocli",
)
def discriminability(cells: Generated, of: Of, code: int) -> float:
    """Train and test a classifier."""
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    logged, raw = cells.logged_of(of[0], code), cells.raw(of[0], code)
    n = min(logged[0].shape[0], logged[1].shape[0], MOST)
    if n < FEWEST:
        return math.nan
    rng = np.random.default_rng(cells.seed)
    chosen = [np.sort(rng.choice(x.shape[0], n, replace=False)) for x in logged]
    both = sparse.vstack([x[rows] for x, rows in zip(logged, chosen, strict=True)], format="csr")
    counts = sparse.vstack([x[rows] for x, rows in zip(raw, chosen, strict=True)], format="csr")
    (components,) = project(both, both, seed=cells.seed)
    depth = np.stack([np.asarray(counts.sum(1)).ravel(), np.diff(counts.indptr)], 1)
    features = np.hstack([components, depth])
    simulated = np.repeat([0, 1], n)
    classifier = ExtraTreesClassifier(TREES, min_samples_leaf=3, random_state=cells.seed, n_jobs=1)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=cells.seed)
    # by fold: scores of different classifiers are not on one scale
    return float(cross_val_score(classifier, features, simulated, cv=folds, scoring="roc_auc").mean())
