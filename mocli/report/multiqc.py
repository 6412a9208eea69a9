"""The keys that make MultiQC read a report as custom content.

Named `*_mqc.json`, a report of any status becomes a row of a table; the rows
of many runs gather in one table because they share the `id`.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from mocli.report.comparison import metric_title

if TYPE_CHECKING:
    from collections.abc import Mapping

RANKING = "ranking_"
"""How keys of tables begin that have a method in every row."""

_ENDINGS = (".gz", ".h5mu", ".h5ad", ".h5", ".tsv", ".csv")


def custom_content(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return `id`, `section_name`, `description`, `plot_type`, `pconfig`, `data` of a plain report.

    No headers are given: MultiQC takes them from the last file alone and drops
    the columns that they lack, which a failed or unlabelled run would do to all.
    """
    task = report["task"]
    row: dict[str, Any] = {"status": report["status"]}
    if report["training"] and report["training"]["steps"] is not None:
        row["steps"] = report["training"]["steps"]
    row |= {key: m["value"] for key, m in report["metrics"].items() if m["value"] is not None}
    return {
        "id": f"mocli_{task}",
        "section_name": f"mocli {task}",
        "description": _description(report),
        "plot_type": "table",
        "pconfig": {"id": f"mocli_{task}_table", "title": f"mocli {task}", "col1_header": "Run"},
        "data": _ranked(report) or {report["sample"]: row},
    }


def _ranked(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a row for each method of a benchmark, from its tables of methods."""
    found: dict[str, dict[str, Any]] = {}
    for name, table in report["tables"].items():
        if name.startswith(RANKING):
            for method, *values in table["rows"]:
                named = zip(table["columns"][1:], values, strict=True)
                found.setdefault(method, {}).update({k: v for k, v in named if v is not None})
    return found


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


def _description(report: Mapping[str, Any]) -> str:
    parts = [
        f"{key}: {metric_title(key, metric['title'])}"
        + (f" ({metric['better']} is better)" if metric["better"] else "")
        for key, metric in report["metrics"].items()
    ]
    return "Single-cell multi-omics with mocli. " + "; ".join(parts) + ("." if parts else "")
