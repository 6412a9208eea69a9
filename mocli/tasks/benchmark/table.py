"""The table of a benchmark: one line for each figure, with the failures and the models left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mocli.metrics.registry import OTHER, available_metrics
from mocli.report.figures import table
from mocli.report.file import write_text
from mocli.report.multiqc import RANKING
from mocli.report.ranking import Figure, rank
from mocli.tasks.benchmark.options import RECONSTRUCT
from mocli.types import Task

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mocli.report.ranking import Ranking
    from mocli.tasks.run.run import Run

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

    Attributes
    ----------
    status
        `ok`; `failed`, `skipped` or `missing` without a metric, `note` says why.
    key
        `label_transfer[rna->prot]`.
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
    def of(
        cls, task: str, method: str, kind: str, seed: int | None, study: str, key: str, entry: dict[str, Any]
    ) -> Record:
        """Make a line of an entry of a report's metrics."""
        name = key.partition("[")[0]
        metric = available_metrics().get(name)
        aspect = COST if name in COSTS else metric.aspect if metric else ASPECTS.get(task, OTHER)
        # errors have the unit of a model's own scale: no order between models
        in_units = task == Task.IMPUTE and name.startswith(IN_UNITS)
        return cls(
            task=str(task),
            method=method,
            kind=kind,
            seed=seed,
            study=study,
            status="ok",
            key=key,
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


def describe_rankings(run: Run, records: Sequence[Record], ranked: dict[str, Ranking]) -> None:
    """Report and log the order of methods, the costs of runs, studies, and failures."""
    for task, ranking in ranked.items():
        columns, rows = ranking.table()
        run.report.tables[f"{RANKING}{task}"] = table(
            f"Methods by {task}, best first",
            HOW_RANKED,
            columns,
            rows,
        )
        if ranking.verdict:
            run.report.conclude(f"{task}: {ranking.verdict}.")
        for line in ranking.lines:
            if line.overall is not None:
                place = f"{line.rank}." if line.rank else " - "
                aspects = ", ".join(f"{name} {value:.2f}" for name, value in line.aspects.items())
                more = "" if line.everything is None else f", all aspects {line.everything:.3f}"
                run.say(
                    f"  {place} {line.method} ({line.kind}): overall {line.overall:.3f}{more} ({aspects})"
                )
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
    "that simulated ones could be; none of these is ranked. Models that train on the pairing of cells have "
    "seen the partners that they are tested on here."
)


def _describe_costs(run: Run, records: Sequence[Record]) -> None:
    rows = []
    runs: dict[tuple[str, str, str, int | None], dict[str, float | None]] = {}
    for r in records:
        if r.aspect == COST:
            runs.setdefault((r.task, r.method, r.study, r.seed), {})[r.key] = r.value
    for (task, method, study, seed), values in runs.items():
        memory = [None if values.get(k) is None else round((values[k] or 0) / 1e6) for k in MEMORY]
        rows.append(
            [
                method,
                task,
                study or None,
                seed,
                values.get("steps"),
                values.get("train_s"),
                values.get("total_s"),
                *memory,
                values.get(VALIDATION),
            ]
        )
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
