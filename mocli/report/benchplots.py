"""Charts of a benchmark: bars of many methods with their seeds, costs, embeddings, curves of studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mocli.report import drawing
from mocli.report.comparison import metric_title
from mocli.report.drawing import (
    ACCENT,
    FAINT,
    INK,
    Picture,
    dress,
    new_figure,
    panel_grid,
    printable,
    to_png,
    to_svg,
)
from mocli.report.ranking import Ranking
from mocli.report.scatter import Category, panel_of, shared_legend
from mocli.report.wording import metric_value
from mocli.types import DoubleArray, FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_WIDTH = 10.2  # inches: the width of the page
_COLOURS = {
    "model": ACCENT,
    "embedding": "#009e73",
    "peer": "#cc79a7",
    "control": "#a3a9b3",
    "bound": "#d9dce1",
    "answer": "#d9dce1",
}
_ARROWS = {"higher": "↑", "lower": "↓"}
MOST_METRICS = 12


def ranked_bars(ranking: Ranking) -> Picture:
    """Draw the overall score and the leading metrics, one panel each, methods in their order."""
    leading = [c for c in ranking.columns if c.order < 99][:MOST_METRICS]
    leading = leading or list(ranking.columns)[:MOST_METRICS]
    lines = ranking.lines
    names = [line.method for line in lines]
    panels: list[tuple[str, list[tuple[float, ...]]]] = [
        ("Overall ↑", [() if line.overall is None else (line.overall,) for line in lines])
    ]
    for column in leading:
        values = [line.cells[column.key].values if column.key in line.cells else () for line in lines]
        title = metric_title(column.key, column.title)
        panels.append((f"{title} {_ARROWS.get(column.better or '', '')}", values))
    return _bars(names, panels, [_COLOURS.get(line.kind, FAINT) for line in lines])


def cost_bars(costs: Mapping[str, Mapping[str, Sequence[float]]]) -> Picture:
    """Draw the costs of runs, one panel for each cost, one bar for each method."""
    names = list(dict.fromkeys(name for by_method in costs.values() for name in by_method))
    panels = [
        (title, [tuple(by_method.get(name, ())) for name in names]) for title, by_method in costs.items()
    ]
    return _bars(names, panels, [ACCENT] * len(names))


def _bars(
    names: Sequence[str], panels: Sequence[tuple[str, Sequence[tuple[float, ...]]]], colours: Sequence[str]
) -> Picture:
    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure = new_figure(_WIDTH, (0.75 + 0.22 * len(names)) * n_rows + 0.2)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)  # type: ignore[union-attr,call-arg]
    for position, axes in enumerate(panel_grid(figure, len(panels), n_columns)):
        title, values = panels[position]
        dress(axes, title=title)
        _panel(axes, values, colours)
        first = position % n_columns == 0
        axes.set_yticks(range(len(names)), [printable(n, 34) for n in names] if first else [""] * len(names))
        axes.tick_params(axis="y", length=0, labelsize=7.5)
    return to_svg(figure)


def _panel(axes: Axes, values: Sequence[tuple[float, ...]], colours: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    every = [v for numbers in values for v in numbers]
    low, high = min([0.0, *every]), max([0.0, *every])
    span = (high - low) or 1.0
    for i, (numbers, colour) in enumerate(zip(values, colours, strict=True)):
        if not numbers:
            axes.text(0.0, i, " not measured", va="center", fontsize=6.5, color=FAINT)
            continue
        mean = float(np.mean(numbers))
        axes.barh(i, mean, height=0.7, color=colour)
        if len(numbers) > 1:
            axes.plot(numbers, [i] * len(numbers), "o", color=INK, markersize=2.2, alpha=0.75)
        axes.text(
            max(*numbers, mean, 0.0) + 0.02 * span,
            i,
            metric_value(mean),
            va="center",
            fontsize=6.8,
            color=INK,
        )
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.set_xlim(low, high + 0.24 * span)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.set_ylim(len(values) - 0.4, -0.6)


def side_by_side(panels: Sequence[tuple[str, FloatArray]], categories: Sequence[Category]) -> Picture:
    """Draw several layouts in the colours of one category, with one legend beneath.

    Args:
        panels: Title and points `(n, 2)` of each.
        categories: Categories of the points of each panel; all with the same levels.
    """
    n_columns = min(4, max(2, len(panels)))
    n_rows = -(-len(panels) // n_columns)
    codes = np.concatenate([c.codes for c in categories])
    levels = categories[0].levels
    side = _WIDTH / n_columns
    n_lines = -(-min(len(np.unique(codes)), 40) // 4)
    figure = new_figure(_WIDTH, (side + 0.25) * n_rows + 0.2 * n_lines + 0.2)
    whole = Category(codes, levels)
    start = 0
    for position, axes in enumerate(panel_grid(figure, len(panels), n_columns)):
        title, xy = panels[position]
        panel_of(axes, xy, whole, slice(start, start + len(xy)), side)
        start += len(xy)
        axes.set_title(printable(title, 34), loc="left", fontsize=8, color=INK)
    shared_legend(figure, whole, n_columns=4)
    return to_png(figure)


_STUDY_WIDTH = 10.2  # inches: the width of the page


@dataclass(frozen=True)
class Curve:
    """One line: values over seeds by the number that was changed, and those without the change."""

    name: str
    values: Mapping[float, Sequence[float]]
    whole: Sequence[float] = ()


@dataclass(frozen=True, eq=False)
class Heat:
    """One table of numbers, NaN where there is none.

    `by_row`: whether each row has a scale of its own.
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
    figure = new_figure(_STUDY_WIDTH, 2.5 * n_rows + 0.25 * -(-len(names) // 4))
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
    figure = new_figure(_STUDY_WIDTH, (0.9 + 0.32 * tallest) * n_rows + 0.3)
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
