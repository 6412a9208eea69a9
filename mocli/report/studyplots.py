"""Charts of studies: metrics against a number, and heat maps of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mocli.report import drawing
from mocli.report.drawing import FAINT, INK, Picture, dress, new_figure, panel_grid, printable, to_svg
from mocli.report.wording import metric_value
from mocli.types import DoubleArray

_WIDTH = 10.2  # inches: the width of the page


@dataclass(frozen=True)
class Curve:
    """One line: values over seeds by the number that was changed, and those without the change."""

    name: str
    values: Mapping[float, Sequence[float]]
    whole: Sequence[float] = ()


@dataclass(frozen=True, eq=False)
class Heat:
    """One table of numbers, NaN where there is none.

    Attributes
    ----------
    by_row
        Whether each row has a scale of its own.
    """

    title: str
    values: DoubleArray
    rows: Sequence[str]
    columns: Sequence[str]
    by_row: bool = False


def curves(panels: Sequence[tuple[str, Sequence[Curve]]], words: str) -> Picture:
    """Draw one panel for each metric, one line for each method, with one legend; `words` name the x axis."""
    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    names = list(dict.fromkeys(line.name for _, lines_here in panels for line in lines_here))
    colours = dict(zip(names, drawing.colours(len(names)), strict=True))
    figure = new_figure(_WIDTH, 2.5 * n_rows + 0.25 * -(-len(names) // 4))
    for (title, lines), axes in zip(panels, panel_grid(figure, len(panels), n_columns), strict=True):
        dress(axes, title=title)
        ticks = sorted({x for line in lines for x in line.values})
        spread = ticks[0] > 0 and ticks[-1] / ticks[0] >= 8
        if spread:
            axes.set_xscale("log")
        for line in lines:
            colour, x = colours[line.name], list(line.values)
            axes.plot(x, [np.mean(v) for v in line.values.values()], "-", color=colour, linewidth=1.4)
            for place, values in line.values.items():
                axes.plot([place] * len(values), values, "o", color=colour, markersize=2.4, alpha=0.7)
            if line.whole:
                level = float(np.mean(line.whole))
                beside = axes.get_yaxis_transform()
                axes.plot([0.97, 1.0], [level, level], "-", color=colour, linewidth=1.4, transform=beside)
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
        axes.set_xlabel(printable(words, 50), fontsize=8, color=INK)
    handles = [figure.axes[0].plot([], [], "-", color=colours[name], linewidth=2)[0] for name in names]
    figure.legend(
        handles, [printable(n, 30) for n in names], loc="outside lower left", ncols=4, fontsize=7.5,
        frameon=False,
    )  # fmt: skip
    return to_svg(figure)


def heat_maps(maps: Sequence[Heat]) -> Picture:
    """Draw tables with their numbers written in the fields."""
    wide = max(len(heat.columns) for heat in maps) > 6 or maps[0].by_row
    n_columns = 1 if wide else min(2, len(maps))
    n_rows = -(-len(maps) // n_columns)
    tallest = max(len(heat.rows) for heat in maps)
    figure = new_figure(_WIDTH, (0.9 + 0.32 * tallest) * n_rows + 0.3)
    for heat, axes in zip(maps, panel_grid(figure, len(maps), n_columns), strict=True):
        dress(axes, title=heat.title, frame=False)
        shade = _shades(heat.values, by_row=heat.by_row)
        axes.imshow(shade, cmap="Blues", vmin=-0.15, vmax=1.25, aspect="auto", interpolation="nearest")
        for (i, j), value in np.ndenumerate(heat.values):
            known = np.isfinite(value)
            axes.text(
                j, i, metric_value(float(value)) if known else "none", ha="center", va="center", fontsize=7.5,
                color="white" if known and shade[i, j] > 0.75 else INK if known else FAINT,
            )  # fmt: skip
        axes.set_xticks(range(len(heat.columns)), [printable(c, 24) for c in heat.columns])
        axes.set_yticks(range(len(heat.rows)), [printable(r, 40) for r in heat.rows])
        axes.tick_params(length=0, labelsize=7.5)
    return to_svg(figure)


def _shades(values: DoubleArray, *, by_row: bool) -> DoubleArray:
    """Scale to 0 to 1, in each row or over all; 0.5 where all are the same."""
    axis = 1 if by_row else None
    filled = np.where(np.isfinite(values), values, np.nan)
    if not np.isfinite(filled).any():
        return np.zeros_like(values)
    low = np.nanmin(np.where(np.isnan(filled), np.inf, filled), axis=axis, keepdims=True)
    high = np.nanmax(np.where(np.isnan(filled), -np.inf, filled), axis=axis, keepdims=True)
    span = high - low
    shades: DoubleArray = np.where(span > 0, (filled - low) / np.where(span > 0, span, 1.0), 0.5)
    return np.nan_to_num(shades)
