"""Which peaks lie at which genes: promoter, gene body, or a window whose weight decays.

The gene body is the default: linked features made of it found the partners of real paired cells better
than promoters or any window did, and among windows a slow decay did better than a fast one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mocli.types import DoubleArray, IntArray


@dataclass(frozen=True)
class Reach:
    """How far a gene reaches for its peaks, in bases.

    Attributes
    ----------
    mode
        `promoter`: a peak within `promoter` of the TSS, weight 1. `body`: a peak
        in the gene or `upstream` before its TSS, weight 1 (the usual gene
        activity). `window`: a peak within `window` of the TSS, weight
        `exp(-distance / decay)`.
    """

    mode: str = "body"
    window: int = 100_000
    decay: float = 50_000.0
    promoter: int = 2_000
    upstream: int = 2_000


# which numbers a mode looks at
USES = {"promoter": ("promoter",), "body": ("upstream",), "window": ("window", "decay")}


def near_peaks(
    genes: pd.DataFrame, peaks: pd.DataFrame, reach: Reach
) -> tuple[IntArray, IntArray, DoubleArray]:
    """Find the peaks that each gene reaches.

    The distance of a peak is counted in bases from the TSS to the peak's nearest
    base, 0 where the peak covers the TSS.

    Parameters
    ----------
    genes
        `chrom`, `start`, `end`, `strand`, `tss`, as `read_genes` gives.
    peaks
        `chrom` (None where a feature is no interval), `start`, `end`, as
        `parse_intervals` gives; 0-based and half-open.

    Returns
    -------
    Rows of `genes`, rows of `peaks` and weights, `(n_pairs,)` each, by gene.
    """
    tss = genes["tss"].to_numpy()
    start, end = _stretch(genes, reach)
    gene, peak = _overlaps(genes["chrom"].to_numpy(), start, end, peaks)
    if reach.mode != "window":
        return gene, peak, np.ones(len(gene))
    first, last = peaks["start"].to_numpy()[peak], peaks["end"].to_numpy()[peak] - 1
    distance = np.maximum(np.maximum(first - tss[gene], tss[gene] - last), 0)
    return gene, peak, np.exp(-distance / reach.decay)


def promoters_hit(genes: pd.DataFrame, peaks: pd.DataFrame, *, shift: int = 0) -> int:
    """Count the TSS that lie in a peak, all moved by `shift` bases.

    Moved TSS say what chance gives: where genes and peaks are of one genome
    build the count without a shift is several times larger.
    """
    tss = genes["tss"].to_numpy() + shift
    gene, _ = _overlaps(genes["chrom"].to_numpy(), tss, tss + 1, peaks)
    return len(np.unique(gene))


def _stretch(genes: pd.DataFrame, reach: Reach) -> tuple[IntArray, IntArray]:
    """Return the half-open stretch of each gene in which a peak must have a base."""
    tss = genes["tss"].to_numpy()
    if reach.mode == "body":
        forward = (genes["strand"] != "-").to_numpy()
        start, end = genes["start"].to_numpy(), genes["end"].to_numpy()
        return np.where(forward, start - reach.upstream, start), np.where(forward, end, end + reach.upstream)
    span = reach.promoter if reach.mode == "promoter" else reach.window
    return tss - span, tss + span + 1


def _overlaps(
    chroms: np.ndarray, start: IntArray, end: IntArray, peaks: pd.DataFrame
) -> tuple[IntArray, IntArray]:
    """Pairs of a stretch and a peak that share a base, by stretch, then by place."""
    none = np.zeros(0, dtype=np.int64)
    found = [(none, none)]
    of_chrom = peaks.groupby("chrom", sort=False).indices
    for chrom in dict.fromkeys(chroms):
        rows = of_chrom.get(chrom)
        if rows is None:
            continue
        mine = np.flatnonzero(chroms == chrom)
        peak_start, peak_end = (peaks[c].to_numpy()[rows] for c in ("start", "end"))
        order = np.argsort(peak_start, kind="stable")
        rows, peak_start, peak_end = rows[order], peak_start[order], peak_end[order]
        longest = int((peak_end - peak_start).max())
        low = np.searchsorted(peak_start, start[mine] - longest, side="left")
        high = np.maximum(np.searchsorted(peak_start, end[mine], side="left"), low)
        count = high - low
        gene = np.repeat(mine, count)
        peak = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(low, count)
        hit = peak_end[peak] > start[gene]
        found.append((gene[hit], rows[peak[hit]]))
    gene = np.concatenate([g for g, _ in found])
    peak = np.concatenate([p for _, p in found])
    order = np.argsort(gene, kind="stable")
    return gene[order], peak[order]
