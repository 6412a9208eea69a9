"""Pictures of the best genes along the genome: how open their peaks are by group, links as arcs, the gene."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mocli.data.genome.vicinity import Vicinity
from mocli.report.html import Drawn
from mocli.report.locusplot import MOST_GROUPS, Locus, locus_plot
from mocli.report.wording import plural
from mocli.tasks.relate.report import over_all
from mocli.tasks.relate.scope import ALL
from mocli.types import CSR, DoubleArray, IntArray, StrArray

PICTURED = 12
"""Genes of which the report has a picture."""


def mean_by_group(peaks: CSR, labels: StrArray | None) -> dict[str, DoubleArray]:
    """Return the mean of each peak `(n_peaks,)` over all cells, and over those of the largest groups.

    Parameters
    ----------
    peaks
        `(n, n_peaks)`, at one depth.
    labels
        `(n,)`, None or not a number where unknown.
    """
    groups = {ALL: np.arange(peaks.shape[0])}
    if labels is not None:
        text = pd.Series(labels).map(str, na_action="ignore")
        for name in text.value_counts().index[: MOST_GROUPS - 1]:
            groups[str(name)] = np.flatnonzero((text == name).to_numpy())
    return {name: np.asarray(peaks[rows].mean(0), np.float64).ravel() for name, rows in groups.items()}


def locus_of(near: Vicinity, gene: str) -> tuple[Locus, IntArray]:
    """Return where a gene and its peaks lie, and the peaks, in the order of their places."""
    pairs = np.flatnonzero(np.asarray(near.genes, dtype=object)[near.gene] == gene)
    start, end = (
        near.places[c].to_numpy(dtype=np.int64, na_value=-1)[near.peak[pairs]] for c in ("start", "end")
    )
    order = np.argsort(start, kind="stable")
    nearest = pairs[np.argmin(np.abs(near.distance[pairs]))]
    low, high = near.body[nearest]
    locus = Locus(
        chrom=str(near.places["chrom"].iloc[near.peak[nearest]]),
        start=start[order],
        end=end[order],
        tss=int(near.tss[nearest]),
        strand=str(near.strand[nearest]),
        body=(int(low), int(high)),
    )
    return locus, near.peak[pairs[order]]


def draw_tracks(
    near: Vicinity,
    table: pd.DataFrame,
    openness: Mapping[str, DoubleArray],
    *,
    link: str,
    changed: bool = False,
) -> list[Drawn]:
    """Return a picture of each of the first genes of a table.

    Parameters
    ----------
    table
        One line a gene, a peak and a group of cells; the best pairs over all cells come first.
    openness
        Means of all peaks by group, as `mean_by_group` gives them.
    link
        Column that says how strongly a gene and a peak are linked.
    changed
        Whether `change` of the table is drawn, too.
    """
    drawn = []
    for gene in list(dict.fromkeys(over_all(table)["gene"]))[:PICTURED]:
        locus, peaks = locus_of(near, gene)
        mine = table[(table["gene"] == gene).to_numpy()].set_index("peak")
        others = mine[mine["group"] != ALL].groupby("group")["n_cells"].first()
        groups = [ALL, *map(str, others.sort_values(ascending=False).index)] if changed else [*openness]
        names = np.asarray(near.peaks, dtype=object)[peaks]
        rows = {name: mine[(mine["group"] == name).to_numpy()].reindex(names) for name in [ALL, *groups]}
        picture = locus_plot(
            locus,
            rows[ALL][link].to_numpy(np.float64),
            changes={name: rows[name]["change"].to_numpy(np.float64) for name in groups} if changed else None,
            openness={name: openness[name][peaks] for name in groups if name in openness},
        )
        fdr = rows[ALL]["fdr"].fillna(2).to_numpy()
        best = int(fdr.argmin())
        caption = (
            f"{plural(len(peaks), 'peak')} within reach; the smallest FDR is {fdr[best]:.2g}, of "
            f"{names[best]} ({rows[ALL]['distance_to_tss'].iloc[best] / 1000:+.1f} kb). The higher an arc, "
            "the stronger the link; blue ones go the other way. Groups by number of cells."
        )
        drawn.append(Drawn(picture, gene, caption))
    return drawn
