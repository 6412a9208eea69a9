"""Charts of a benchmark: bars of many methods with their seeds, costs, embeddings side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

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
from mocli.types import FloatArray

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
    axes.xaxis.set_major_locator(_few_ticks())
    axes.set_ylim(len(values) - 0.4, -0.6)


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=4)


def side_by_side(panels: Sequence[tuple[str, FloatArray]], categories: Sequence[Category]) -> Picture:
    """Draw several layouts in the colours of one category, with one legend beneath.

    Parameters
    ----------
    panels
        Title and points `(n, 2)` of each.
    categories
        Categories of the points of each panel; all with the same levels.
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
