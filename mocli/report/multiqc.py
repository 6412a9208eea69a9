"""The file of a run for MultiQC: `OUT_mqc.json`.

A report of any status becomes a row of a table; the rows of many runs form one table because they share the
`id`.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import PurePath
from typing import Any

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
