"""`Report`: what one run did, as one JSON document with a published schema."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeAlias

from mocli import __version__
from mocli.errors import EnvironmentProblem, Interrupted, NumericalError, recognise
from mocli.report.figures import Entry
from mocli.report.file import dumps, plain, write_text
from mocli.report.multiqc import custom_content, sample_name

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
