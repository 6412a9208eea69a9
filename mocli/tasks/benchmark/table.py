"""The table of a benchmark: one line for each figure or cost of a run, failures, and models left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mocli.metrics.registry import OTHER, available_metrics
from mocli.report.figures import table
from mocli.report.file import RANKING, write_text
from mocli.report.ranking import CONTROL, Figure, Ranking, rank
from mocli.tasks.benchmark.options import RECONSTRUCT
from mocli.types import Task

if TYPE_CHECKING:
    from mocli.tasks.benchmark.runs import Identity, ModelRun
    from mocli.tasks.run.run import Run

    Method = tuple[str, str, dict[str, Any]]


COLUMNS = (
    *("task", "method", "kind", "study", "seed", "status", "metric", "of"),
    *("value", "better", "n", "aspect", "note"),
)

VALIDATION = "validation_loss"
COSTS = {
    "train_s": "Seconds of training",
    "total_s": "Seconds in all",
    "peak_memory_bytes": "Peak memory",
    "gpu_peak_memory_bytes": "Peak GPU memory",
    "steps": "Steps",
    VALIDATION: "Loss of held-out cells",
}
COST = "cost"
ASPECTS: dict[str, str] = {
    Task.IMPUTE: "imputation",
    Task.SIMULATE: "generation",
    Task.GENE2PEAK: "links",
    RECONSTRUCT: "reconstruction",
}
"""The aspects of figures from a task's own reports."""

LEADING = {
    "discriminability": 1, "marker_overlap": 2, "nearest_label": 3, "feature_correlation": 4,
    "mean_correlation": 5, "variance_ratio": 6, "silencing_auprc": 1,
    "label_f1": 7, "reconstruction_rmse": 1, "reconstruction_mae": 2, "reconstruction_auprc": 3,
    "reconstruction_loss_ratio": 4,
}  # fmt: skip
"""Aspect of metrics that are not in the registry of embedding metrics."""

RANKED = "ranking"
IN_UNITS = ("imputation_mae", "imputation_rmse")


@dataclass(frozen=True)
class Record:
    """One line.

    Attributes:
        status: `ok`; `failed`, `skipped` or `missing` without a metric, `note` says why.
        key: `label_transfer[rna->prot]`.
    """

    task: str
    method: str
    kind: str
    seed: int | None
    study: str
    status: str
    key: str = ""
    value: float | None = None
    better: str | None = None
    n: int | None = None
    title: str = ""
    aspect: str = ""
    note: str = ""

    @classmethod
    def of(cls, identity: Identity, key: str, entry: dict[str, Any]) -> Record:
        """Make a line of an entry of a report's metrics."""
        task, method, kind, seed, study = identity
        name = key.partition("[")[0]
        metric = available_metrics().get(name)
        aspect = COST if name in COSTS else metric.aspect if metric else ASPECTS.get(task, OTHER)
        # errors have the unit of a model's own scale: no order between models
        in_units = task == Task.IMPUTE and name.startswith(IN_UNITS)
        return cls(
            *(str(task), method, kind, seed, study, "ok", key),
            value=entry["value"],
            better=None if in_units else entry["better"],
            n=entry.get("n"),
            title=str(entry.get("title") or name) + (" (in units of its own scale)" if in_units else ""),
            aspect=aspect,
        )

    def cells(self) -> list[str]:
        """Return the line's cells, in the order of `COLUMNS`."""
        name, _, modalities = self.key.removesuffix("]").partition("[")
        value = "" if self.value is None else f"{self.value:.9g}"
        identity = [self.task, self.method, self.kind, self.study, self.seed, self.status]
        values = [*identity, name, modalities, value, self.better, self.n, self.aspect, self.note]
        return ["" if v is None else " ".join(str(v).split()) for v in values]


def write_table(path: Path, records: Sequence[Record]) -> None:
    """Write tab-separated values, empty where there is none."""
    lines = ["\t".join(COLUMNS), *("\t".join(r.cells()) for r in records)]
    write_text(path, "\n".join(lines) + "\n")


def as_figures(
    records: Sequence[Record], *, answers: frozenset[str], bounds: frozenset[str]
) -> dict[str, list[Figure]]:
    """Return what is ranked, by task: the benchmark itself without its studies."""
    order = LEADING | {name: one.headline or 99 for name, one in available_metrics().items()}
    by_task: dict[str, list[Figure]] = {}
    for r in records:
        if r.study or r.status != "ok" or r.aspect == COST:
            continue
        kind = "answer" if r.method in answers else "bound" if r.method in bounds else r.kind
        name = r.key.partition("[")[0]
        place = order.get(name, 1 if name.endswith("_median") else 99)
        by_task.setdefault(r.task, []).append(
            Figure(r.method, kind, r.seed, r.key, r.value, r.better, r.title, r.aspect, place)
        )
    return by_task


def rankings(figures: dict[str, list[Figure]]) -> dict[str, Ranking]:
    """Return one ranking for each task."""
    return {task: rank(of_task) for task, of_task in figures.items()}


def ranking_records(ranked: dict[str, Ranking]) -> list[Record]:
    """Return the order of methods as lines of the table: rank, overall score and mean of every aspect."""
    records = []
    for task, ranking in ranked.items():
        for line in ranking.lines:
            figures = {"rank": line.rank, "overall": line.overall, "overall_all_aspects": line.everything}
            figures |= {f"aspect[{name}]": value for name, value in line.aspects.items()}
            records += [
                Record(
                    task, line.method, line.kind, None, "", "ok", key, float(value),
                    "lower" if key == "rank" else "higher", aspect=RANKED,
                )
                for key, value in figures.items()
                if value is not None
            ]  # fmt: skip
    return records


NOT_SURPASSED = (
    "A control is first: before you use a model, check links and --max-steps, or try other --models."
)


def describe_rankings(run: Run, records: Sequence[Record], ranked: dict[str, Ranking]) -> None:
    """Report and log the order of methods, the costs of runs, studies, and failures."""
    for task, ranking in ranked.items():
        columns, rows = ranking.table()
        run.report.tables[f"{RANKING}{task}"] = table(
            f"Methods by {task}, best first", HOW_RANKED, columns, rows
        )
        if ranking.verdict:
            run.report.conclude(f"{task}: {ranking.verdict}.")
        first = next((line for line in ranking.lines if line.rank == 1), None)
        if first is not None and first.kind == CONTROL:
            run.report.advice = NOT_SURPASSED
        for line in ranking.lines:
            if line.aspects:
                place = f"{line.rank}." if line.rank else " - "
                aspects = ", ".join(f"{name} {value:.2f}" for name, value in line.aspects.items())
                score = "not ranked" if line.overall is None else f"overall {line.overall:.3f}"
                more = "" if line.everything is None else f", all aspects {line.everything:.3f}"
                run.say(f"  {place} {line.method} ({line.kind}): {score}{more} ({aspects})")
    _describe_costs(run, records)
    _describe_studies(run, records)
    amiss: list[list[Any]] = [
        [r.task, r.method, r.study or None, r.seed, r.status, r.note] for r in records if r.status != "ok"
    ]
    if amiss:
        run.report.tables["amiss"] = table(
            "Models left out, runs that failed or are missing",
            "Left out: it does not take such data, or a peer is not installed. The command tries "
            "failed runs again.",
            ["task", "model", "study", "seed", "status", "why"],
            amiss,
        )


HOW_RANKED = (
    "A metric counts from 0 (worst of all methods, mean over seeds) to 1 (best); an aspect is the mean of "
    "its metrics, overall the mean of the aspects that were measured of every ranked method; 'all aspects' "
    "is the mean of all, of the methods that have them all: those that place each modality. 'shuffled' and "
    "'chance' show the result of chance, 'perfect' knows the ground truth, 'other_real_cells' are the best "
    "that simulated ones could be; none of these is ranked, and chance, which mixes best, has no overall "
    "score. Models that train on the pairing of cells have seen the partners that they are tested on here."
)


def _describe_costs(run: Run, records: Sequence[Record]) -> None:
    rows = []
    runs: dict[tuple[str, str, str, int | None], dict[str, float | None]] = {}
    for r in records:
        if r.aspect == COST:
            runs.setdefault((r.task, r.method, r.study, r.seed), {})[r.key] = r.value
    for (task, method, study, seed), values in runs.items():
        memory = [None if values.get(k) is None else round((values[k] or 0) / 1e6) for k in MEMORY]
        times = [values.get(k) for k in ("steps", "train_s", "total_s")]
        rows.append([method, task, study or None, seed, *times, *memory, values.get(VALIDATION)])
    if rows:
        run.report.tables["costs"] = table(
            "Time and memory of every run",
            "Wall-clock time; parallel runs slow each other down. The held-out loss is the smallest loss "
            "of cells that training does not learn from, which are others in every study. Without steps: "
            "another run's model.",
            [
                "model",
                "task",
                "study",
                "seed",
                "steps",
                "training, s",
                "total, s",
                "memory, MB",
                "GPU memory, MB",
                "held-out loss",
            ],
            rows,
        )


MEMORY = ("peak_memory_bytes", "gpu_peak_memory_bytes")

Measured = dict[tuple[str, str, str], dict[str, list[float]]]
"""Values over seeds of every leading metric, by task, method and study."""


def leading_metrics(records: Sequence[Record]) -> tuple[Measured, list[str]]:
    """Return the leading metrics of models and controls by study, and their keys in order."""
    order = LEADING | {name: one.headline for name, one in available_metrics().items() if one.headline}
    measured: Measured = {}
    for r in records:
        leading = order.get(r.key.partition("[")[0]) or r.key.partition("[")[0].endswith("_median")
        if leading and r.value is not None and r.kind in ("model", "control"):
            measured.setdefault((r.task, r.method, r.study), {}).setdefault(r.key, []).append(r.value)
    keys = list(dict.fromkeys(key for by_key in measured.values() for key in by_key))
    return measured, sorted(keys, key=lambda k: (order.get(k.partition("[")[0], 99), k))


def _describe_studies(run: Run, records: Sequence[Record]) -> None:
    """Set the mean of every leading metric under each study beside that of the benchmark itself."""
    measured, keys = leading_metrics(records)
    studied = {(task, method) for task, method, study in measured if study}
    if not studied:
        return
    measured = {key: by_key for key, by_key in measured.items() if key[:2] in studied}
    keys = [key for key in keys if any(key in by_key for by_key in measured.values())]
    rows: list[list[Any]] = [
        [method, task, study or "as it is", *(_mean(by_key.get(key)) for key in keys)]
        for (task, method, study), by_key in sorted(measured.items())
    ]
    run.report.tables["studies"] = table(
        "Studies",
        "Means over seeds of the leading metrics where data, losses or hyper-parameters were changed.",
        ["method", "task", "study", *keys],
        rows,
    )


def _mean(values: list[float] | None) -> float | None:
    return None if not values else sum(values) / len(values)


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
    yield from process_costs(training.identity, values)


def process_costs(identity: Identity, values: Mapping[str, float | None]) -> Iterator[Record]:
    """Yield a line for each cost that is known; keys as in `COSTS`."""
    for key, value in values.items():
        if value is not None:
            entry = {"value": value, "better": None if key == "steps" else "lower", "title": COSTS[key]}
            yield Record.of(identity, key, entry)


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
        Record.of((training.purpose, name, kind, training.seed, training.study), key, entry)
        for name, kind, metrics in methods
        for key, entry in metrics.items()
        if (name, training.seed, training.study, key) not in present
    ]


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
