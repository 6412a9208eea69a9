"""Pictures of feature relations: correlation against distance, and the strongest partner of each feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mocli.report.figure import ACCENT, ALERT, FAINT, INK, dress, new_figure, printable, to_png, to_svg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mocli.report.figure import Picture
    from mocli.types import BoolArray, DoubleArray, IntArray

MAX_POINTS = 20_000
MAX_NAMED = 40
_BINS = 41


def distance_plot(
    distance: IntArray, correlation: DoubleArray, *, seed: int = 0, label: str = "correlation"
) -> Picture:
    """Draw the correlation of every pair over the distance to the TSS, with median and quartiles.

    Parameters
    ----------
    distance, correlation
        `(n_pairs,)`; undefined correlations are left out.
    label
        What is drawn, where it is no correlation.
    """
    known = np.isfinite(correlation)
    far, correlation = distance[known] / 1000, correlation[known]
    shown = np.arange(len(far))
    if len(shown) > MAX_POINTS:
        shown = np.random.default_rng(seed).choice(len(shown), MAX_POINTS, replace=False)
    figure = new_figure(7.2, 3.0)
    axes = figure.subplots()
    dress(axes)
    axes.plot(far[shown], correlation[shown], ".", color=FAINT, markersize=2, alpha=0.35, rasterized=True)
    axes.axhline(0, color=FAINT, linewidth=0.8)
    edges = np.linspace(far.min(initial=-1), far.max(initial=1), _BINS + 1)
    bins = np.clip(np.searchsorted(edges, far, side="right") - 1, 0, _BINS - 1)
    filled = [k for k in range(_BINS) if (bins == k).sum() >= 5]
    if filled:
        quartiles = np.array([np.quantile(correlation[bins == k], [0.25, 0.5, 0.75]) for k in filled])
        middle = (edges[filled] + edges[np.array(filled) + 1]) / 2
        axes.fill_between(middle, quartiles[:, 0], quartiles[:, 2], color=ACCENT, alpha=0.2, linewidth=0)
        axes.plot(middle, quartiles[:, 1], color=ACCENT, linewidth=1.6, label="median, with quartiles")
        axes.legend(frameon=False, fontsize=8, loc="upper right")
    axes.set_xlabel("distance to the TSS, kb (negative: upstream)", fontsize=8, color=INK)
    axes.set_ylabel(label, fontsize=8, color=INK)
    return to_png(figure)


def correlation_histogram(correlation: DoubleArray, significant: BoolArray) -> Picture:
    """Draw how correlations are distributed, `(n_pairs,)`, and those of small FDR apart."""
    known = np.isfinite(correlation)
    figure = new_figure(7.2, 2.6)
    axes = figure.subplots()
    dress(axes)
    bins = np.linspace(-1, 1, 81).tolist()
    axes.hist(correlation[known], bins=bins, color=FAINT, label="all pairs tested")
    axes.hist(correlation[known & significant], bins=bins, color=ACCENT, label="matched FDR below 5%")
    axes.set_xlabel("correlation of imputed with measured", fontsize=8, color=INK)
    axes.set_ylabel("pairs", fontsize=8, color=INK)
    axes.legend(frameon=False, fontsize=8)
    return to_svg(figure)


def strongest_partners(pairs: Sequence[str], correlation: DoubleArray, significant: BoolArray) -> Picture:
    """Draw one pair a line, the first on top; at most 40.

    Parameters
    ----------
    pairs
        What to write beside each line.
    correlation, significant
        `(n_lines,)`.
    """
    n = min(len(pairs), MAX_NAMED)
    figure = new_figure(7.2, 0.9 + 0.17 * max(n, 4))
    axes = figure.subplots()
    dress(axes)
    height = np.arange(n)[::-1]
    axes.hlines(height, 0, correlation[:n], color=FAINT, linewidth=1)
    for which, color, label in (
        (significant[:n], ACCENT, "matched FDR below 5%"),
        (~significant[:n], ALERT, "not"),
    ):
        if which.any():
            axes.plot(correlation[:n][which], height[which], "o", color=color, markersize=4, label=label)
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.set_yticks(height, [printable(text, 48) for text in pairs[:n]], fontsize=7)
    axes.set_ylim(-1, max(n, 1))
    axes.set_xlabel("correlation of imputed with measured", fontsize=8, color=INK)
    if n:
        axes.legend(frameon=False, fontsize=8, loc="best")
    return to_svg(figure)
