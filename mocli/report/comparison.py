"""The model's metrics and those of the baselines, and an honest sentence about them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mocli.report import wording
from mocli.report.wording import join, metric_value, plural

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
        known = [cell.value for cell in self.cells if cell.value is not None]
        return len(known) > 1 and not all(isinstance(value, int) for value in known)


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
    own = [i for i, b in enumerate(baselines.values(), start=1) if b.get("is_own")]
    return Comparison(columns, rows, *_verdict(columns, rows, own))


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


def _verdict(columns: Sequence[str], rows: Sequence[Row], own: Collection[int]) -> tuple[str, list[str]]:
    """Judge by the leading metrics that a baseline has, too; by all of these if none leads.

    `own`: columns of ways that are a part of the model: they are named apart, as no rivals of it.
    """
    model, rivals = columns[0], [i for i in range(1, len(columns)) if i not in own]
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
        share = f"every {noun}" if n_won == len(against) else f"{n_won} of {plural(len(against), noun)}"
        subject = model.capitalize() if model == wording.THIS_RUN else model
        parts.append(f"{subject} is better than {every} on {share} that they share.")
        if tied:
            parts.append(f"It equals the best baseline on {join([r.title for r in tied])}.")
        losses = [_loss(r, columns, rivals) for r in lost]
    for i in own:
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
