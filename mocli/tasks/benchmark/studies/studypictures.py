"""Pictures of studies: metrics against a number, and heat maps of a sweep."""

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
    "seen-in": "Share of the cells in which features must be seen",
    "fraction": "Share of the paired cells trained on",
}


def studies(records: Sequence[Record], swept: Swept) -> list[Drawn]:
    """Return the pictures of all studies that are numbers or sweeps."""
    measured, keys = leading_metrics(records)
    titles = {r.key: metric_title(r.key, r.title) for r in records}
    of_task = {
        task: [
            k
            for k in keys
            if any(k in by_key for key_of, by_key in measured.items() if key_of[0] == task and key_of[2])
        ]
        for task in dict.fromkeys(task for task, _, study in measured if study)
    }
    drawn = []
    for task, shown in of_task.items():
        drawn += list(_curves(measured, task, shown[:MOST_METRICS], titles))
        drawn += list(_heat_maps(measured, swept, task, shown[:MOST_METRICS], titles))
    return drawn


def _curves(measured: Measured, task: str, keys: Sequence[str], titles: Mapping[str, str]) -> Iterator[Drawn]:
    """Yield metrics against the number of a study, for those with two numbers or more."""
    for family, words in AXES.items():
        by_number = {
            (method, float(study.removeprefix(f"{family}="))): by_key
            for (of_task, method, study), by_key in measured.items()
            if of_task == task and study.startswith(f"{family}=")
        }
        if len({number for _, number in by_number}) < 2:
            continue
        panels = []
        for key in keys:
            lines = [
                Curve(
                    method,
                    {
                        x: by_key[key]
                        for (name, x), by_key in sorted(by_number.items())
                        if name == method and key in by_key
                    },
                    measured.get((task, method, ""), {}).get(key, []),
                )
                for method in dict.fromkeys(name for name, _ in by_number)
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
    all_measured: Measured, swept: Swept, task: str, keys: Sequence[str], titles: Mapping[str, str]
) -> Iterator[Drawn]:
    """Yield the metrics over the values of a sweep, model by model."""
    for model in dict.fromkeys(name for of_task, name, _ in swept if of_task == task):
        settings = {
            study: by_key
            for (at_task, name, study), by_key in swept.items()
            if (at_task, name) == (task, model)
        }
        measured = {s: by_key for s in settings if (by_key := all_measured.get((task, model, s)))}
        keys_there = [key for key in keys if any(key in by_key for by_key in measured.values())]
        if not keys_there:
            continue
        maps = _maps(settings, measured, keys_there, titles)
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
        grid = np.full((len(rows), len(columns)), np.nan)
        for study, by_key in measured.items():
            if key in by_key:
                row, column = place(study)
                grid[rows.index(row), columns.index(column)] = np.mean(by_key[key])
        return grid

    if others:
        return [Heat(titles[key], table(key), [f"{first} {r}" for r in rows], columns) for key in keys]
    values = np.concatenate([table(key).T for key in keys])
    return [Heat("", values, [titles[key] for key in keys], [f"{first} {r}" for r in rows], by_row=True)]
