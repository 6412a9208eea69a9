"""Pictures of imputed values: how well each feature is predicted, and cells of a few."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mocli.report.figure import ACCENT, FAINT, INK, dress, new_figure, printable, to_png, to_svg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mocli.report.figure import Picture
    from mocli.types import DoubleArray, FloatArray

MAX_NAMED = 60
"""Features drawn by name; of more, the distribution is drawn."""


def accuracy_dots(names: Sequence[str], ours: DoubleArray, beside: DoubleArray | None) -> Picture:
    """Draw the correlation of every feature, best on top, beside that of its linked feature.

    Parameters
    ----------
    ours, beside
        `(n_features,)`, NaN where undefined.
    """
    known = np.flatnonzero(np.isfinite(ours))
    order = known[np.argsort(ours[known], kind="stable")]
    if len(order) > MAX_NAMED:
        return _distribution(ours[order], None if beside is None else beside[order])
    figure = new_figure(7.2, 0.9 + 0.16 * max(len(order), 4))
    axes = figure.subplots()
    dress(axes)
    height = np.arange(len(order))
    if beside is not None:
        axes.hlines(height, ours[order], np.nan_to_num(beside[order], nan=np.nan), color=FAINT, linewidth=1)
        axes.plot(beside[order], height, "o", color=FAINT, markersize=4, label="linked feature")
    axes.plot(ours[order], height, "o", color=ACCENT, markersize=5, label="imputed")
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.set_yticks(height, [printable(names[j], 24) for j in order], fontsize=7)
    axes.set_ylim(-1, len(order))
    axes.set_xlabel("Pearson correlation with measured values", fontsize=8, color=INK)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return to_svg(figure)


def _distribution(ours: DoubleArray, beside: DoubleArray | None) -> Picture:
    figure = new_figure(7.2, 2.6)
    axes = figure.subplots()
    dress(axes)
    bins = np.linspace(-1, 1, 81).tolist()
    axes.hist(ours, bins=bins, color=ACCENT, label=f"imputed, median {np.median(ours):.2f}")
    if beside is not None and np.isfinite(beside).any():
        known = beside[np.isfinite(beside)]
        label = f"linked feature, median {np.median(known):.2f} ({len(known):,} features)"
        axes.hist(known, bins=bins, histtype="step", color=INK, label=label)
    axes.set_xlim(min(-0.2, float(ours.min())), 1)
    axes.set_xlabel("Pearson correlation with measured values", fontsize=8, color=INK)
    axes.set_ylabel("features", fontsize=8, color=INK)
    axes.legend(frameon=False, fontsize=8)
    return to_svg(figure)


def scatter(
    predicted: FloatArray,
    measured: FloatArray,
    names: Sequence[str],
    ends: tuple[FloatArray, FloatArray] | None = None,
) -> Picture:
    """Draw measured over imputed values of a few features, one panel each.

    Parameters
    ----------
    predicted, measured
        `(n_cells, n_features)`.
    ends
        Lower and upper ends of the intervals, `(n_cells, n_features)` each.
    """
    n = max(len(names), 1)
    figure = new_figure(2.6 * n, 2.6)
    for j, axes in enumerate(np.atleast_1d(figure.subplots(1, n))):
        if j >= len(names):
            break
        known = np.isfinite(measured[:, j])
        x, y = predicted[known, j], measured[known, j]
        r = np.corrcoef(x, y)[0, 1] if len(x) > 2 and x.std() > 0 and y.std() > 0 else np.nan
        dress(axes, title=f"{printable(names[j], 20)}, r = {r:.2f}")
        if ends is not None:
            order = np.argsort(x)
            low, high = (end[known, j][order] for end in ends)
            axes.fill_between(x[order], low, high, color=ACCENT, alpha=0.12, linewidth=0)
        axes.plot(x, y, ".", color=ACCENT, markersize=3, alpha=0.6, rasterized=True)
        low, high = (float(f(np.concatenate([x, y]))) for f in (np.min, np.max)) if len(x) else (0.0, 1.0)
        axes.plot([low, high], [low, high], color=FAINT, linewidth=0.8)
        axes.set_xlabel("imputed", fontsize=8, color=INK)
        if j == 0:
            axes.set_ylabel("measured", fontsize=8, color=INK)
    return to_png(figure)
