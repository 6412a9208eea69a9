"""Methods compared: a model with its baselines, and many methods by many metrics."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mocli.report.figures import THIS_RUN, join, metric_value, plural
from mocli.types import Json

_ARROWS = {"higher": "↑", "lower": "↓"}


@dataclass(frozen=True)
class Cell:
    """One metric of one method; `best` among the methods of its row.

    `model` is the model's value over the same features, where the method has fewer: only
    these two can be compared.
    """

    value: float | None
    text: str
    best: bool
    model: float | None = None
    model_text: str = ""


@dataclass(frozen=True)
class Row:
    """One metric of all methods; the first cell is the model's."""

    key: str
    title: str
    better: str | None
    arrow: str
    range: tuple[float | None, float | None] | None
    n: int | None
    sentence: str
    definition: str
    cells: list[Cell]
    leading: bool = True

    @property
    def drawable(self) -> bool:
        """Whether bars say something: two methods were measured, and not counted."""
        values = [cell.value for cell in self.cells if cell.value is not None]
        return len(values) > 1 and not all(isinstance(value, int) for value in values)


@dataclass(frozen=True)
class Comparison:
    """Rows of metrics, columns of methods, and conclusions from them.

    `losses` names the leading metrics on which a baseline is better, with both values.
    """

    columns: list[str]
    rows: list[Row]
    verdict: str
    losses: list[str]

    @property
    def partial(self) -> bool:
        """Say whether a baseline is measured over fewer features than the model."""
        return any(cell.model is not None for row in self.rows for cell in row.cells)


def compare(
    metrics: Mapping[str, Mapping[str, Any]], baselines: Mapping[str, Mapping[str, Any]], *, model: str
) -> Comparison:
    """Compare metrics.

    Values count as equal if they are shown as equal: a difference beyond the shown digits means nothing to
    a reader. Metrics without a direction have no best.
    """
    columns = [model, *(str(b.get("title") or key) for key, b in baselines.items())]
    methods = [metrics, *(b.get("metrics") or {} for b in baselines.values())]
    same_features = [{}, *(b.get("model_metrics") or {} for b in baselines.values())]
    keys = dict.fromkeys(key for method in methods for key in method)
    rows = [
        _row(key, [method.get(key) for method in methods], [values.get(key) for values in same_features])
        for key in keys
    ]
    if any(b.get("is_bound") for b in baselines.values()):
        # what no method can pass is no rival
        return Comparison(columns, rows, "", [])
    of_model = [i for i, b in enumerate(baselines.values(), start=1) if b.get("is_own")]
    return Comparison(columns, rows, *_verdict(columns, rows, of_model))


def _row(
    key: str, records: Sequence[Mapping[str, Any] | None], same_features: Sequence[Mapping[str, Any] | None]
) -> Row:
    about = next(r for r in records if r is not None)
    values = [None if r is None else r.get("value") for r in records]
    model = [None if r is None else r.get("value") for r in same_features]
    texts = [metric_value(v) for v in values]
    better = about.get("better")
    compared = [(v, t) for v, t, m in zip(values, texts, model, strict=True) if v is not None and m is None]
    best = None
    if better and len(compared) > 1:
        best = (max if better == "higher" else min)(compared, key=lambda pair: pair[0])[1]
    bounds = about.get("range")
    return Row(
        key=key,
        title=metric_title(key, about.get("title")),
        better=better,
        arrow=_ARROWS.get(better or "", ""),
        range=None if bounds is None else (bounds[0], bounds[1]),
        n=about.get("n"),
        sentence=about.get("sentence") or "",
        definition=about.get("definition") or "",
        cells=[
            Cell(v, t, best is not None and t == best and m is None, m, "" if m is None else metric_value(m))
            for v, t, m in zip(values, texts, model, strict=True)
        ],
        leading=about.get("leading") is not False,
    )


def metric_title(key: str, title: str | None) -> str:
    """Return the title; `label_transfer[rna->prot]` names the modalities."""
    name, _, rest = key.partition("[")
    modalities = rest.rpartition("]")[0]
    shown = title or name.replace("_", " ")
    repeats = not modalities or modalities in shown
    return shown if repeats else f"{shown}, {modalities.replace('->', ' → ')}"


def _verdict(columns: Sequence[str], rows: Sequence[Row], of_model: Collection[int]) -> tuple[str, list[str]]:
    """Judge by the leading metrics that a baseline has, too; by all of these if none leads.

    `of_model`: columns of ways that are a part of the model: they are named apart, as no rivals of it.
    """
    model, rivals = columns[0], [i for i in range(1, len(columns)) if i not in of_model]
    shared = [
        r for r in rows if r.better and r.cells[0].value is not None and _measured(r, range(1, len(columns)))
    ]
    judged = [r for r in shared if r.leading] or shared
    parts, losses = [], []
    if against := [r for r in judged if _measured(r, rivals)]:
        lost = [r for r in against if _beaten(r, rivals)]
        tied = [r for r in against if r not in lost and any(_difference(r, r.cells[i]) == 0 for i in rivals)]
        n_won = len(against) - len(lost) - len(tied)
        every = {1: "the baseline", 2: "both baselines"}.get(len(rivals), f"all {len(rivals)} baselines")
        noun = "metric" if len(judged) == len(shared) else "leading metric"
        share = f"{n_won} of {plural(len(against), noun)}" if n_won else f"no {noun}"
        share = f"every {noun}" if n_won == len(against) else share
        subject = model.capitalize() if model == THIS_RUN else model
        parts.append(f"{subject} is better than {every} on {share} that they share.")
        if tied:
            parts.append(f"It equals the best baseline on {join([r.title for r in tied])}.")
        losses = [_loss(r, columns, rivals) for r in lost]
    for i in of_model:
        better = [r.title for r in judged if _beaten(r, [i])]
        if better:
            parts.append(f"The model's own way, {columns[i]}, is better on {join(better)}.")
    if losses:
        parts.append("A baseline is better on these:")
    return " ".join(parts), losses


def _measured(row: Row, columns: Iterable[int]) -> bool:
    return any(row.cells[i].value is not None for i in columns)


def _difference(row: Row, cell: Cell) -> float | None:
    """Return how much better than the model a method is, 0 if both are shown as equal; None if unknown."""
    model_cell = row.cells[0]
    value, text = (model_cell.value, model_cell.text) if cell.model is None else (cell.model, cell.model_text)
    if cell.value is None or value is None:
        return None
    return 0.0 if cell.text == text else (cell.value - value) * (1 if row.better == "higher" else -1)


def _beaten(row: Row, columns: Sequence[int]) -> list[int]:
    """Return those of some columns that are better than the model, the best first."""
    gains = {i: _difference(row, row.cells[i]) or 0.0 for i in columns}
    return sorted((i for i, gain in gains.items() if gain > 0), key=lambda i: -gains[i])


def _loss(row: Row, columns: Sequence[str], rivals: Sequence[int]) -> str:
    best = _beaten(row, rivals)[0]
    cell = row.cells[best]
    model_words = row.cells[0].text if cell.model is None else f"{cell.model_text} over the same features"
    return f"{row.title}: {columns[best]} {cell.text}, {columns[0]} {model_words}"


@dataclass(frozen=True)
class Figure:
    """One number of a benchmark: a metric of one method and seed.

    Attributes:
        kind: `model`, `control`, `embedding`, `peer`, or `bound` for controls that show what is worst and
            best.
        key: `label_transfer[rna->prot]`.
        aspect: The aspect that the metric belongs to; aspects weigh alike, whatever their number of metrics.
        order: Place among the metrics, small first.
    """

    method: str
    kind: str
    seed: int | None
    key: str
    value: float | None
    better: str | None
    title: str
    aspect: str
    order: int = 99


@dataclass(frozen=True)
class SeedSpread:
    """A metric of one method over its seeds; `shade` is 0 for the worst method and 1 for the best."""

    mean: float | None
    sd: float | None
    n: int
    values: tuple[float, ...]
    shade: float | None
    best: bool

    @property
    def text(self) -> str:
        """Mean, and the standard deviation over seeds where there are several."""
        if self.mean is None:
            return "–"
        return metric_value(self.mean) + (f" ± {metric_value(self.sd)}" if self.sd is not None else "")


@dataclass(frozen=True)
class Line:
    """One method; `rank` is None for bounds, which are not ranked.

    `overall` is None for chance, too: it mixes batches and modalities better than any method.
    `everything`: mean of all aspects, for methods that were measured in all; None for others, and where all
    methods were measured alike, as `overall` is the same then.
    """

    method: str
    kind: str
    rank: int | None
    overall: float | None
    aspects: Mapping[str, float]
    cells: Mapping[str, SeedSpread]
    everything: float | None = None


@dataclass(frozen=True)
class Column:
    """One metric."""

    key: str
    title: str
    better: str | None
    aspect: str
    order: int


@dataclass(frozen=True)
class Ranking:
    """Methods, best first, bounds last; and the metrics they were measured by.

    `shared`: the aspects that `overall` is the mean of, where they are not all.
    """

    lines: Sequence[Line] = ()
    columns: Sequence[Column] = ()
    aspects: Sequence[str] = field(default=())
    shared: Sequence[str] = field(default=())

    def table(self, most: int = 12) -> tuple[list[str], list[list[Json]]]:
        """Return headers and rows: rank, overall, aspects, then the leading metrics."""
        leading = [c for c in self.columns if c.order < 99][:most] or list(self.columns)[:most]
        more = ["overall, all aspects"] if self.unequal else []
        header = ["method", "kind", "rank", "overall", *more, *self.aspects, *(c.key for c in leading)]
        rows: list[list[Json]] = []
        for line in self.lines:
            values = [line.aspects.get(a) for a in self.aspects]
            cells = [line.cells[c.key].mean if c.key in line.cells else None for c in leading]
            everything = [line.everything] if self.unequal else []
            rows.append([line.method, line.kind, line.rank, line.overall, *everything, *values, *cells])
        return header, rows

    @property
    def verdict(self) -> str:
        """Say which method is first, by what, and whether a control is; empty without ranks."""
        ranked = [line for line in self.lines if line.rank is not None]
        if not ranked:
            return ""
        first = [line for line in ranked if line.rank == 1]
        said = f"{join([_named(line) for line in first])} {'are' if len(first) > 1 else 'is'} first of "
        said += f"{plural(len(ranked), 'method')} {self._by(first[0])}"
        control = next((line for line in ranked if line.kind == CONTROL), None)
        model = next((line for line in ranked if line.kind != CONTROL), None)
        if control in first and model is not None:
            best = "" if model in first else f"; the best of the others is {_named(model)}"
            said += f"{best}: a control, which needs no training, is not surpassed"
        elif control is not None and model is not None:
            said += f", before the best control, {_named(control)}"
        return said + self._on_all(first)

    def _by(self, first: Line) -> str:
        score = metric_value(first.overall)
        return f"by {join(self.shared)} alone ({score})" if self.shared else f"(overall {score})"

    def _on_all(self, first: Sequence[Line]) -> str:
        """Say which method leads on all aspects, where those that all methods share are not all."""
        whole = [line for line in self.lines if line.everything is not None]
        if not whole:
            return ""
        most = metric_value(max(line.everything or 0.0 for line in whole))
        leading = [line for line in whole if metric_value(line.everything) == most]
        names = join([line.method for line in leading])
        again = " too" if {line.method for line in leading} <= {line.method for line in first} else ""
        verb = "leads" if len(leading) == 1 else "lead"
        return (
            f"; on all aspects {names} {verb}{again} ({most}), "
            f"of the {plural(len(whole), 'method')} measured in all"
        )

    @property
    def unequal(self) -> bool:
        """Whether some methods were measured in more aspects than others."""
        return any(line.everything is not None for line in self.lines)


CONTROL = "control"
"""Kind of methods that need no training."""

BOUNDS = {"bound": 1, "answer": 2}
"""Kinds of methods that are not ranked, in the order in which they come last."""


def rank(figures: Sequence[Figure], *, left_out: frozenset[str] = frozenset({"total", "other"})) -> Ranking:
    """Order methods by the mean of their aspects.

    A metric becomes a number from 0 (the worst mean over seeds among all but the bounds told the answer,
    and any that was tried and is undefined) to 1 (the best); an aspect is the mean of its metrics, the
    overall score the mean of the aspects that were measured for every ranked method, so that none gains
    from aspects that others lack; of all its own aspects if none is shared; chance has none. If that leaves
    aspects out, `everything` is the mean of all, for methods that have them all. Aspects `left_out` are
    shown only.
    """
    columns: dict[str, Column] = {}
    values: dict[str, dict[str, list[float]]] = {}
    undefined: dict[str, set[str]] = {}
    kinds: dict[str, str] = {}
    for f in figures:
        kinds.setdefault(f.method, f.kind)
        columns.setdefault(f.key, Column(f.key, f.title, f.better, f.aspect, f.order))
        if f.value is not None:
            values.setdefault(f.key, {}).setdefault(f.method, []).append(f.value)
        else:
            undefined.setdefault(f.key, set()).add(f.method)
    means = {k: {m: statistics.fmean(v) for m, v in by_method.items()} for k, by_method in values.items()}
    scaled: dict[str, dict[str, float]] = {}
    for key, by_method in means.items():
        better = columns[key].better
        judged = [v for m, v in by_method.items() if kinds[m] != "answer"]
        if better is None or len(judged) < 2 or max(judged) == min(judged):
            continue
        low, high = min(judged), max(judged)
        share = {m: min(1.0, max(0.0, (v - low) / (high - low))) for m, v in by_method.items()}
        void = dict.fromkeys(undefined.get(key, ()), 0.0)
        scaled[key] = void | (share if better == "higher" else {m: 1.0 - v for m, v in share.items()})
    lines, of_method = [], {}
    for method in kinds:
        by_aspect: dict[str, list[float]] = {}
        for key, by_method in scaled.items():
            if method in by_method and columns[key].aspect not in left_out:
                by_aspect.setdefault(columns[key].aspect, []).append(by_method[method])
        of_method[method] = {a: statistics.fmean(v) for a, v in by_aspect.items()}
    competing = [set(a) for m, a in of_method.items() if a and kinds[m] not in BOUNDS]
    shared = set.intersection(*competing) if competing else set()
    union = set[str]().union(*competing)
    for method, kind in kinds.items():
        aspects = of_method[method]
        has_all = shared < union <= set(aspects) and kind not in BOUNDS
        everything = statistics.fmean(aspects[a] for a in union) if has_all else None
        counted = [v for a, v in aspects.items() if a in shared] or list(aspects.values())
        overall = statistics.fmean(counted) if counted and kind != "bound" else None
        cells = {
            key: _spread(
                by_method[method], scaled.get(key, {}).get(method), means[key], columns[key].better, method
            )
            for key, by_method in values.items()
            if method in by_method
        }
        lines.append(Line(method, kind, None, overall, aspects, cells, everything))
    lines.sort(
        key=lambda line: (_last(line), -(line.overall if line.overall is not None else -1.0), line.method)
    )
    competitors = [metric_value(line.overall) for line in lines if _competes(line)]
    # what reads equal shares a rank, and those after it are not moved up
    ranked = [
        replace(line, rank=1 + competitors.index(metric_value(line.overall)) if _competes(line) else None)
        for line in lines
    ]
    order = {
        c.aspect: i for i, c in reversed(list(enumerate(sorted(columns.values(), key=lambda c: c.order))))
    }
    named = sorted({a for line in lines for a in line.aspects}, key=lambda a: order.get(a, 0))
    shown = sorted(columns.values(), key=lambda c: (c.order, c.aspect, c.key))
    compared = [a for a in named if a in shared] if shared < union else []
    return Ranking(ranked, [c for c in shown if c.key in values], named, compared)


def _competes(line: Line) -> bool:
    return _last(line) == 0 and line.overall is not None


def _last(line: Line) -> int:
    return BOUNDS.get(line.kind, 0)


def _named(line: Line) -> str:
    return line.method if line.rank == 1 else f"{line.method} ({metric_value(line.overall)})"


def _spread(
    values: Sequence[float], shade: float | None, means: Mapping[str, float], better: str | None, method: str
) -> SeedSpread:
    mean = statistics.fmean(values)
    sd = statistics.stdev(values) if len(values) > 1 else None
    best = shade is not None and shade >= 1.0 and better is not None and means[method] == mean
    return SeedSpread(mean, sd, len(values), tuple(values), shade, best)
