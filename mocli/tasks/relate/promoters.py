"""Whether promoters stand out: true pairs of gene and promoter against mismatched pairs as far apart."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import pandas as pd
from scipy import stats

from mocli.data.features.loci import Vicinity
from mocli.tasks.relate.scope import ALL, FeaturePairs
from mocli.types import BoolArray, DoubleArray, IntArray

Figures: TypeAlias = dict[str, dict[str, float | int | str | None]]

PROMOTER = 2_000  # bases
DISTAL = 10_000
TOP = 0.1
_BIN_EDGES = (1, 501, 1_001)  # of |distance|: over the TSS, to 500, to 1,000, to 2,000


def promoter_controls(vicinity: Vicinity, *, seed: int = 0) -> FeaturePairs:
    """Draw, for every promoter pair, the same gene with another gene's promoter peak.

    The peak lies in the same distance bin (over the TSS, within 500, 1,000 or 2,000
    bases) from the TSS of a gene on another chromosome. A promoter pair for which
    there is none has no control.

    Returns:
        Pairs for `correlate`, sorted by gene; a pair may occur twice.
    """
    promoter = np.flatnonzero(np.abs(vicinity.distance) <= PROMOTER)
    distance_bin = np.searchsorted(_BIN_EDGES, np.abs(vicinity.distance[promoter]), side="right")
    home = vicinity.chrom_code[vicinity.peak[promoter]]
    rng = np.random.default_rng(seed)
    gene: list[IntArray] = [np.zeros(0, np.int64)]
    peak: list[IntArray] = [np.zeros(0, np.int64)]
    for k in np.unique(distance_bin):
        members = promoter[distance_bin == k]
        of_chrom = home[distance_bin == k]
        order = np.argsort(of_chrom, kind="stable")
        members, of_chrom = members[order], of_chrom[order]
        begin, end = (np.searchsorted(of_chrom, of_chrom, side=s) for s in ("left", "right"))
        others = len(members) - (end - begin)
        drawn = (rng.random(len(members)) * others).astype(np.int64)
        drawn += np.where(drawn >= begin, end - begin, 0)  # members of the own chromosome are skipped
        has = others > 0
        gene.append(vicinity.gene[members[has]])
        peak.append(vicinity.peak[members[drawn[has]]])
    first, second = np.concatenate(gene), np.concatenate(peak)
    order = np.lexsort((second, first))
    return FeaturePairs(first[order], second[order], home=vicinity.chrom_code)


def promoter_enrichment(table: pd.DataFrame, controls: DoubleArray) -> Figures:
    """Test whether promoter peaks are among the pairs that correlate most.

    Args:
        table: As `relations_table` gives it, of genes and peaks; of one with groups the rows over all cells
            count.
        controls: Correlations of `promoter_controls`.

    Returns:
        By name a `value` (None where a side has no pairs) and its `definition`.
    """
    if "group" in table:
        table = table[(table["group"] == ALL).to_numpy()]
    correlation = table["correlation"].to_numpy(dtype=np.float64)
    distance = np.abs(table["distance_to_tss"].to_numpy())
    true, far = correlation[distance <= PROMOTER], correlation[distance > DISTAL]
    figures: Figures = {}
    _compare(
        figures,
        "promoter_vs_matched",
        true,
        np.asarray(controls, dtype=np.float64),
        "a gene and a peak within 2,000 bases of its TSS",
        "the same gene and a peak at the same distance (over the TSS, within 500, 1,000 or 2,000 bases) "
        "from the TSS of a gene on another chromosome",
    )
    _compare(
        figures,
        "promoter_vs_distal",
        true,
        far,
        "a gene and a peak within 2,000 bases of its TSS",
        "a gene and a peak of its window more than 10,000 bases from its TSS",
    )
    return figures


def _compare(figures: Figures, name: str, a: DoubleArray, b: DoubleArray, what_a: str, what_b: str) -> None:
    """Add the odds ratio of being among the top, its p and the counts."""
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    top_a, top_b = _top(a, b)
    in_a, in_b = int(top_a.sum()), int(top_b.sum())
    counts = [[in_a, len(a) - in_a], [in_b, len(b) - in_b]]
    odds = p = None
    if len(a) and len(b):
        shift = 0.5 if min(map(min, counts)) == 0 else 0.0
        (w, x), (y, z) = [[value + shift for value in row] for row in counts]
        odds = w * z / (x * y)
        p = float(stats.fisher_exact(counts, alternative="greater").pvalue)
    setting = f"Pairs A ({what_a}) and B ({what_b}) together; the top are the 10% of the largest correlation"
    figures[f"{name}_odds_ratio"] = {
        "value": odds,
        "definition": f"{setting}, those equal to the last included. Odds of A to be in the top over the "
        "odds of B; 1 is chance; half a pair is added to each count where one is 0.",
    }
    figures[f"{name}_p"] = {
        "value": p,
        "definition": f"{setting}. Fisher's exact test, one-sided: A is in the top more often. Pairs are "
        "taken to be independent although they share genes and peaks.",
    }
    for key, value, definition in (
        ("n_a", len(a), f"Pairs A: {what_a}; with a defined correlation."),
        ("n_b", len(b), f"Pairs B: {what_b}; with a defined correlation."),
        ("top_a", in_a, f"{setting}. Pairs A in the top."),
        ("top_b", in_b, f"{setting}. Pairs B in the top."),
    ):
        figures[f"{name}_{key}"] = {"value": value, "definition": definition}


def _top(a: DoubleArray, b: DoubleArray) -> tuple[BoolArray, BoolArray]:
    """Say which pairs are in the top tenth of both kinds together, ties with the last included."""
    together = np.sort(np.concatenate([a, b]))[::-1]
    if not len(together):
        return a > 0, b > 0
    least = together[max(1, round(TOP * len(together))) - 1]
    return a >= least, b >= least
