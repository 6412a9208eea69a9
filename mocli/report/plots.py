"""Charts of a run, and of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mocli.report import drawing
from mocli.report.drawing import (
    ACCENT,
    ALERT,
    FAINT,
    INK,
    RULE,
    Picture,
    dress,
    new_figure,
    panel_grid,
    printable,
    to_png,
    to_svg,
    wrapped,
)
from mocli.report.figures import metric_value
from mocli.report.ranking import Cell, Ranking, Row, compare, metric_title
from mocli.report.scatter import Category, panel_of, shared_legend
from mocli.types import DoubleArray, FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MAX_HEATMAP = 40
MAX_ANNOTATED = 16
_WIDTH = 10.2  # inches: the width of the page


def loss_curves(
    history: Mapping[str, Mapping[str, Mapping[str, Any]]], *, resumed_from: int | None = None
) -> str:
    """Draw every loss term over the steps, one panel for each term, as SVG.

    Args:
        history: `{phase: {term: {"step": [...], "value": [...]}}}`; values that are not finite (None, NaN)
            leave a gap.
        resumed_from: Step from which a checkpoint was continued: a dashed line, if there is one phase.
    """
    panels = [
        (term if len(history) == 1 else f"{phase}: {term}", curve)
        for phase, terms in history.items()
        for term, curve in terms.items()
    ]
    figure, grid = _panels(len(panels), height=1.75)
    for axes, (title, curve) in zip(grid, panels, strict=True):
        dress(axes, title=title)
        _curve(axes, np.asarray(curve["step"], float), np.asarray(curve["value"], float))
        if resumed_from is not None and len(history) == 1 and resumed_from <= axes.get_xlim()[1]:
            _mark(axes, resumed_from)
    figure.supxlabel("training step", fontsize=8.5, color=INK)
    return to_svg(figure)


def _mark(axes: Axes, step: int) -> None:
    axes.axvline(step, color=ALERT, linewidth=0.9, linestyle="--")
    note = axes.annotate(
        "resumed", (step, 1), xycoords=("data", "axes fraction"), xytext=(3, -8),
        textcoords="offset points", fontsize=7, color=ALERT,
    )  # fmt: skip
    note.set_in_layout(False)


def _curve(axes: Axes, step: DoubleArray, value: DoubleArray) -> None:
    finite = np.isfinite(value)
    if not finite.any():
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", color=FAINT, fontsize=8)
        return
    few = len(step) < 60
    axes.plot(step, value, color=ACCENT, linewidth=1.4 if few else 0.7, alpha=1.0 if few else 0.35)
    if not few:
        axes.plot(step[finite], _smooth(value[finite], len(step) // 25), color=ACCENT, linewidth=1.6)
    least, most = value[finite].min(), value[finite].max()
    if least > 0 and most > 30 * least:
        axes.set_yscale("log")
        axes.minorticks_off()
    axes.set_xlim(0, max(float(step[-1]), 1.0))
    axes.xaxis.set_major_locator(_whole_numbers())
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")


def _whole_numbers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=4, integer=True)


def _smooth(values: DoubleArray, window: int) -> DoubleArray:
    """Centred mean; near the ends, over the values that exist."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - window // 2, 0), np.minimum(index + window // 2 + 1, len(values))
    smoothed: DoubleArray = (sums[high] - sums[low]) / (high - low)
    return smoothed


def metric_bars(
    metrics: Mapping[str, Mapping[str, Any]], baselines: Mapping[str, Mapping[str, Any]], *, model: str
) -> str:
    """Draw metrics that the model and a baseline share as bars, one panel for each metric, as SVG.

    Titles say which direction is better; the best bar's figure is bold.
    """
    comparison = compare(metrics, baselines, model=model)
    rows = [row for row in comparison.rows if row.drawable]
    names = [wrapped(name, 26) for name in comparison.columns]
    line = 0.24 if all("\n" not in name for name in names) else 0.34
    figure, grid = _panels(len(rows), height=0.8 + line * len(names))
    for position, (axes, row) in enumerate(zip(grid, rows, strict=True)):
        dress(axes, title=f"{row.title}\N{NO-BREAK SPACE}{row.arrow}")
        _bars(axes, row, comparison.columns[0])
        axes.set_yticks(range(len(names)))
        first_column = position % _n_columns(len(rows)) == 0
        axes.set_yticklabels(names if first_column else [""] * len(names))
        axes.tick_params(axis="y", length=0)
    return to_svg(figure)


def _figure(cell: Cell, model: str) -> str:
    return (
        cell.text if cell.model is None else f"{cell.text} ({printable(model, 12)} there {cell.model_text})"
    )


def _bars(axes: Axes, row: Row, model: str) -> None:
    values = [cell.value for cell in row.cells]
    numbers = [v for v in values if v is not None]
    low, high = row.range or (None, None)
    low = min([0.0, *numbers]) if low is None or min(numbers) >= 0 else low
    # a bound of 300 would shrink bars of 15 to nothing; a share is read against the whole
    high = max([0.0, *numbers]) if high is None or high > 1 else high
    span = (high - low) or 1.0
    for i, cell in enumerate(row.cells):
        if cell.value is None:
            axes.text(low, i, " not measured", va="center", fontsize=7.5, color=FAINT)
            continue
        axes.barh(i, cell.value, height=0.68, color=ACCENT if i == 0 else "#b4bac4")
        axes.text(
            max(cell.value, 0.0) + 0.02 * span, i, _figure(cell, model), va="center", fontsize=7.5, color=INK,
            fontweight="bold" if cell.best else "normal",
        )  # fmt: skip
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.set_xlim(low, high + 0.22 * span)
    # numbers of ticks would overlap where one end is all but 0
    ends = [end for end in (low, high) if abs(end) > 0.12 * span]
    axes.set_xticks(sorted({0.0, *ends}) if low <= 0 <= high else [low, high])
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.3g}")
    axes.set_ylim(len(values) - 0.4, -0.6)


def label_heatmap(matrix: DoubleArray, rows: Sequence[str], columns: Sequence[str]) -> str:
    """Draw where the cells of every true label ended, as SVG.

    Args:
        matrix: Numbers of cells, `(n_rows, n_columns)`: rows true, columns transferred. Colours are shares of
            the row; the 40 largest rows and columns are shown.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.shape != (len(rows), len(columns)):
        raise ValueError(f"{matrix.shape} cells for {len(rows)} x {len(columns)} labels")
    totals = matrix.sum(axis=1)
    keep_rows = _largest(totals)
    # a column that nothing fell into stays where its row stands: the diagonal remains one
    named = np.isin(np.asarray(columns, dtype=object), np.asarray(rows, dtype=object)[keep_rows])
    keep_columns = _largest(matrix.sum(axis=0) + 0.5 * named)
    share = np.divide(matrix, totals[:, None], out=np.zeros_like(matrix), where=totals[:, None] > 0)
    share = share[np.ix_(keep_rows, keep_columns)]
    n_rows, n_columns = share.shape
    cell = 0.34 if max(n_rows, n_columns) <= 24 else 0.24
    figure = new_figure(max(2.6 + cell * n_columns, 4.5), max(2.0 + cell * n_rows, 2.8))
    axes = figure.subplots()
    dress(axes, frame=False)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="equal", interpolation="nearest")
    axes.set_xticks(
        range(n_columns),
        [printable(columns[j], 28) for j in keep_columns],
        rotation=60,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(n_rows), [f"{printable(rows[i], 28)} ({totals[i]:,.0f})" for i in keep_rows])
    axes.tick_params(length=0, labelsize=8 if cell > 0.3 else 6.5)
    axes.set_xticks(np.arange(n_columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n_rows + 1) - 0.5, minor=True)
    axes.tick_params(which="minor", length=0)
    axes.grid(visible=True, which="minor", color=RULE, linewidth=0.5)
    axes.set_ylabel("true label (cells)", fontsize=8.5, color=INK)
    axes.set_xlabel("transferred label", fontsize=8.5, color=INK)
    if max(n_rows, n_columns) <= MAX_ANNOTATED:
        for i, j in zip(*np.nonzero(share >= 0.005), strict=True):
            colour = "white" if share[i, j] > 0.55 else INK
            axes.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    return to_svg(figure)


def _largest(sizes: DoubleArray) -> Any:
    order = np.argsort(-sizes, kind="stable")[:MAX_HEATMAP]
    return np.sort(order[sizes[order] > 0])


def _n_columns(n: int) -> int:
    return 2 if n in (2, 4) else 3


def _panels(n: int, *, height: float) -> tuple[Any, list[Axes]]:
    n_columns = _n_columns(n)
    n_rows = max(-(-n // n_columns), 1)
    figure = new_figure(_WIDTH, height * n_rows + 0.3)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)  # type: ignore[union-attr,call-arg]
    return figure, panel_grid(figure, n, n_columns)


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
    return _bars_of_panels(names, panels, [_COLOURS.get(line.kind, FAINT) for line in lines])


def cost_bars(costs: Mapping[str, Mapping[str, Sequence[float]]]) -> Picture:
    """Draw the costs of runs, one panel for each cost, one bar for each method."""
    names = list(dict.fromkeys(name for by_method in costs.values() for name in by_method))
    panels = [
        (title, [tuple(by_method.get(name, ())) for name in names]) for title, by_method in costs.items()
    ]
    return _bars_of_panels(names, panels, [ACCENT] * len(names))


def _bars_of_panels(
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
            finite = np.isfinite(value)
            axes.text(
                j, i, metric_value(float(value)) if finite else "none", ha="center", va="center",
                fontsize=7.5, color="white" if finite and shade[i, j] > 0.75 else INK if finite else FAINT,
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
