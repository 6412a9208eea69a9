"""Pictures of features: how well they are imputed or simulated, how they change, and along the genome."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mocli.report.drawing import (
    ACCENT,
    ALERT,
    FAINT,
    INK,
    RULE,
    Picture,
    chart,
    colours,
    dress,
    new_figure,
    panel_grid,
    printable,
    to_png,
    to_svg,
)
from mocli.types import BoolArray, DoubleArray, FloatArray, IntArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MAX_NAMED = 60
"""Most features drawn by name; of more, the distribution is drawn."""
MAX_ROWS = 40
MAX_COLUMNS = 24
_NAMED = 14
_LEAST_P = 1e-300
MAX_POINTS = 20_000
MAX_PARTNERS = 40
_BINS = 41
Moments = tuple[DoubleArray, DoubleArray]


def accuracy_dots(names: Sequence[str], ours: DoubleArray, beside: DoubleArray | None) -> Picture:
    """Draw the correlation of every feature, best on top, beside that of its linked feature.

    `ours`, `beside`: `(n_features,)`, NaN where undefined.
    """
    finite = np.flatnonzero(np.isfinite(ours))
    order = finite[np.argsort(ours[finite], kind="stable")]
    if len(order) > MAX_NAMED:
        return _distribution(ours[order], None if beside is None else beside[order])
    figure, axes = chart(7.2, 0.9 + 0.16 * max(len(order), 4), x="Pearson correlation with measured values")
    height = np.arange(len(order))
    if beside is not None:
        axes.hlines(height, ours[order], np.nan_to_num(beside[order], nan=np.nan), color=FAINT, linewidth=1)
        axes.plot(beside[order], height, "o", color=FAINT, markersize=4, label="linked feature")
    axes.plot(ours[order], height, "o", color=ACCENT, markersize=5, label="imputed")
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.set_yticks(height, [printable(names[j], 24) for j in order], fontsize=7)
    axes.set_ylim(-1, len(order))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return to_svg(figure)


def _distribution(ours: DoubleArray, beside: DoubleArray | None) -> Picture:
    figure, axes = chart(7.2, 2.6, x="Pearson correlation with measured values", y="features")
    bins = np.linspace(-1, 1, 81).tolist()
    axes.hist(ours, bins=bins, color=ACCENT, label=f"imputed, median {np.median(ours):.2f}")
    if beside is not None and np.isfinite(beside).any():
        finite = beside[np.isfinite(beside)]
        label = f"linked feature, median {np.median(finite):.2f} ({len(finite):,} features)"
        axes.hist(finite, bins=bins, histtype="step", color=INK, label=label)
    axes.set_xlim(min(-0.2, float(ours.min())), 1)
    axes.legend(frameon=False, fontsize=8)
    return to_svg(figure)


def scatter(
    predicted: FloatArray,
    measured: FloatArray,
    names: Sequence[str],
    ends: tuple[FloatArray, FloatArray] | None = None,
) -> Picture:
    """Draw measured over imputed values of a few features, one panel each.

    Args:
        predicted, measured: `(n_cells, n_features)`.
        ends: Lower and upper ends of the intervals, `(n_cells, n_features)` each.
    """
    n = max(len(names), 1)
    figure = new_figure(2.6 * n, 2.6)
    for j, axes in enumerate(np.atleast_1d(figure.subplots(1, n))):
        if j >= len(names):
            break
        finite = np.isfinite(measured[:, j])
        x, y = predicted[finite, j], measured[finite, j]
        r = np.corrcoef(x, y)[0, 1] if len(x) > 2 and x.std() > 0 and y.std() > 0 else np.nan
        dress(axes, title=f"{printable(names[j], 20)}, r = {r:.2f}", x="imputed", y="" if j else "measured")
        if ends is not None:
            order = np.argsort(x)
            low, high = (end[finite, j][order] for end in ends)
            axes.fill_between(x[order], low, high, color=ACCENT, alpha=0.12, linewidth=0)
        axes.plot(x, y, ".", color=ACCENT, markersize=3, alpha=0.6, rasterized=True)
        low, high = (float(f(np.concatenate([x, y]))) for f in (np.min, np.max)) if len(x) else (0.0, 1.0)
        axes.plot([low, high], [low, high], color=FAINT, linewidth=0.8)
    return to_png(figure)


def mean_variance(panels: Sequence[tuple[str, Moments, Moments]]) -> Picture:
    """Draw variance over mean of every feature, real cells in grey, simulated ones in colour.

    `panels`: title, mean and variance of each feature in real cells, `(p,)` each, and in simulated ones.
    """
    n = max(len(panels), 1)
    figure = new_figure(3.4 * n, 3.0)
    for axes, (title, real, simulated) in zip(np.atleast_1d(figure.subplots(1, n)), panels, strict=True):
        dress(axes, title=printable(title, 40), x="mean", y="variance")
        for (mean, variance), colour, name in ((real, FAINT, "real"), (simulated, ACCENT, "simulated")):
            positive = (mean > 0) & (variance > 0)
            axes.plot(
                mean[positive], variance[positive], ".", color=colour, markersize=3, alpha=0.5, label=name,
                rasterized=True,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    return to_png(figure)


def volcano(
    shift: DoubleArray, p: DoubleArray, names: Sequence[str], up: BoolArray, significant: BoolArray
) -> Picture:
    """Draw -log10 p over the shift, `(n,)` each; the farthest are named.

    Args:
        up: Whether the feature was raised.
        significant: Whether its FDR is small.
    """
    finite = np.isfinite(p)
    height = -np.log10(np.maximum(np.where(finite, p, 1.0), _LEAST_P))
    figure, axes = chart(7.2, 3.6, x="shift towards the target group", y="-log10 p")
    # red is up and blue is down, as in the field
    for side, mark, word, strong_color in ((up, "^", "raised", ALERT), (~up, "v", "lowered", ACCENT)):
        for strong, color in ((False, FAINT), (True, strong_color)):
            chosen = side & (significant == strong)
            if chosen.any():
                label = f"{word}, FDR below 5%" if strong else word
                axes.plot(
                    shift[chosen], height[chosen], mark, color=color, markersize=3.5, alpha=0.7, label=label,
                    linestyle="none",
                )  # fmt: skip
    far = np.argsort(-np.abs(shift) * (height + 0.1), kind="stable")[:_NAMED]
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.legend(frameon=False, fontsize=7, loc="best")
    _name_points(axes, shift[far], height[far], [names[k] for k in far])
    return to_png(figure)


def _name_points(
    axes: Axes, x: DoubleArray, y: DoubleArray, names: Sequence[str], *, color: str = INK
) -> None:
    """Write names beside points, the first first, where no earlier name is; one without room is left out."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # settles where the axes lie
    taken: list[Any] = []
    for name, at in zip(names, zip(x, y, strict=True), strict=True):
        for side, level in itertools.product((1, -1), (1, -1)):
            text = axes.annotate(
                printable(name, 24), at, xytext=(3 * side, 3 * level), textcoords="offset points",
                fontsize=6.5, color=color, ha="left" if side > 0 else "right",
                va="bottom" if level > 0 else "top",
            )  # fmt: skip
            text.set_in_layout(False)
            box = text.get_window_extent()
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
            inside = inside and figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def heat_map(values: DoubleArray, rows: Sequence[str], columns: Sequence[str], *, label: str) -> Picture:
    """Draw a table of numbers in red (above 0) and blue, `(n_rows, n_columns)`; NaN is left white."""
    n_rows, n_columns = values.shape
    figure, axes = chart(min(10.0, 2.6 + 0.42 * n_columns), 1.3 + 0.17 * max(n_rows, 8), frame=False)
    largest = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.0
    bound = largest or 1.0
    shown = axes.imshow(
        np.ma.masked_invalid(values),
        cmap="RdBu_r",
        vmin=-bound,
        vmax=bound,
        aspect="auto",
        interpolation="none",
    )
    axes.set_yticks(range(n_rows), [printable(name, 40) for name in rows], fontsize=6.5)
    axes.set_xticks(
        range(n_columns), [printable(name, 28) for name in columns], fontsize=7, rotation=60, ha="right"
    )
    bar = figure.colorbar(shown, ax=axes, shrink=0.6 if n_rows > 16 else 1.0, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(label, fontsize=7.5, color=INK)
    return to_svg(figure)


def against_truth(panels: Sequence[tuple[str, DoubleArray, DoubleArray, Sequence[str]]]) -> Picture:
    """Draw measured over predicted changes, one panel for each perturbation.

    `panels`: title, predicted `(n,)`, measured `(n,)`, names of the features.
    """
    n = max(len(panels), 1)
    width = min(n, 3)
    depth = -(-n // width)
    figure = new_figure(10.0 if width > 1 else 4.0, 2.7 * depth)
    grid = panel_grid(figure, len(panels), width)
    for axes, (title, predicted, measured, _) in zip(grid, panels, strict=True):
        dress(axes, title=title)
        axes.axhline(0, color=FAINT, linewidth=0.6)
        axes.axvline(0, color=FAINT, linewidth=0.6)
        axes.plot(predicted, measured, ".", color=ACCENT, markersize=3, alpha=0.6, linestyle="none")
        axes.set_xlabel("predicted", fontsize=7.5, color=INK)
        axes.set_ylabel("measured", fontsize=7.5, color=INK)
    # once every panel has its place
    for axes, (_, predicted, measured, names) in zip(grid, panels, strict=True):
        far = np.argsort(-np.abs(measured), kind="stable")[:4]
        _name_points(axes, predicted[far], measured[far], [names[k] for k in far], color=ALERT)
    return to_png(figure)


def distance_plot(
    distance: IntArray, correlation: DoubleArray, *, seed: int = 0, label: str = "correlation"
) -> Picture:
    """Draw the correlation of every pair over the distance to the TSS, with median and quartiles.

    Args:
        distance, correlation: `(n_pairs,)`; undefined correlations are left out.
        label: The quantity drawn, if it is not a correlation.
    """
    finite = np.isfinite(correlation)
    far, correlation = distance[finite] / 1000, correlation[finite]
    shown = np.arange(len(far))
    if len(shown) > MAX_POINTS:
        shown = np.random.default_rng(seed).choice(len(shown), MAX_POINTS, replace=False)
    figure, axes = chart(7.2, 3.0, x="distance to the TSS, kb (negative: upstream)", y=label)
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
    return to_png(figure)


def correlation_histogram(correlation: DoubleArray, significant: BoolArray) -> Picture:
    """Draw how correlations are distributed, `(n_pairs,)`, and those of small FDR apart."""
    finite = np.isfinite(correlation)
    figure, axes = chart(7.2, 2.6, x="correlation of imputed with measured", y="pairs")
    bins = np.linspace(-1, 1, 81).tolist()
    axes.hist(correlation[finite], bins=bins, color=FAINT, label="all pairs tested")
    axes.hist(correlation[finite & significant], bins=bins, color=ACCENT, label="matched FDR below 5%")
    axes.legend(frameon=False, fontsize=8)
    return to_svg(figure)


def strongest_partners(pairs: Sequence[str], correlation: DoubleArray, significant: BoolArray) -> Picture:
    """Draw one line for each pair, the first on top; at most 40.

    Args:
        pairs: What to write beside each line.
        correlation, significant: `(n_lines,)`.
    """
    n = min(len(pairs), MAX_PARTNERS)
    figure, axes = chart(7.2, 0.9 + 0.17 * max(n, 4), x="correlation of imputed with measured")
    height = np.arange(n)[::-1]
    axes.hlines(height, 0, correlation[:n], color=FAINT, linewidth=1)
    for group, color, label in (
        (significant[:n], ACCENT, "matched FDR below 5%"),
        (~significant[:n], ALERT, "not"),
    ):
        if group.any():
            axes.plot(correlation[:n][group], height[group], "o", color=color, markersize=4, label=label)
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.set_yticks(height, [printable(text, 48) for text in pairs[:n]], fontsize=7)
    axes.set_ylim(-1, max(n, 1))
    if n:
        axes.legend(frameon=False, fontsize=8, loc="best")
    return to_svg(figure)


def share_histograms(panels: Sequence[tuple[str, FloatArray, Sequence[float]]]) -> Picture:
    """Draw how shares between 0 and 1 are distributed over cells, one panel each.

    `panels`: what the shares are, their values `(n_cells,)`, and where dashed lines mark thresholds.
    """
    figure = new_figure(3.6 * len(panels), 2.6)
    for axes, (what, values, marks) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        dress(axes, x=what, y="cells")
        axes.hist(values[np.isfinite(values)], bins=np.linspace(0, 1, 41).tolist(), color=ACCENT)
        for mark in marks:
            axes.axvline(mark, color=ALERT, linewidth=1.2, linestyle="--")
        axes.set_xlim(0, 1)
    return to_svg(figure)


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
    finite = [np.abs(values[np.isfinite(values)]) for values in by_group.values()]
    return max((float(values.max(initial=0)) for values in finite), default=0) or 1.0


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
