"""Genome intervals: names of peaks and chromosomes, and which peaks lie at which genes.

Inside mocli an interval is 0-based and half-open. The names of peaks written by
peak callers and by 10x carry BED coordinates, so their numbers are taken as they
stand.

Links by nearness take the gene body by default: on real paired cells, linked features made from it found
partners better than promoters or any window did, and among windows a slow decay did better than a fast one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from mocli.types import CSR, DoubleArray, IntArray

# chr1:100-200, chr1-100-200, chr1_100_200, chr1:1,000-2,000; a contig may hold _ and - itself.
_INTERVAL = re.compile(
    r"([^\s:]+?)[:_-](\d{1,3}(?:,\d{3})+|\d{1,12})[-_](\d{1,3}(?:,\d{3})+|\d{1,12})", re.ASCII
)

# Assembled chromosomes: numbers, sex chromosomes, roman numerals (yeast, worm), fly arms.
_ASSEMBLED = re.compile(r"\d{1,2}[AB]?|[XYZW]|[IVX]+|[23][LR]", re.ASCII)


class Interval(NamedTuple):
    """A stretch of a chromosome, 0-based and half-open."""

    chrom: str
    start: int
    end: int


def normalise_chrom(chrom: str) -> str:
    """Return the UCSC form of a chromosome's name.

    `1` and `Chr1` become `chr1`; `MT`, `M` and `chrMT` become `chrM`. Scaffolds
    (`GL000194.1`) keep their names, since the UCSC ones cannot be derived.
    """
    bare = chrom[3:] if chrom[:3].casefold() == "chr" and len(chrom) > 3 else chrom
    if bare.upper() in {"M", "MT"}:
        return "chrM"
    if len(bare) < len(chrom) or _ASSEMBLED.fullmatch(bare):
        return "chr" + bare
    return chrom


def parse_interval(text: str) -> Interval | None:
    """Read `chrom:start-end`, `chrom-start-end` or `chrom_start_end`.

    Args:
        text: The name of a peak.

    Returns:
        The interval with its chromosome's name in UCSC form, or None where the text is something else or ends
        before it starts.
    """
    match = _INTERVAL.fullmatch(text.strip())
    if match is None:
        return None
    start, end = (int(number.replace(",", "")) for number in match.group(2, 3))
    return None if end < start else Interval(normalise_chrom(match[1]), start, end)


def parse_intervals(names: Iterable[str]) -> pd.DataFrame:
    """Read many names of peaks.

    Args:
        names: `(n,)` names.

    Returns:
        A frame of n rows in the order given, with columns `chrom` (None where the name is no interval),
        `start` and `end` (int64, -1 there).
    """
    nowhere = (None, -1, -1)
    rows = [parse_interval(name) or nowhere for name in names]
    chrom, start, end = zip(*rows, strict=True) if rows else ((), (), ())
    return pd.DataFrame(
        {
            "chrom": pd.Series(list(chrom), dtype=object),
            "start": np.asarray(start, dtype=np.int64),
            "end": np.asarray(end, dtype=np.int64),
        }
    )


def overlaps(a: pd.DataFrame, b: pd.DataFrame) -> tuple[IntArray, IntArray]:
    """Return rows of `a` and of `b` that share a base, pair by pair, by `a`, then by `b`.

    Both have `chrom` (None for nowhere), `start` and `end`, 0-based and half-open.
    """
    first: list[IntArray] = [np.zeros(0, np.int64)]
    second: list[IntArray] = [np.zeros(0, np.int64)]
    for chrom in sorted(set(a["chrom"].dropna()) & set(b["chrom"].dropna())):
        i, j = (np.flatnonzero((frame["chrom"] == chrom).to_numpy()) for frame in (a, b))
        start, end = (a[c].to_numpy(np.int64)[i] for c in ("start", "end"))
        order = j[np.argsort(b["start"].to_numpy(np.int64)[j], kind="stable")]
        begins, ends = (b[c].to_numpy(np.int64)[order] for c in ("start", "end"))
        widest = int((ends - begins).max(initial=0))
        low = np.searchsorted(begins, start - widest, side="left")
        count = np.searchsorted(begins, end, side="left") - low
        row = np.repeat(np.arange(len(i)), np.maximum(count, 0))
        offset = np.arange(len(row)) - np.repeat(
            np.cumsum(np.maximum(count, 0)) - count, np.maximum(count, 0)
        )
        candidates = low[row] + offset
        both = (begins[candidates] < end[row]) & (ends[candidates] > start[row])
        first.append(i[row[both]])
        second.append(order[candidates[both]])
    rows, others = np.concatenate(first), np.concatenate(second)
    order = np.lexsort((others, rows))
    return rows[order].astype(np.int64), others[order].astype(np.int64)


def by_overlap(own_peaks: Sequence[str], wanted: Sequence[str]) -> CSR:
    """Return what part of each own peak goes to each wanted one, float32 `(n_own, n_wanted)`.

    A peak that overlaps several is split among them by the bases that it shares with each, so that its counts
    stay as many as they were; a row is 1 in all, or empty where it overlaps none.

    `own`, `wanted`: names such as `chr1:100-200`; what is no interval overlaps nothing.
    """
    a, b = parse_intervals(own_peaks), parse_intervals(wanted)
    rows, columns = overlaps(a, b)
    starts = np.maximum(a["start"].to_numpy()[rows], b["start"].to_numpy()[columns])
    ends = np.minimum(a["end"].to_numpy()[rows], b["end"].to_numpy()[columns])
    shared = (ends - starts).astype(np.float64)
    has_bases = shared > 0  # a name such as chr1:100-100 has no base
    rows, columns, shared = rows[has_bases], columns[has_bases], shared[has_bases]
    total = np.bincount(rows, weights=shared, minlength=len(a))
    parts = (shared / total[rows]).astype(np.float32)
    return sparse.csr_matrix((parts, (rows, columns)), shape=(len(a), len(b)))


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
