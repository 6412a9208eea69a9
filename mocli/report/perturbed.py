"""Pictures of perturbations: volcano of a screen, heat maps, predicted against measured changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mocli.report.figure import ACCENT, ALERT, FAINT, INK, dress, new_figure, printable, to_png, to_svg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mocli.report.figure import Picture
    from mocli.types import BoolArray, DoubleArray

MAX_ROWS = 40
MAX_COLUMNS = 24
_NAMED = 14
_LEAST_P = 1e-300


def volcano(
    shift: DoubleArray, p: DoubleArray, names: Sequence[str], up: BoolArray, significant: BoolArray
) -> Picture:
    """Draw -log10 p over the shift, `(n,)` each; the farthest are named.

    Parameters
    ----------
    up
        Whether the feature was raised.
    significant
        Whether its FDR is small.
    """
    known = np.isfinite(p)
    height = -np.log10(np.maximum(np.where(known, p, 1.0), _LEAST_P))
    figure = new_figure(7.2, 3.6)
    axes = figure.subplots()
    dress(axes)
    for which, mark, word in ((up, "^", "raised"), (~up, "v", "lowered")):
        for strong, color in ((False, FAINT), (True, ACCENT)):
            chosen = which & (significant == strong)
            if chosen.any():
                label = f"{word}, FDR below 5%" if strong else word
                axes.plot(
                    shift[chosen], height[chosen], mark, color=color, markersize=3.5, alpha=0.7, label=label,
                    linestyle="none",
                )  # fmt: skip
    far = np.argsort(-np.abs(shift) * (height + 0.1), kind="stable")[:_NAMED]
    for k in far:
        axes.annotate(
            printable(names[k], 24), (shift[k], height[k]), xytext=(3, 3), textcoords="offset points",
            fontsize=6.5, color=INK,
        )  # fmt: skip
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.set_xlabel("shift towards the target group", fontsize=8, color=INK)
    axes.set_ylabel("-log10 p", fontsize=8, color=INK)
    axes.legend(frameon=False, fontsize=7, loc="best")
    return to_png(figure)


def heat_map(values: DoubleArray, rows: Sequence[str], columns: Sequence[str], *, label: str) -> Picture:
    """Draw a table of numbers in blue (above 0) and red, `(n_rows, n_columns)`; NaN is left white."""
    n_rows, n_columns = values.shape
    figure = new_figure(min(10.0, 2.6 + 0.42 * n_columns), 1.3 + 0.17 * max(n_rows, 3))
    axes = figure.subplots()
    dress(axes, frame=False)
    largest = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.0
    bound = largest or 1.0
    shown = axes.imshow(
        np.ma.masked_invalid(values),
        cmap="RdBu",
        vmin=-bound,
        vmax=bound,
        aspect="auto",
        interpolation="none",
    )
    axes.set_yticks(range(n_rows), [printable(name, 40) for name in rows], fontsize=6.5)
    axes.set_xticks(
        range(n_columns), [printable(name, 28) for name in columns], fontsize=7, rotation=60, ha="right"
    )
    bar = figure.colorbar(shown, ax=axes, shrink=0.6, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(label, fontsize=7.5, color=INK)
    return to_svg(figure)


def against_truth(panels: Sequence[tuple[str, DoubleArray, DoubleArray, Sequence[str]]]) -> Picture:
    """Draw measured over predicted changes, a panel a perturbation.

    Parameters
    ----------
    panels
        Title, predicted `(n,)`, measured `(n,)`, names of the features.
    """
    n = max(len(panels), 1)
    width = min(n, 3)
    depth = -(-n // width)
    figure = new_figure(10.0 if width > 1 else 4.0, 2.7 * depth)
    grid = np.atleast_1d(figure.subplots(depth, width, squeeze=False)).ravel()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, predicted, measured, names) in zip(grid, panels, strict=False):
        dress(axes, title=title)
        axes.axhline(0, color=FAINT, linewidth=0.6)
        axes.axvline(0, color=FAINT, linewidth=0.6)
        axes.plot(predicted, measured, ".", color=ACCENT, markersize=3, alpha=0.6, linestyle="none")
        for k in np.argsort(-np.abs(measured), kind="stable")[:4]:
            axes.annotate(
                printable(names[k], 16), (predicted[k], measured[k]), xytext=(2, 2),
                textcoords="offset points", fontsize=6, color=ALERT,
            )  # fmt: skip
        axes.set_xlabel("predicted", fontsize=7.5, color=INK)
        axes.set_ylabel("measured", fontsize=7.5, color=INK)
    return to_png(figure)
