"""`Report`: what one run did, as JSON with a published schema, and for MultiQC.

A report of any status becomes a row of a table; the rows of many runs form one table because they share the
`id`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path, PurePath
from typing import Any, Literal, TypeAlias

import numpy as np

from mocli import __version__
from mocli.errors import EnvironmentProblem, Interrupted, NumericalError, recognise
from mocli.leftovers import temporary_beside
from mocli.report.figures import Entry
from mocli.types import Json

# an indented array of nothing but numbers; strings cannot match, their newlines are escaped
_NUMBERS = re.compile(r"\[\n *(?:-?\d[\d.eE+-]*|null)(?:,\n *(?:-?\d[\d.eE+-]*|null))*\n *\]")


def plain(value: object) -> Json:
    """Return `value` as dict, list, str, int, float, bool or None.

    NaN and infinities become None, numpy scalars Python's, arrays and tuples
    lists, sets sorted lists, paths and enum members strings. A float32 keeps
    its own shortest digits (0.62, not 0.6200000047683716).

    Raises `TypeError` for anything else: a bug in the caller.
    """
    match value:
        case Enum():
            return plain(value.value)
        case None | bool() | int():
            return value
        case str():
            return str(value)
        case np.floating() if value.dtype.itemsize < 8:
            return float(str(value)) if np.isfinite(value) else None
        case float():
            return float(value) if math.isfinite(value) else None
        case np.generic():
            return plain(value.item())
        case Mapping():
            return {str(plain(key)): plain(item) for key, item in value.items()}
        case np.ndarray():
            return [plain(item) for item in value] if value.ndim else plain(value[()])
        case AbstractSet():
            return [plain(item) for item in sorted(value, key=str)]
        case list() | tuple():
            return [plain(item) for item in value]
        case os.PathLike():
            return os.fsdecode(value)
    raise TypeError(f"a report cannot hold a {type(value).__name__}: {value!r}")


def dumps(value: object) -> str:
    """Return indented JSON with sorted keys; arrays of numbers stay on one line."""
    text = json.dumps(plain(value), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return _NUMBERS.sub(_one_line, text) + "\n"


def _one_line(array: re.Match[str]) -> str:
    return "[" + ", ".join(re.findall(r"[^\s,\[\]]+", array[0])) + "]"


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text to a temporary neighbour, then rename it over `path`.

    A symbolic link keeps pointing where it did. Pipes and devices
    (`/dev/stdout`, `/dev/null`) are written directly: a rename would replace them.

    Raises `EnvironmentProblem` when the folder is absent or cannot be written.
    """
    # names of files that are not valid UTF-8 hold lone surrogates; `\udc80` is their JSON escape
    data = text.encode("utf-8", errors="backslashreplace")
    target = Path(path).resolve()
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)
        else:
            _replace(target, data)
    except OSError as error:
        raise EnvironmentProblem(
            "cannot write the report",
            file=path,
            found=error.strerror or str(error),
            hint="choose an existing folder that you may write to",
        ) from error


def _replace(target: Path, data: bytes) -> None:
    temporary = temporary_beside(target)
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


SCHEMA_VERSION = "1.2"

Status: TypeAlias = Literal["ok", "error", "interrupted", "diverged"]

# parts that always show all their keys, null where the run did not say, and what the schema calls them
_SINGLE = {part: part for part in ("error", "model", "training", "device", "determinism")}
_LISTED = {"inputs": "input", "outputs": "output", "links": "links"}


@dataclass
class Report:
    """The record of a run; filled while it runs, written when it ends, well or badly.

    Attributes:
        command: The command line, as typed.
        metrics, baselines: By key; a baseline holds metrics of its own.
        tables: By key; results that are a table, such as the accuracy of every feature.
        timing: Seconds by stage.
        started: UTC, ISO 8601.
        made_from: Options as given, hashes of defaults and of the files read, version: what identifies the
            result.
        sample: Name of the run in tables of many runs; from the first output where None.
        conclusion: The result in one sentence, at the head of the page; None where a figure says it.
        advice: What to do next, a sentence; None where what holds for every run of the task is enough.
    """

    command: list[str]
    task: str
    status: Status = "ok"
    error: Entry | None = None
    inputs: list[Entry] = field(default_factory=list)
    outputs: list[Entry] = field(default_factory=list)
    links: list[Entry] = field(default_factory=list)
    model: Entry | None = None
    training: Entry | None = None
    device: Entry | None = None
    timing: dict[str, float] = field(default_factory=dict)
    seed: int | None = None
    made_from: Entry | None = None
    determinism: Entry | None = None
    metrics: dict[str, Entry] = field(default_factory=dict)
    baselines: dict[str, Entry] = field(default_factory=dict)
    tables: dict[str, Entry] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    started: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    sample: str | None = None
    conclusion: str | None = None
    advice: str | None = None

    def conclude(self, sentence: str) -> None:
        """Add a conclusion; a later sentence follows an earlier one."""
        text = f"{sentence[0].upper()}{sentence[1:].rstrip('.')}."
        self.conclusion = text if self.conclusion is None else f"{self.conclusion} {text}"

    def fail(self, error: BaseException) -> None:
        """Set status and error from an exception."""
        if isinstance(error, KeyboardInterrupt):
            self.status = "interrupted"
            self.error = {"kind": "interrupted", "message": "stopped from the keyboard", "exit_code": 130}
            return
        recognised = recognise(error)
        if recognised is None:
            self.status = "error"
            message = f"{type(error).__name__}: {error}"
            hint = "this is a bug in mocli: please report it with the log"
            self.error = {"kind": "bug", "message": message, "hint": hint, "exit_code": 1}
            return
        diverged = isinstance(recognised, NumericalError)
        self.status = (
            "diverged" if diverged else "interrupted" if isinstance(recognised, Interrupted) else "error"
        )
        self.error = {
            "kind": recognised.kind,
            "message": recognised.message,
            "hint": recognised.hint,
            "exit_code": recognised.exit_code,
            "file": recognised.file,
            "field": recognised.field,
            "found": recognised.found,
            "expected": recognised.expected,
            "failed_term": recognised.term if isinstance(recognised, NumericalError) else None,
        }

    def as_dict(self) -> dict[str, Any]:
        """Return every key of the schema with plain values, null where nothing is known."""
        values: dict[str, Any] = {f.name: plain(getattr(self, f.name)) for f in fields(self)}
        for key, kind in _SINGLE.items():
            values[key] = _filled(values[key], kind)
        for key, kind in _LISTED.items():
            values[key] = [_filled(item, kind) for item in values[key]]
        values["metrics"] = _filled_metrics(values["metrics"])
        for baseline in values["baselines"].values():
            for key in ("metrics", *(["model_metrics"] if baseline.get("model_metrics") else [])):
                baseline[key] = _filled_metrics(baseline.get(key) or {})
        values["sample"] = sample_name(values)
        values["tool"] = {"name": "mocli", "version": __version__}
        values["schema_version"] = SCHEMA_VERSION
        values |= custom_content(values)
        return values

    def to_json(self) -> str:
        """Return the report as JSON: keys sorted, NaN and infinity null, newline at the end."""
        return dumps(self.as_dict())

    def write_multiqc(self, path: str | os.PathLike[str]) -> None:
        """Write the file for MultiQC; `EnvironmentProblem` if it cannot be written."""
        write_text(path, dumps(custom_content(self.as_dict())))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON atomically; `EnvironmentProblem` if it cannot be written."""
        write_text(path, self.to_json())


def _filled(part: Entry | None, kind: str) -> Entry | None:
    """Return a part with every key of its kind in the schema, null where the run has no value."""
    return None if part is None else dict.fromkeys(load_schema()["$defs"][kind]["properties"]) | part


def _filled_metrics(metrics: Mapping[str, Entry]) -> dict[str, Any]:
    return {key: _filled(metric, "metric") for key, metric in metrics.items()}


@cache
def load_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the report."""
    text = files("mocli.report").joinpath("schema.json").read_text(encoding="utf-8")
    return json.loads(text)


def validate(report: Mapping[str, Any]) -> None:
    """Check a report, as read from its JSON, against the schema.

    Raises:
        jsonschema.ValidationError: At the first difference.
        EnvironmentProblem: Where jsonschema is not installed.
    """
    try:
        from jsonschema import Draft202012Validator
    except ImportError as error:
        raise EnvironmentProblem(
            "checking a report needs jsonschema", hint="pip install jsonschema"
        ) from error
    Draft202012Validator(load_schema()).validate(report)


MOST_COLUMNS = 6

RANKING = "ranking_"
"""Prefix of the keys of tables with a method in every row."""

_ENDINGS = (".gz", ".h5mu", ".h5ad", ".h5", ".tsv", ".csv")


COLUMNS = {
    "integrate": {
        "scib_total": "scIB total",
        "nmi_louvain": "NMI of clusters",
        "silhouette_label": "Label silhouette",
        "kbet_batch": "kBET of batches",
        "label_transfer": "Label transfer",
        "foscttm": "FOSCTTM (low is good)",
        "neighbor_conservation": "Neighbours kept",
    },
    "impute": {
        "imputation_pearson_median": "Pearson, median",
        "imputation_spearman_median": "Spearman, median",
        "interval_coverage": "Coverage of intervals",
    },
    "simulate": {
        "discriminability": "Discriminability",
        "nearest_label": "Nearest real label",
        "mean_correlation": "Correlation of means",
        "feature_correlation": "Feature correlations",
        "variance_ratio": "Variance ratio",
    },
}
"""A few leading columns of each task, the same for all its runs.

MultiQC takes the columns from the last file alone, so that a failed run or one without labels would drop
columns of all others.
"""


def custom_content(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content for MultiQC: `id`, `section_name`, `plot_type`, `headers`, `data`, ... of a report.

    Names that come from files are escaped: MultiQC puts them into a page as they are.
    """
    task = report["task"]
    row: dict[str, Any] = {"status": report["status"]}
    if report["training"] and report["training"]["steps"] is not None:
        row["steps"] = report["training"]["steps"]
    titles = COLUMNS.get(task, {})
    means = _means(report["metrics"])
    # where nothing leading is measured, what is
    shown = list(titles) if titles.keys() & means.keys() else list(means)[:MOST_COLUMNS]
    row |= {key: means[key] for key in shown if key in means}
    rows = _ranked(report) or {run_name(report): row}
    headers: dict[str, dict[str, Any]] = {
        "status": {"title": "Status"},
        "steps": {"title": "Steps", "format": "{:,.0f}"},
    }
    for key in dict.fromkeys([*titles, *shown, *(k for values in rows.values() for k in values)]):
        headers.setdefault(escape(key), {"title": escape(titles.get(key, key)), "format": "{:,.3f}"})
    for place, header in enumerate(headers.values()):
        header["placement"] = place
    return {
        "id": f"mocli_{task}",
        "section_name": f"mocli {task}",
        "description": "Single-cell multi-omics with mocli; report.json of each run has all figures.",
        "plot_type": "table",
        "pconfig": {"id": f"mocli_{task}_table", "title": f"mocli {task}", "col1_header": "Run"},
        "headers": headers,
        "data": {escape(name): {escape(k): v for k, v in values.items()} for name, values in rows.items()},
    }


def _means(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return one value for each metric, the mean over modalities and directions (`foscttm[rna,prot]`)."""
    values: dict[str, list[float]] = {}
    for key, metric in metrics.items():
        if metric["value"] is not None:
            values.setdefault(key.partition("[")[0], []).append(metric["value"])
    return {key: sum(several) / len(several) for key, several in values.items()}


def run_name(report: Mapping[str, Any]) -> str:
    """Return the sample, with the folders of its output: MultiQC keeps one row of runs of one name."""
    sample = sample_name(report)
    paths = [part["path"] for part in report["outputs"] if part["path"]]
    folders = [name for name in PurePath(str(paths[0])).parent.parts if name.strip("/.")] if paths else []
    return f"{sample} ({' '.join(folders[-2:])})" if folders else sample


def _ranked(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a row for each method of a benchmark, from its tables of methods."""
    rows: dict[str, dict[str, Any]] = {}
    for name, table in report["tables"].items():
        if name.startswith(RANKING):
            for method, *values in table["rows"]:
                named = zip(table["columns"][1:], values, strict=True)
                rows.setdefault(method, {}).update({k: v for k, v in named if v is not None})
    return rows


def sample_name(report: Mapping[str, Any]) -> str:
    """Return the run's own name, else the first output's or input's without its ending."""
    if report["sample"]:
        return str(report["sample"])
    for part in (*report["outputs"], *report["inputs"]):
        if part["path"]:
            return _stem(str(part["path"]))
    return str(report["task"])


def _stem(path: str) -> str:
    name = PurePath(path.split("::")[0]).name
    for ending in _ENDINGS:
        if len(name) > len(ending):
            name = name.removesuffix(ending)
    return name or path
