"""Which intervals of a genome share a base."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from mocli.types import IntArray


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
        at = low[row] + offset
        both = (begins[at] < end[row]) & (ends[at] > start[row])
        first.append(i[row[both]])
        second.append(order[at[both]])
    rows, others = np.concatenate(first), np.concatenate(second)
    order = np.lexsort((others, rows))
    return rows[order].astype(np.int64), others[order].astype(np.int64)
