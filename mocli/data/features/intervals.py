"""Genome intervals: the names peaks are given, and the names chromosomes are given.

Inside mocli an interval is 0-based and half-open. The names of peaks written by
peak callers and by 10x carry BED coordinates, so their numbers are taken as they
stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from mocli.types import CSR, IntArray

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
