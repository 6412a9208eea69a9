"""Tracks of a gene: how open its peaks are by group and how they change, arcs from its start, its body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mocli.report.drawing import (
    ACCENT,
    ALERT,
    FAINT,
    INK,
    RULE,
    Picture,
    colours,
    dress,
    new_figure,
    printable,
    to_svg,
)
from mocli.types import DoubleArray, IntArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_GROUPS = 8
EMPTY = "no peak is open here in these cells"
"""Stands in the panel of a group that has nothing to draw."""

_ARC = np.linspace(0, np.pi, 25)


@dataclass(frozen=True, eq=False)
class Locus:
    """Where a gene and the peaks around it lie, in bases.

    Attributes:
        start, end: Of the peaks, `(n_peaks,)`.
        tss, strand, body: Where transcription starts and in which direction; the gene's first base, and the
            one after its last.
    """

    chrom: str
    start: IntArray
    end: IntArray
    tss: int
    strand: str
    body: tuple[int, int]

    @property
    def middle(self) -> DoubleArray:
        """Of the peaks, in million bases."""
        return (self.start + self.end) / 2e6


def locus_plot(
    locus: Locus,
    links: DoubleArray,
    *,
    changes: Mapping[str, DoubleArray] | None = None,
    openness: Mapping[str, DoubleArray] | None = None,
) -> Picture:
    """Draw a panel a group of cells, arcs from the start of transcription to the peaks, and the gene.

    Args:
        links: How strongly the gene goes with each peak, `(n_peaks,)`: the higher the arc; red above 0, blue
            below.
        changes: Relative changes of the peaks `(n_peaks,)` by group, undefined ones left out.
        openness: How open the peaks are, `(n_peaks,)` by group, on one scale: grey bars where there are
            changes, too, of the groups that have changes. Eight groups are drawn at most.
    """
    names = [*(changes or openness or ())][:MOST_GROUPS]
    figure = new_figure(7.2, 1.9 + 0.62 * len(names))
    heights = [*[1.0] * len(names), 1.1, 0.5]
    panels = np.atleast_1d(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    most_changed, most_open = (_largest(values) for values in (changes or {}, openness or {}))
    for axes, name, colour in zip(panels, names, colours(max(len(names), 1)), strict=False):
        dress(axes)
        axes.axvline(locus.tss / 1e6, color=ALERT, linewidth=0.8, linestyle=":")
        if openness and name in openness:
            height = np.nan_to_num(openness[name]) / most_open
            if changes:
                height *= 100 * most_changed
            axes.vlines(locus.middle, 0, height, color=RULE if changes else colour, linewidth=4)
            axes.set_ylim(0, 1.05)
        if changes:
            axes.axhline(0, color=FAINT, linewidth=0.8)
            axes.vlines(locus.middle, 0, 100 * np.nan_to_num(changes[name]), color=colour, linewidth=1.6)
            axes.set_ylim(-115 * most_changed, 115 * most_changed)
        else:
            axes.set_yticks([])
        if not any(_has_any(by_group, name) for by_group in (openness, changes)):
            axes.text(0.5, 0.5, EMPTY, transform=axes.transAxes, fontsize=7, color=FAINT, ha="center")
        axes.set_ylabel(printable(name, 14), fontsize=7, color=INK, rotation=0, ha="right", va="center")
        axes.tick_params(labelbottom=False)
    _arcs(panels[-2], locus, links)
    _gene(panels[-1], locus)
    what = ["bars: accessibility"] if openness else []
    what += ["lines: change in % of the peak"] if changes else []
    text = f"{printable(locus.chrom)}, million bases; {', '.join(what)}; gene and TSS in red"
    from matplotlib.ticker import MaxNLocator

    panels[-1].xaxis.set_major_locator(MaxNLocator(6))
    # a window is narrow beside its position: 95.52 is what a reader looks for, not an offset from it
    panels[-1].ticklabel_format(axis="x", style="plain", useOffset=False)
    panels[-1].set_xlabel(text, fontsize=8, color=INK)
    return to_svg(figure)


def _has_any(by_group: Mapping[str, DoubleArray] | None, name: str) -> bool:
    return bool(np.nan_to_num((by_group or {}).get(name, np.zeros(0))).any())


def _largest(by_group: Mapping[str, DoubleArray]) -> float:
    known = [np.abs(values[np.isfinite(values)]) for values in by_group.values()]
    return max((float(values.max(initial=0)) for values in known), default=0) or 1.0


def _arcs(axes: Axes, locus: Locus, links: DoubleArray) -> None:
    """Draw an arc from the start of transcription to each peak, the strongest on top."""
    dress(axes)
    largest = _largest({"": links})
    tss = locus.tss / 1e6
    for k in np.argsort(np.abs(np.nan_to_num(links)), kind="stable"):
        if not np.isfinite(links[k]):
            continue
        share = abs(links[k]) / largest
        half = (locus.middle[k] - tss) / 2
        axes.plot(
            tss + half * (1 - np.cos(_ARC)),
            share * np.sin(_ARC),
            color=ALERT if links[k] > 0 else ACCENT,
            alpha=0.15 + 0.85 * share,
            linewidth=0.5 + 1.5 * share,
        )
    axes.set_ylim(0, 1.05)
    axes.set_yticks([])
    axes.set_ylabel("links", fontsize=7, color=INK, rotation=0, ha="right", va="center")
    axes.tick_params(labelbottom=False)


def _gene(axes: Axes, locus: Locus) -> None:
    """Draw the peaks, and the body of the gene with an arrow in the direction of transcription."""
    dress(axes)
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    peaks = np.full(len(locus.start), 0.5)
    axes.hlines(peaks, locus.start / 1e6, locus.end / 1e6, color=INK, linewidth=5)
    axes.plot(locus.middle, peaks, "|", color=INK, markersize=6)
    low, high = (base / 1e6 for base in locus.body)
    reach = np.array([*locus.start, *locus.end, locus.tss]) / 1e6
    axes.hlines([-0.5], low, high, color=ALERT, linewidth=3)
    axes.plot([locus.tss / 1e6], [-0.5], ">" if locus.strand == "+" else "<", color=ALERT, markersize=7)
    # a long gene does not press its window together
    edge = 0.02 * float(np.ptp(reach)) or 1e-3
    axes.set_xlim(float(reach.min()) - edge, float(reach.max()) + edge)
    axes.set_ylim(-1, 1)
