"""What the page draws of studies: metrics against a number, and heat maps of a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mocli.report.comparison import metric_title
from mocli.report.html import Drawn
from mocli.report.studyplots import Curve, Heat, curves, heat_maps
from mocli.tasks.benchmark.table import Measured, Record, leading_metrics

Swept = Mapping[tuple[str, str, str], Mapping[str, object]]
"""The hyper-parameters of each study of a sweep, by task, model and study."""

MOST_METRICS = 6
AXES = {
    "cells": "Cells",
    "panel": "Linked features, drawn at random",
    "informative panel": "Linked features, the most informative",
    "corrupt": "Share of wrong links",
    "fraction": "Share of the paired cells that is trained on",
}


def studies(records: Sequence[Record], swept: Swept) -> list[Drawn]:
    """Return the pictures of all studies that are numbers or sweeps."""
    found, keys = leading_metrics(records)
    titles = {r.key: metric_title(r.key, r.title) for r in records}
    of_task = {
        task: [k for k in keys if any(k in of for at, of in found.items() if at[0] == task and at[2])]
        for task in dict.fromkeys(task for task, _, study in found if study)
    }
    drawn = []
    for task, shown in of_task.items():
        drawn += list(_curves(found, task, shown[:MOST_METRICS], titles))
        drawn += list(_heat_maps(found, swept, task, shown[:MOST_METRICS], titles))
    return drawn


def _curves(found: Measured, task: str, keys: Sequence[str], titles: Mapping[str, str]) -> Iterator[Drawn]:
    """Yield metrics against the number of a study, for those with two numbers or more."""
    for family, words in AXES.items():
        at = {
            (method, float(study.removeprefix(f"{family}="))): of
            for (of_task, method, study), of in found.items()
            if of_task == task and study.startswith(f"{family}=")
        }
        if len({number for _, number in at}) < 2:
            continue
        panels = []
        for key in keys:
            lines = [
                Curve(
                    method,
                    {x: of[key] for (name, x), of in sorted(at.items()) if name == method and key in of},
                    found.get((task, method, ""), {}).get(key, []),
                )
                for method in dict.fromkeys(name for name, _ in at)
            ]
            if any(line.values for line in lines):
                panels.append((titles[key], [line for line in lines if line.values]))
        if not panels:
            continue
        yield Drawn(
            curves(panels, words),
            f"{task}: {words.lower()}",
            "Lines are means over seeds, dots single seeds; the short line at the right is the benchmark "
            "without the study.",
        )


def _heat_maps(
    found: Measured, swept: Swept, task: str, keys: Sequence[str], titles: Mapping[str, str]
) -> Iterator[Drawn]:
    """Yield the metrics over the values of a sweep, model by model."""
    for model in dict.fromkeys(name for of_task, name, _ in swept if of_task == task):
        settings = {study: of for (at, name, study), of in swept.items() if (at, name) == (task, model)}
        measured = {s: of for s in settings if (of := found.get((task, model, s)))}
        there = [key for key in keys if any(key in of for of in measured.values())]
        if not there:
            continue
        maps = _maps(settings, measured, there, titles)
        names = ", ".join(next(iter(settings.values())))
        yield Drawn(
            heat_maps(maps),
            f"{task}: {model} over {names}",
            "Means over seeds, written in each field. The darker, the higher within a picture"
            + ("." if len(next(iter(settings.values()))) > 1 else ", line by line."),
        )


def _maps(
    settings: Mapping[str, Mapping[str, object]],
    measured: Mapping[str, Mapping[str, list[float]]],
    keys: Sequence[str],
    titles: Mapping[str, str],
) -> list[Heat]:
    """One hyper-parameter: metrics by its values; more: for each metric the first by the others."""
    first, *others = next(iter(settings.values()))

    def place(study: str) -> tuple[str, str]:
        values = settings[study]
        return str(values[first]), ", ".join(f"{name} {values[name]}" for name in others)

    rows = list(dict.fromkeys(place(s)[0] for s in settings))
    columns = list(dict.fromkeys(place(s)[1] for s in settings))

    def table(key: str) -> np.ndarray:
        found = np.full((len(rows), len(columns)), np.nan)
        for study, of in measured.items():
            if key in of:
                row, column = place(study)
                found[rows.index(row), columns.index(column)] = np.mean(of[key])
        return found

    if others:
        return [Heat(titles[key], table(key), [f"{first} {r}" for r in rows], columns) for key in keys]
    values = np.concatenate([table(key).T for key in keys])
    return [Heat("", values, [titles[key] for key in keys], [f"{first} {r}" for r in rows], by_row=True)]
