"""A picture of one gene's locus: what changes at every peak, group by group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mocli.report.figure import ALERT, FAINT, INK, dress, new_figure, printable, to_svg
from mocli.report.palette import colours

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mocli.report.figure import Picture
    from mocli.types import DoubleArray, IntArray

MOST_GROUPS = 8


def locus_plot(
    start: IntArray, end: IntArray, tss: int, chrom: str, changes: Mapping[str, DoubleArray]
) -> Picture:
    """Draw relative changes over the places of peaks, a panel a group of cells; below, peaks and TSS.

    Parameters
    ----------
    start, end
        `(n_peaks,)` in bases.
    changes
        `(n_peaks,)` by group, undefined ones left out; at most eight groups are drawn.
    """
    shown = dict(list(changes.items())[:MOST_GROUPS])
    figure = new_figure(7.2, 0.9 + 0.62 * len(shown))
    heights = [1.0] * len(shown) + [0.35]
    panels = np.atleast_1d(figure.subplots(len(shown) + 1, 1, sharex=True, height_ratios=heights))
    middle = (start + end) / 2e6
    known = [values[np.isfinite(values)] for values in shown.values()]
    largest = 100 * max((float(np.abs(values).max(initial=0)) for values in known), default=0) or 1.0
    for axes, (name, values), colour in zip(panels[:-1], shown.items(), colours(len(shown)), strict=True):
        dress(axes)
        axes.axhline(0, color=FAINT, linewidth=0.8)
        axes.vlines(middle, 0, 100 * np.nan_to_num(values), color=colour, linewidth=1.6)
        axes.axvline(tss / 1e6, color=ALERT, linewidth=0.8, linestyle=":")
        axes.set_ylim(-1.15 * largest, 1.15 * largest)
        axes.set_ylabel(printable(name, 14), fontsize=7, color=INK, rotation=0, ha="right", va="center")
        axes.tick_params(labelbottom=False)
    track = panels[-1]
    dress(track)
    track.spines["left"].set_visible(False)
    track.set_yticks([])
    track.hlines(np.zeros(len(middle)), start / 1e6, end / 1e6, color=INK, linewidth=6)
    track.plot(middle, np.zeros(len(middle)), "|", color=INK, markersize=7)
    track.plot([tss / 1e6], [0.0], "v", color=ALERT, markersize=6)
    track.set_ylim(-1, 1)
    track.set_xlabel(
        f"{printable(chrom)}, million bases; change in per cent of the peak, TSS in red",
        fontsize=8,
        color=INK,
    )
    return to_svg(figure)
