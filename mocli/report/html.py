"""The HTML report: one file, no script, nothing fetched, readable by a biologist."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

from mocli.report import figures, plots, scatter
from mocli.report.drawing import Picture, css_width, data_uri, show
from mocli.report.file import Report, write_text
from mocli.report.ranking import Comparison, Ranking, compare, metric_title
from mocli.types import FloatArray, IntArray

if TYPE_CHECKING:
    from jinja2 import Environment

Confusion = Mapping[str, tuple[Any, Sequence[str], Sequence[str]]]

_FILTERS = {
    "breakable": lambda name: escape(name).replace("_", Markup("_<wbr>")),
    "cell": figures.cell,
    "count": figures.count,
    "duration": figures.duration,
    "loss_value": figures.loss_value,
    "plural": figures.plural,
    "size": figures.size,
    "stop_reason": figures.stop_reason,
    "value": figures.value,
}
_HOW_TO_SEE = {
    "modality": "Where the modalities are integrated, their colours lie on top of each other.",
    "batch": "Where batches are corrected, their colours are mixed within every group.",
    "origin": "Simulated cells should lie on top of the real cells of their label, as widely spread.",
    "query": "Where the query fits, it lies on top of the reference; cells that lie apart are a new type, "
    "or a batch effect.",
    "label": "Where biology is kept, every label forms a separate group.",
}

_AXIS = "UMAP"

_REPEATABLE = {
    "bitwise": "the same command with as many threads gives the same bytes on this kind of machine, with "
    "another number of threads the same up to rounding",
    "statistical": "the same command gives the same result up to small noise",
}


@dataclass(frozen=True, eq=False)
class Layout:
    """Cells in two dimensions, for the pictures.

    Attributes:
        title: Names the dimensions and the number of cells.
        xy: `(n, 2)`.
        categories: Codes `(n,)`, -1 where not known, and level names; by a title that starts with `modality`,
            `label` or `batch`. `modality` is drawn in panels too.
        values: Numbers `(n,)`, NaN where not known, by title.
        points: What a point stands for.
        others: What the cells of code -1 are, by title of a category; else "not known".
    """

    title: str
    xy: FloatArray
    categories: Mapping[str, tuple[IntArray, Sequence[str]]] = field(default_factory=dict)
    values: Mapping[str, FloatArray] = field(default_factory=dict)
    points: str = "One point for each cell and modality; a cell measured in two modalities has two points"
    others: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Shown:
    """A picture on the page."""

    src: str
    title: str
    caption: str
    wide: bool = False
    width: int | None = None


@dataclass(frozen=True)
class Drawn:
    """A picture that a task has drawn, with its title and caption."""

    picture: Picture
    title: str
    caption: str
    wide: bool = True


_IN_A_TABLE = "silencing_auprc["
"""Figures that begin so are for programs: the page shows them in a table of their own."""

_OF_INPUTS = ("layer", "values", "n_empty", "transform")
"""What is shown of inputs where a run has found it out."""


def render(
    report: Report,
    *,
    layout: Layout | None = None,
    confusion: Confusion | None = None,
    drawn: Sequence[Drawn] = (),
    rankings: Mapping[str, Ranking] | None = None,
) -> str:
    """Return the page.

    Args:
        layout: Cells to draw; None leaves the pictures out.
        confusion: By direction (`rna->prot`): numbers of cells `(n_rows, n_columns)`, true labels,
            transferred labels.
        drawn: Pictures of this task's own results.
        rankings: Methods by metrics, for each task.
    """
    values = report.as_dict()
    model = (values["model"] or {}).get("title") or (values["model"] or {}).get("name") or figures.THIS_RUN
    shown = {key: entry for key, entry in values["metrics"].items() if not key.startswith(_IN_A_TABLE)}
    comparison = compare(shown, values["baselines"], model=model)
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=values,
            model_title=model,
            command=shlex.join(values["command"]),
            answer=_answer(values, comparison),
            advice=_advice(values, comparison),
            summary=_summary(values, model),
            tables={name: _as_shown(table) for name, table in values["tables"].items()},
            comparison=comparison,
            losses=_losses(values["training"]),
            bars=_bars(values, comparison, model),
            pictures=_pictures(layout) if layout else [],
            layout_title=f"{layout.title}. {layout.points}" if layout else "",
            heatmaps=_heatmaps(confusion or {}),
            results=[_shown(d.picture, d.title, d.caption, wide=d.wide) for d in drawn],
            ran=_ran(values),
            rankings=rankings or {},
            known=[key for key in _OF_INPUTS if any(one[key] is not None for one in values["inputs"])],
            metric_title=metric_title,
            MOST_ROWS=MOST_ROWS,
            MOST_COLUMNS=MOST_COLUMNS,
        )
    )


def write(path: str | os.PathLike[str], html: str) -> None:
    """Write the page atomically; `EnvironmentProblem` if that cannot be."""
    write_text(path, html)


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mocli.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= _FILTERS
    return environment


def _summary(values: Mapping[str, Any], model: str) -> str:
    """Return what was done, in one or two sentences."""
    inputs, training = values["inputs"], values["training"]
    parts = []
    if inputs:
        totals: dict[str, int] = {}
        for one in inputs:  # a modality may lie in several files
            totals[one["modality"]] = totals.get(one["modality"], 0) + one["n_obs"]
        cells = figures.join([f"{figures.count(n)} {name} cells" for name, n in totals.items()])
        parts.append(f"{model} was given {cells}" if values["model"] else f"Read {cells}")
        matched = sum(link["n_matched"] or 0 for link in values["links"])
        if values["links"]:
            parts[-1] += f", tied together by {figures.plural(matched, 'feature link')}"
    if training and training["steps"] is not None:
        took = values["timing"].get("train_s")
        time = f" in {figures.duration(took)}" if took is not None else ""
        where = f" on {values['device']['used']}" if values["device"] and values["device"]["used"] else ""
        steps = training["steps"]
        done = f"trained for {figures.plural(steps, 'step')}" if steps else "was fitted in closed form"
        parts.append(f"It {done}{time}{where}")
    return ". ".join(parts) + ("." if parts else "")


def _answer(values: Mapping[str, Any], comparison: Comparison) -> str:
    """Return the run's conclusion, or else the first figure with that of the best simple way."""
    if values["status"] != "ok":
        return ""
    if values["conclusion"] is not None:
        return str(values["conclusion"])
    for row in comparison.rows:
        ours, others = (
            row.cells[0],
            [(c, name) for c, name in zip(row.cells, comparison.columns, strict=True)],
        )
        rivals = [
            (c.value, c.text, name) for c, name in others[1:] if c.value is not None and c.model is None
        ]
        if ours.value is None or row.better is None:
            continue
        sentence = f"{row.title} {ours.text} ({row.better} is better)"
        if not rivals:
            return sentence + "."
        value, text, name = (max if row.better == "higher" else min)(rivals, key=lambda rival: rival[0])
        better = ours.value > value if row.better == "higher" else ours.value < value
        word = "as good as" if ours.text == text else "better than" if better else "not as good as"
        return f"{sentence}, {word} {name} ({text})."
    return ""


_NEXT = {
    "integrate": "the latent coordinates are in obsm of the output: sc.pp.neighbors(use_rep=...) takes "
    "them as they are",
    "impute": "how far each feature can be trusted stands in var of the output",
    "perturb": "the table next to this page holds every perturbation; start with those of a small FDR",
    "gene2peak": "the table next to this page holds every pair; start with those of a small FDR",
    "simulate": "compare simulated cells with real ones, below, before you use them as data",
    "benchmark": "run the best method alone with the same options",
}


def _advice(values: Mapping[str, Any], comparison: Comparison) -> str:
    """Return advice on what to do next."""
    if values["status"] != "ok":
        return ""
    if values["advice"] is not None:
        return str(values["advice"])
    if comparison.losses and values["task"] in {"integrate", "impute"}:
        trained = (values["training"] or {}).get("steps")  # a closed form has no steps
        return (
            "Where a simple way is better, try another model (-m, or let mocli benchmark compare them on "
            f"these data){' or more training (--max-steps)' if trained else ''}, or use the simple way."
        )
    advice = _NEXT.get(str(values["task"]), "")
    return advice[:1].upper() + advice[1:] + "." if advice else ""


MOST_ROWS, MOST_COLUMNS = 12, 10
"""Rows that a table shows without scrolling; columns in letters of the usual size."""

_FIRST = ("z", "p", "fdr", "fdr_matched", "p_matched")


def _as_shown(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a table as it is shown: which columns hold no words, and of many, z, p and FDR first."""
    leading = _leading_columns(table)
    columns = zip(*leading["rows"], strict=True)
    words = {i for i, column in enumerate(columns) if any(isinstance(cell, str) for cell in column)}
    return {**leading, "numeric": set(range(len(leading["columns"]))) - words}


def _leading_columns(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a table with z, p and FDR behind the names if there are many columns."""
    columns, rows = table["columns"], table["rows"]
    if len(columns) < 9 or not any(c in columns for c in _FIRST):
        return table
    names = next((i for i in range(len(columns)) if any(not isinstance(r[i], str) for r in rows)), 1)
    shown = [i for i in range(names) if columns[i] not in _FIRST]
    shown += [columns.index(c) for c in _FIRST if c in columns]
    shown += [i for i in range(len(columns)) if i not in shown]
    return {**table, "columns": [columns[i] for i in shown], "rows": [[r[i] for i in shown] for r in rows]}


def _ran(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return where and how it ran, by name."""
    device = values["device"] or {}
    same = values["determinism"] or {}
    used = device.get("used")
    if used and device["name"]:
        used = f"{used} ({device['name']})"
    pairs = [
        ("device", used),
        ("device asked for", device.get("requested")),
        ("threads", device.get("threads")),
        ("time expected", figures.duration(device.get("expected_seconds"))),
        ("memory expected", figures.size(device.get("expected_memory_bytes"))),
        ("peak memory", figures.size(device.get("peak_memory_bytes"))),
        ("peak GPU memory", figures.size(device.get("gpu_peak_memory_bytes"))),
        ("seed", values["seed"]),
        ("repeatable", _REPEATABLE.get(same.get("level", ""))),
        ("sha256 of the latent", same.get("latent_sha256")),
    ]
    return [(name, what) for name, what in pairs if what not in (None, figures.NOTHING)]


def _losses(training: Mapping[str, Any] | None) -> _Shown | None:
    history = {phase: terms for phase, terms in ((training or {}).get("history") or {}).items() if terms}
    if training is None or not history:
        return None
    picture = plots.loss_curves(history, resumed_from=training["resumed_from_step"])
    return _shown(picture, "Loss terms during training", "", wide=True)


def _bars(values: Mapping[str, Any], comparison: Comparison, model: str) -> _Shown | None:
    if not values["baselines"] or not any(row.drawable for row in comparison.rows):
        return None
    picture = plots.metric_bars(values["metrics"], values["baselines"], model=model)
    return _shown(picture, "Metrics beside the baselines", "", wide=True)


def _pictures(layout: Layout) -> list[_Shown]:
    categories = {
        title: scatter.Category(np.asarray(codes), levels, layout.others.get(title, scatter.NOT_KNOWN))
        for title, (codes, levels) in layout.categories.items()
    }
    shown = []
    # the half-page pictures first: they stand side by side
    for title, category in sorted(categories.items(), key=lambda item: scatter.is_wide(item[1])):
        picture = scatter.by_category(layout.xy, category, axis=_AXIS)
        caption = _HOW_TO_SEE.get(title.split()[0], "")
        shown.append(_shown(picture, f"Cells by {title}", caption, wide=scatter.is_wide(category)))
    for title, values in layout.values.items():
        if np.isfinite(values).any():
            shown.append(
                _shown(scatter.by_value(layout.xy, values, title, axis=_AXIS), f"Cells by {title}", "")
            )
    modality = categories.get("modality")
    if modality is not None and 1 < len(modality.levels) <= 9:
        label = next((title for title in categories if title.startswith("label")), None)
        colours = categories[label] if label else None
        picture = scatter.by_modality(layout.xy, modality, colour_by=colours, axis=_AXIS)
        what = f"coloured by {label}" if label else "in colour"
        caption = f"The cells of one modality {what}, with all others in grey behind them."
        if label:
            caption += " A label should lie at the same position in every panel; colours are those above."
        shown.append(_shown(picture, "One modality at a time", caption, wide=True))
    return shown


def _heatmaps(confusion: Confusion) -> list[_Shown]:
    shown = []
    for direction, (matrix, rows, columns) in confusion.items():
        if np.sum(matrix) > 0:
            title = f"Labels transferred, {direction.replace('->', ' → ')}"
            picture = plots.label_heatmap(matrix, rows, columns)
            between = "->" in direction
            caption = (
                "Every cell gets the label of its nearest cell in the other modality." if between else ""
            )
            shown.append(
                _shown(picture, title, caption, wide=max(len(rows), len(columns)) > plots.MAX_ANNOTATED)
            )
    return shown


def _shown(picture: Picture, title: str, caption: str, *, wide: bool = False) -> _Shown:
    show(picture, title)
    return _Shown(data_uri(picture), title, caption, wide, css_width(picture))
