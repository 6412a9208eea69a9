"""Evidence of pairs: one score from metacells and silencing, and known pairs (`--truth`).

A gene's own promoter peaks are pairs that are true for sure, and the same gene with promoters of genes on
other chromosomes, at the same distance, are pairs that are not. A logistic regression on these weighs what
each way says; a chromosome's pairs are scored by weights that were found on the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mocli.data.features.intervals import normalise_chrom, overlaps
from mocli.data.features.loci import Vicinity
from mocli.data.files.text import tab_separated
from mocli.errors import InputError
from mocli.tasks.relate.promoters import PROMOTER
from mocli.types import BoolArray, DoubleArray, IntArray

FEWEST_PROMOTERS = 60
"""With fewer promoter peaks than this the ways get their usual weights."""
USUAL = {"metacells": 2.0, "silencing": 1.0, "correlation": 1.0}
LIMIT = 8.0
"""Scores are clipped at this many standard deviations."""


@dataclass(frozen=True, eq=False)
class Combined:
    """Ways weighed together.

    Attributes:
        score: `(n_pairs,)`, large where the peak goes with the gene; NaN where no way says anything.
        at_controls: The same of the controls, `(n_controls,)`.
        weights: By way, in units of its standard deviation; means over chromosomes.
        learnt: Whether promoters were enough to find the weights.
    """

    score: DoubleArray
    at_controls: DoubleArray
    weights: Mapping[str, float]
    learnt: bool


def combine(
    scores: Mapping[str, DoubleArray],
    at_controls: Mapping[str, DoubleArray],
    distance: IntArray,
    home: IntArray,
    control_home: IntArray,
) -> Combined:
    """Weigh ways by how they tell promoters from controls of other chromosomes.

    Args:
        scores, at_controls: By way, `(n_pairs,)` and `(n_controls,)`, large where the peak goes with the
            gene.
        distance: Of the pairs' peaks from the transcription start, `(n_pairs,)`.
        home, control_home: Chromosome of the gene of every pair and of every control.
    """
    names = list(scores)
    x, c = (np.stack([values[name] for name in names], axis=1) for values in (scores, at_controls))
    silent = ~np.isfinite(x).any(1)
    # a way that says nothing at all has no spread
    spread = np.array(
        [values[np.isfinite(values)].std() if np.isfinite(values).any() else 0 for values in x.T]
    )
    spread = np.where(spread > 0, spread, 1)
    x, c = (np.clip(np.nan_to_num(values / spread), -LIMIT, LIMIT) for values in (x, c))
    promoter = np.abs(distance) <= PROMOTER
    usual = np.array([USUAL.get(name, 1.0) for name in names])
    learnt = bool(min(promoter.sum(), len(c)) >= FEWEST_PROMOTERS and len(np.unique(home[promoter])) > 2)
    score, control_score = np.empty(len(x)), np.empty(len(c))
    fold_weights = []
    for k in np.unique(np.concatenate([home, control_home])):
        weights = usual
        if learnt:
            weights = _fit(x[promoter & (home != k)], c[control_home != k], usual)
        fold_weights.append(weights)
        score[home == k], control_score[control_home == k] = (
            x[home == k] @ weights,
            c[control_home == k] @ weights,
        )
    score[silent] = np.nan
    mean = np.mean(fold_weights, axis=0) if fold_weights else usual
    return Combined(score, control_score, dict(zip(names, map(float, mean), strict=True)), learnt)


def _fit(true: DoubleArray, false: DoubleArray, usual: DoubleArray) -> DoubleArray:
    """Return the weights of a logistic regression, none negative; their mean square is 1."""
    from sklearn.linear_model import LogisticRegression

    if not len(true) or not len(false):
        return usual
    x = np.concatenate([true, false])
    y: BoolArray = np.arange(len(x)) < len(true)
    used = np.ones(x.shape[1], bool)
    weights = np.zeros(x.shape[1])
    while used.any():
        fitted = LogisticRegression(C=1.0).fit(x[:, used], y).coef_[0]
        if (fitted >= 0).all():
            weights[used] = fitted
            break
        used[np.flatnonzero(used)[fitted < 0]] = False
    size = float(np.sqrt(np.square(weights).mean()))
    return weights / size if size > 0 else usual


PROMOTERS = "promoter peaks"
"""Name of the pairs of a gene and its own promoter, where these are the ground truth."""

CHANCE = "chance"
"""Name of the score that pairs in random order have."""

_EXPECTED = "BEDPE: chrom1, start1, end1, chrom2, start2, end2, tab-separated"


def read_truth(path: str | Path, vicinity: Vicinity) -> BoolArray:
    """Say which pairs are known: one anchor holds the gene's TSS, the other shares a base with the peak.

    Returns:
        `(n_pairs,)` in the order of the vicinity.

    Raises:
        InputError: The file cannot be read as BEDPE, or no pair is in it.
    """
    frame = tab_separated(path, "the file of known pairs", expected=_EXPECTED, fewest=6)
    # a header, or lines for pairs without a place ("." and -1)
    good = frame[[1, 2, 4, 5]].apply(lambda column: column.str.isdecimal()).all(axis=1)
    frame = frame[good].reset_index(drop=True)
    anchors = [_anchor(frame, k) for k in (0, 3)]
    chrom = vicinity.places["chrom"].to_numpy()[vicinity.peak]
    spots = pd.DataFrame({"chrom": chrom, "start": vicinity.tss, "end": vicinity.tss + 1})
    spots, of_pair = _distinct(spots)
    n = max(1, len(vicinity.places))
    true_pairs: list[IntArray] = [np.zeros(0, np.int64)]
    for gene_side, peak_side in (anchors, anchors[::-1]):
        row, spot = overlaps(gene_side, spots)
        other, peak = overlaps(peak_side, vicinity.places)
        joined = pd.DataFrame({"row": row, "spot": spot}).merge(
            pd.DataFrame({"row": other, "peak": peak}), on="row"
        )
        true_pairs.append(joined["spot"].to_numpy(np.int64) * n + joined["peak"].to_numpy(np.int64))
    is_true: BoolArray = np.isin(of_pair * n + vicinity.peak, np.concatenate(true_pairs))
    if not is_true.any():
        raise InputError(
            "none of the known pairs is among the pairs tested",
            file=path,
            found=f"{len(frame):,} pairs in it, {len(is_true):,} tested",
            hint="is it of another genome build, or do all lie outside --window?",
        )
    return is_true


def _anchor(frame: pd.DataFrame, first: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "chrom": [normalise_chrom(c) for c in frame[first]],
            "start": frame[first + 1].astype(np.int64),
            "end": frame[first + 2].astype(np.int64),
        }
    )


def _distinct(spots: pd.DataFrame) -> tuple[pd.DataFrame, IntArray]:
    key = spots["chrom"].astype(str) + ":" + spots["start"].astype(str)
    codes, _ = pd.factorize(key)
    first = np.unique(codes, return_index=True)[1]
    return spots.iloc[first].reset_index(drop=True), codes.astype(np.int64)


def precision_recall(
    truth: BoolArray, scores: Mapping[str, DoubleArray], gene: IntArray
) -> list[dict[str, object]]:
    """Return the area under the precision-recall curve of every score, over all pairs and gene by gene.

    Undefined scores come last. Chance is the share of true pairs.

    Returns:
        By score: `score`, `auprc`, `auprc_by_gene` (the mean over genes that have both kinds), `n_genes`,
        `n_pairs`.
    """
    from sklearn.metrics import average_precision_score

    rows: list[dict[str, object]] = []
    order = np.argsort(gene, kind="stable")
    runs = [
        r for r in np.split(order, np.flatnonzero(np.diff(gene[order])) + 1) if 0 < truth[r].sum() < len(r)
    ]
    for name, score in scores.items():
        filled = np.where(np.isfinite(score), score, -np.inf)
        ranked = np.unique(filled, return_inverse=True)[1].reshape(-1).astype(np.float64)
        by_gene = [float(average_precision_score(truth[r], ranked[r])) for r in runs]
        rows.append(
            {
                "score": name,
                "auprc": float(average_precision_score(truth, ranked)) if truth.any() else None,
                "auprc_by_gene": float(np.mean(by_gene)) if by_gene else None,
                "n_genes": len(runs),
                "n_pairs": len(truth),
            }
        )
    rows.append(
        {
            "score": CHANCE,
            "auprc": float(truth.mean()),
            "auprc_by_gene": float(np.mean([truth[r].mean() for r in runs])) if runs else None,
            "n_genes": len(runs),
            "n_pairs": len(truth),
        }
    )
    return rows


def promoter_precision(
    distance: IntArray, scores: Mapping[str, DoubleArray], at_controls: Mapping[str, DoubleArray]
) -> dict[str, list[dict[str, object]]]:
    """Say how well scores tell a gene's promoter peaks from those of others at the same distance.

    `scores`, `at_controls`: by name, of all pairs `(n_pairs,)` and of `promoter_controls`.
    """
    promoter = np.abs(distance) <= PROMOTER
    n_controls = len(next(iter(at_controls.values()), ()))
    if not promoter.any() or not n_controls:
        return {}
    truth = np.concatenate([np.ones(int(promoter.sum()), bool), np.zeros(n_controls, bool)])
    both = {name: np.concatenate([values[promoter], at_controls[name]]) for name, values in scores.items()}
    return {PROMOTERS: precision_recall(truth, both, np.zeros(len(truth), np.int64))}
