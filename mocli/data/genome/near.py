"""Which peaks lie at which genes: promoter, gene body, or a window whose weight decays.

The gene body is the default: on real paired cells, linked features made from it found partners better than
promoters or any window did, and among windows a slow decay did better than a fast one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mocli.data.features.intervals import overlaps
from mocli.types import DoubleArray, IntArray


@dataclass(frozen=True)
class Reach:
    """How far a gene reaches for its peaks, in bases.

    `mode`: `promoter`: a peak within `promoter` of the TSS, weight 1. `body`: a peak in the gene or
    `upstream` before its TSS, weight 1 (the usual gene activity). `window`: a peak within `window` of the
    TSS, weight `exp(-distance / decay)`.
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

    Args:
        genes: `chrom`, `start`, `end`, `strand`, `tss`, as `read_genes` gives.
        peaks: `chrom` (None where a feature is no interval), `start`, `end`, as `parse_intervals` gives;
            0-based and half-open.

    Returns:
        Rows of `genes`, rows of `peaks` and weights, `(n_pairs,)` each, by gene.
    """
    tss = genes["tss"].to_numpy()
    start, end = _stretch(genes, reach)
    gene, peak = overlaps(
        pd.DataFrame({"chrom": genes["chrom"].to_numpy(), "start": start, "end": end}), peaks
    )
    if reach.mode != "window":
        return gene, peak, np.ones(len(gene))
    first, last = peaks["start"].to_numpy()[peak], peaks["end"].to_numpy()[peak] - 1
    distance = np.maximum(np.maximum(first - tss[gene], tss[gene] - last), 0)
    return gene, peak, np.exp(-distance / reach.decay)


def promoters_hit(genes: pd.DataFrame, peaks: pd.DataFrame, *, shift: int = 0) -> int:
    """Count the TSS that lie in a peak, all moved by `shift` bases.

    Shifted TSS give the number by chance: where genes and peaks are of one genome
    build the count without a shift is several times larger.
    """
    tss = genes["tss"].to_numpy() + shift
    gene, _ = overlaps(
        pd.DataFrame({"chrom": genes["chrom"].to_numpy(), "start": tss, "end": tss + 1}), peaks
    )
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
