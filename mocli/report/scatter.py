"""Pictures of a two-dimensional layout of cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mocli.report.drawing import (
    FAINT,
    INK,
    MAX_LEVELS,
    OTHER,
    UNKNOWN,
    Picture,
    colours,
    dress,
    new_figure,
    panel_grid,
    printable,
    rgb,
    to_png,
    to_svg,
    wrapped,
)
from mocli.report.figures import plural
from mocli.types import DoubleArray, FloatArray, IntArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_SVG_POINTS = 2_000
MAX_POINTS = 150_000
"""More points than pixels show no more: a seeded sample is drawn."""

NOT_KNOWN = "not known"
_NUMBERED_FROM = 9
_WIDTH = 10.2  # inches: the width of the page
_LEGEND, _LETTERS = 1.7, 20  # inches of a legend beside half a page, and letters that have room there
_SMALL, _LARGE = 3.1, 5.6  # inches of the square that holds the points: without and with numbers


@dataclass(frozen=True)
class Category:
    """A category of cells.

    Attributes:
        codes: Level of each cell, `(n,)`; -1 is none of them.
        levels: Names; one called unknown is light grey.
        others: What cells of none of them are.
    """

    codes: IntArray
    levels: Sequence[str]
    others: str = NOT_KNOWN

    def __post_init__(self) -> None:
        if len(self.codes) and not -1 <= self.codes.min() <= self.codes.max() < len(self.levels):
            raise ValueError(f"codes must lie in -1..{len(self.levels) - 1}")


@dataclass(frozen=True)
class _Key:
    """A legend, and each cell's entry in it."""

    entries: IntArray  # (n,), last entries are drawn first
    colours: DoubleArray  # (n_entries, 3)
    names: list[str]
    counts: IntArray
    n_named: int  # entries before 'others' and 'not known'

    @property
    def marks(self) -> list[str]:
        """Marks of the entries in a crowded picture: the name if it is a number, or the position."""
        named = self.names[: self.n_named]
        return named if all(name.isdigit() for name in named) else [str(i + 1) for i in range(self.n_named)]


def by_category(xy: FloatArray, category: Category, *, axis: str = "", seed: int = 0) -> Picture:
    """Draw a layout coloured by a category, with a legend of names and numbers of cells.

    Points come in a seeded random order, so that no class hides another; those
    not known lie beneath. Above nine levels, numbers at central cells and in the
    legend help where colours are alike; above thirty, the smallest levels share
    one grey.

    Args:
        xy: `(n, 2)`; rows that are not finite are left out.
        axis: What the two dimensions are called; places in a tissue need no name.

    Returns:
        str or bytes: Half the page wide, or all of it with numbers; SVG up to 2,000 points, PNG above.
    """
    key = _key(category)
    numbered = key.n_named >= _NUMBERED_FROM
    side = _LARGE if numbered else _SMALL
    # a common width, so that pictures side by side have panels of one size: names are wrapped to it
    longest = max((len(printable(n, 34)) for n in key.names), default=0)
    legend_width = max(_LEGEND, 1.25 + 0.072 * longest) if numbered else _LEGEND
    figure, axes = _square(side, legend_width, axis)
    shown = _draw_order(xy, seed)
    # stable: within named and unnamed the random order stays
    shown = shown[np.argsort(key.entries[shown] < key.n_named, kind="stable")]
    _points(axes, xy[shown], key.colours[key.entries[shown]], side)
    if numbered:
        _numbers(axes, xy, key, side)
    _legend(figure, key, side, numbered=numbered)
    return _picture(figure, len(shown))


def by_value(
    xy: FloatArray, values: DoubleArray | FloatArray, label: str, *, axis: str = "", seed: int = 0
) -> Picture:
    """Draw a layout coloured by a number of each cell, `(n,)`; cells without one lie beneath in grey.

    Colours end at the 1st and the 99th percentile. Half the page wide.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure, axes = _square(_SMALL, _LEGEND, axis)
    shown = _draw_order(xy, seed)
    finite = np.isfinite(values)
    shown = shown[np.argsort(finite[shown], kind="stable")]
    low, high = np.percentile(values[finite], (1, 99)) if finite.any() else (0.0, 1.0)
    scale = Normalize(low, high if high > low else low + 1, clip=True)
    shades = np.tile(rgb(UNKNOWN), (len(values), 1))
    shades[finite] = colormaps["viridis"](scale(np.asarray(values)[finite]))[:, :3]
    _points(axes, xy[shown], shades[shown], _SMALL)
    width = figure.get_size_inches()[0]
    beside = figure.add_axes(((_SMALL + 0.4) / width, 0.2, 0.12 / width, 0.5))
    bar = figure.colorbar(ScalarMappable(scale, colormaps["viridis"]), cax=beside)
    bar.ax.tick_params(labelsize=7.5, colors=INK)
    bar.outline.set_visible(False)
    beside.set_title(wrapped(label, 22), loc="left", fontsize=8, color=INK)
    return _picture(figure, len(shown))


def by_modality(
    xy: FloatArray, modality: Category, *, colour_by: Category | None = None, axis: str = "", seed: int = 0
) -> Picture:
    """Draw one panel per modality, its cells coloured before all others in grey.

    Colours are those of `colour_by` (the same as in `by_category`), or of the modality.
    """
    key = _key(colour_by or modality)
    n_panels = len(modality.levels)
    n_columns = min(n_panels, 3)
    n_rows = -(-n_panels // n_columns)
    side = min(_WIDTH / n_columns, 4.3)
    figure = new_figure(side * n_columns, (side + 0.2) * n_rows)
    shown = _draw_order(xy, seed)
    for code, axes in enumerate(panel_grid(figure, n_panels, n_columns)):
        _bare(axes, axis)
        of_modality = shown[modality.codes[shown] == code]
        others = shown[modality.codes[shown] != code]
        _points(axes, xy[others], np.tile(rgb(UNKNOWN), (len(others), 1)), side, len(shown))
        _points(axes, xy[of_modality], key.colours[key.entries[of_modality]], side, len(shown))
        total = int((modality.codes == code).sum())
        axes.set_title(
            f"{printable(modality.levels[code], 30)} ({total:,} cells)", loc="left", fontsize=9.5, color=INK
        )
        _window(axes, xy[shown])
    return _picture(figure, len(shown) * n_panels)


def panel_of(
    axes: Axes, xy: FloatArray, category: Category, span: slice, side: float, *, seed: int = 0
) -> None:
    """Draw one layout on axes, in the colours that a category of many layouts has.

    Args:
        xy: `(n, 2)`.
        own: The part of the category's codes that belongs to these points.
        side: Side of the panel, in inches.
    """
    key = _key(category)
    entries = key.entries[span]
    shown = _draw_order(xy, seed)
    shown = shown[np.argsort(entries[shown] < key.n_named, kind="stable")]
    _bare(axes, "UMAP")
    _points(axes, xy[shown], key.colours[entries[shown]], side)
    _window(axes, xy[shown])


def shared_legend(figure: Figure, category: Category, *, n_columns: int) -> None:
    """Name the colours of `panel_of` beneath all panels."""
    from matplotlib.lines import Line2D

    key = _key(category)
    handles = [Line2D([], [], marker="o", linestyle="", markersize=5, color=tuple(c)) for c in key.colours]
    figure.legend(
        handles, [printable(name, 30) for name in key.names], loc="outside lower left", ncols=n_columns,
        frameon=False, fontsize=7.2, labelcolor=INK, handletextpad=0.3, labelspacing=0.3,
    )  # fmt: skip


def _key(category: Category) -> _Key:
    codes, levels = category.codes, list(category.levels)
    counts = np.bincount(codes[codes >= 0], minlength=len(levels))
    levels_shown = np.flatnonzero(counts)
    if len(levels_shown) > MAX_LEVELS:
        largest = levels_shown[np.argsort(-counts[levels_shown], kind="stable")[: MAX_LEVELS - 1]]
        levels_shown = np.sort(largest)
    n_rest = int(np.count_nonzero(counts)) - len(levels_shown)
    palette = colours(len(levels)) if len(levels) <= MAX_LEVELS else None
    shades = [*(palette[levels_shown] if palette is not None else colours(len(levels_shown)))]
    names = [levels[k] for k in levels_shown]
    shades = [
        np.array(rgb(UNKNOWN)) if n.lower() == "unknown" else c for n, c in zip(names, shades, strict=True)
    ]
    entry_of = np.full(len(levels) + 1, len(levels_shown))
    entry_of[levels_shown] = np.arange(len(levels_shown))
    if n_rest:
        names.append(plural(n_rest, "smaller level"))
        shades.append(np.array(rgb(OTHER)))
    if (codes < 0).any():
        entry_of[-1] = len(names)  # codes of -1 index the last place
        names.append(category.others)
        shades.append(np.array(rgb(UNKNOWN)))
    entries = entry_of[codes]
    sizes = np.bincount(entries, minlength=len(names))
    return _Key(entries, np.array(shades).reshape(-1, 3), names, sizes, len(levels_shown))


def _draw_order(xy: FloatArray, seed: int) -> IntArray:
    finite = np.flatnonzero(np.isfinite(xy).all(axis=1))
    return np.random.default_rng(seed).permutation(finite)[:MAX_POINTS]


def _points(axes: Axes, xy: FloatArray, shades: DoubleArray, side: float, n: int | None = None) -> None:
    """Scatter with a size that follows the number of points drawn, `n`, and the panel's side in inches."""
    size = float(np.clip(14 * side**2 / np.sqrt(max(len(xy) if n is None else n, 1)), 0.5, 22.0))
    axes.scatter(xy[:, 0], xy[:, 1], s=size, c=shades, linewidths=0)


def _numbers(axes: Axes, xy: FloatArray, key: _Key, side: float) -> None:
    from matplotlib.patheffects import withStroke

    finite = np.isfinite(xy).all(axis=1)
    centres = {
        entry: _most_central(xy[chosen])
        for entry in range(key.n_named)
        if (chosen := finite & (key.entries == entry)).any()
    }
    if not centres:
        return
    corners = axes.transLimits.transform(np.array([*centres.values()]))
    spread = axes.transLimits.inverted().transform(_apart(corners, gap=0.24 / side))
    halo = [withStroke(linewidth=2.2, foreground="white")]
    for entry, (x, y) in zip(centres, spread, strict=True):
        axes.text(
            x, y, key.marks[entry], fontsize=8, fontweight="bold", color=INK,
            ha="center", va="center", path_effects=halo,
        )  # fmt: skip


def _most_central(xy: FloatArray) -> FloatArray:
    """Return the point nearest to the medians, `(n, 2)` to `(2,)`: cells in two places have none between."""
    return xy[np.square(xy - np.median(xy, axis=0)).sum(1).argmin()]


def _apart(points: DoubleArray, *, gap: float) -> DoubleArray:
    """Move points `(n, 2)` apart until none are nearer than `gap`, or for 100 rounds."""
    points = points.copy()
    for _ in range(100):
        difference = points[:, None] - points[None]
        distance = np.linalg.norm(difference, axis=2)
        too_close = (distance < gap) & ~np.eye(len(points), dtype=bool)
        if not too_close.any():
            break
        # points in one place have no direction: the earlier goes left
        same = too_close & (distance < 1e-9)
        difference[same, 0] = np.sign(np.subtract.outer(np.arange(len(points)), np.arange(len(points))))[same]
        distance[same] = 1.0
        push = np.where(
            too_close, 0.26 * (gap - np.minimum(distance, gap) * ~same) / np.maximum(distance, 1e-9), 0
        )
        points += (push[:, :, None] * difference).sum(axis=1)
    return points


def _square(side: float, legend_width: float, axis: str) -> tuple[Figure, Axes]:
    left = 0.2 if axis else 0.1
    width, height = side + left + 0.1 + legend_width, side + left + 0.1
    figure = new_figure(width, height, constrained=False)
    axes = figure.add_axes((left / width, left / height, side / width, side / height))
    _bare(axes, axis)
    return figure, axes


def _legend(figure: Figure, key: _Key, side: float, *, numbered: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], marker="o", linestyle="", markersize=6.5, color=tuple(c)) for c in key.colours]
    marks = [""] * len(key.names)
    if numbered:
        marks[: key.n_named] = [
            "" if mark == name else f"{mark}  " for mark, name in zip(key.marks, key.names, strict=False)
        ]
    texts = [
        f"{mark}{printable(name, 34)}  ({count:,})"
        for mark, name, count in zip(marks, key.names, key.counts, strict=True)
    ]
    labels = texts if numbered else [wrapped(text, _LETTERS) for text in texts]
    width = figure.get_size_inches()[0]
    small = len(labels) > 22
    figure.legend(
        handles, labels, loc="center left", bbox_to_anchor=((side + 0.35) / width, 0.5),
        frameon=False, fontsize=7.2 if small else 8.5, labelcolor=INK, handletextpad=0.3,
        labelspacing=0.28 if small else 0.45, borderaxespad=0,
    )  # fmt: skip


def _bare(axes: Axes, axis: str) -> None:
    dress(axes, frame=False)
    axes.set_xticks([])
    axes.set_yticks([])
    if axis:
        axes.set_xlabel(f"{axis} 1", fontsize=7, color=FAINT, loc="left", labelpad=2)
        axes.set_ylabel(f"{axis} 2", fontsize=7, color=FAINT, loc="bottom", labelpad=2)
    for spine in axes.spines.values():
        spine.set(visible=True, color=FAINT, linewidth=0.4)


def _window(axes: Axes, xy: FloatArray) -> None:
    if len(xy):
        low, high = xy.min(axis=0), xy.max(axis=0)
        pad = np.maximum(0.04 * (high - low), 1e-3)
        axes.set_xlim(low[0] - pad[0], high[0] + pad[0])
        axes.set_ylim(low[1] - pad[1], high[1] + pad[1])


def _picture(figure: Figure, n_points: int) -> Picture:
    return to_svg(figure) if n_points <= MAX_SVG_POINTS else to_png(figure)


def is_wide(category: Category) -> bool:
    """Say whether `by_category` fills the page: it has so many levels that they are numbered."""
    return len(np.unique(category.codes[category.codes >= 0])) >= _NUMBERED_FROM
