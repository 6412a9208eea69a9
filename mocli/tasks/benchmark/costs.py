"""Figures of tasks, and costs, from the reports of finished runs, for a benchmark's table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mocli.metrics.registry import available_metrics
from mocli.tasks.benchmark.table import COSTS, VALIDATION, Record
from mocli.types import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mocli.tasks.benchmark.runs import ModelRun

    Method = tuple[str, str, dict[str, Any]]

REAL_CELLS = "other_real_cells"
"""The scores of real cells instead of simulated ones, the best possible."""

AUPRC = "silencing_auprc"
CHANCE = "chance"
OWN = {"silencing": "", "silencing, by size": ", by size"}
"""Scores of the model itself among those of its report, and the suffix of their names."""

OFF = "off_"


def costs(training: ModelRun, report: dict[str, Any]) -> Iterator[Record]:
    """Yield time, memory and steps, and the loss of held-out cells if training measured it."""
    device, done = report["device"] or {}, report["training"] or {}
    values = {
        # with another run's model, at most places of new cells are trained
        "train_s": report["timing"].get("train_s") if training.parent is None else None,
        "total_s": report["timing"].get("total_s"),
        "peak_memory_bytes": device.get("peak_memory_bytes"),
        "gpu_peak_memory_bytes": device.get("gpu_peak_memory_bytes"),
        "steps": done.get("steps"),
        VALIDATION: held_out_loss(done),
    }
    yield from process_costs(training.purpose, training.model, "model", training.seed, training.study, values)


def process_costs(
    task: str, method: str, kind: str, seed: int | None, study: str, values: Mapping[str, float | None]
) -> Iterator[Record]:
    """Yield a line for each cost that is known; keys as in `COSTS`."""
    for key, value in values.items():
        if value is not None:
            entry = {"value": value, "better": None if key == "steps" else "lower", "title": COSTS[key]}
            yield Record.of(task, method, kind, seed, study, key, entry)


def held_out_loss(training: dict[str, Any]) -> float | None:
    """Return the smallest loss of held-out cells in the last phase that measured one; None without any."""
    for history in reversed(list((training.get("history") or {}).values())):
        values = [v for v in (history.get("validation") or {}).get("value", ()) if v is not None]
        if values:
            return float(min(values))
    return None


def figures(training: ModelRun, report: dict[str, Any], records: Sequence[Record]) -> list[Record]:
    """Return the figures of a run's task from its report; its controls once for every seed and study."""
    method_of = METHODS.get(training.purpose)
    methods = [] if method_of is None else method_of(training.model, report)
    present = {(r.method, r.seed, r.study, r.key) for r in records if r.task == training.purpose}
    return [
        _record(training, name, kind, key, entry)
        for name, kind, metrics in methods
        for key, entry in metrics.items()
        if (name, training.seed, training.study, key) not in present
    ]


def _record(training: ModelRun, method: str, kind: str, key: str, entry: dict[str, Any]) -> Record:
    return Record.of(training.purpose, method, kind, training.seed, training.study, key, entry)


def _imputed(model: str, report: dict[str, Any]) -> list[Method]:
    return [
        (model, "model", report["metrics"]),
        *((name, "control", baseline["metrics"]) for name, baseline in report["baselines"].items()),
    ]


def _simulated(model: str, report: dict[str, Any]) -> list[Method]:
    real = report["baselines"].get(REAL_CELLS, {}).get("metrics", {})
    return [(model, "model", _comparable(report["metrics"])), (REAL_CELLS, "control", _comparable(real))]


def _comparable(metrics: dict[str, Any]) -> dict[str, Any]:
    """Add the distance from the best value for metrics whose best lies inside their range."""
    comparable = dict(metrics)
    best = {name: m.best for name, m in available_metrics("simulated").items() if m.better is None}
    for key, entry in metrics.items():
        name = key.partition("[")[0]
        if name in best and entry["value"] is not None:
            title = f"{entry['title']}, distance from {best[name]:g}"
            value = abs(entry["value"] - best[name])
            comparable[OFF + key] = {**entry, "value": value, "better": "lower", "title": title}
    return comparable


def _related(model: str, report: dict[str, Any]) -> list[Method]:
    """Sort the areas under precision and recall by score: the model's own, and simple ones beside it."""
    by_method: dict[str, dict[str, Any]] = {model: {}}
    for key, entry in report["metrics"].items():
        name, _, rest = key.removesuffix("]").partition("[")
        pairs, _, score = rest.partition("; ")
        if name != AUPRC:
            continue
        what = {**entry, "title": f"Area under the precision-recall curve, {pairs}{OWN.get(score, '')}"}
        if OWN.get(score):
            what["better"] = None  # a second score of the model, which controls have not
        method = model if score in OWN else score
        by_method.setdefault(method, {})[f"{AUPRC}[{pairs}{OWN.get(score, '')}]"] = what
    return [(name, "model" if name == model else "control", metrics) for name, metrics in by_method.items()]


METHODS: dict[str, Callable[[str, dict[str, Any]], list[Method]]] = {
    Task.IMPUTE: _imputed,
    Task.SIMULATE: _simulated,
    Task.GENE2PEAK: _related,
}
