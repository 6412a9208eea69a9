"""The page of a benchmark: rankings, bars with seeds, embeddings, time and memory, pictures of studies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mocli.report.html import Drawn
from mocli.report.plots import Curve, Heat, cost_bars, curves, heat_maps, ranked_bars, side_by_side
from mocli.report.ranking import Ranking, metric_title
from mocli.report.scatter import Category
from mocli.tasks.benchmark.contender import BEST, Contender
from mocli.tasks.benchmark.ground import Ground
from mocli.tasks.benchmark.table import COST, Measured, Record, leading_metrics
from mocli.tasks.score.picture import layout
from mocli.types import FloatArray, IntArray

DRAWN_CELLS = 3000
"""Points of every embedding in the picture."""

DRAWN_COSTS = {"train_s": ("Training, s", 1.0), "peak_memory_bytes": ("Peak memory, MB", 1e6)}
"""The costs of runs that are drawn, and their units."""

MOST_PANELS = 12


def pictures(
    records: Sequence[Record],
    ranked: Mapping[str, Ranking],
    shown: Sequence[Contender],
    ground: Ground,
    *,
    swept: Swept,
    seed: int,
) -> dict[str, Any]:
    """Return what the report draws: rankings by task, studies, costs, and the embeddings of `shown`."""
    drawn: list[Drawn] = []
    for task, ranking in ranked.items():
        drawn.append(
            Drawn(
                ranked_bars(ranking),
                f"Leading metrics, {task}",
                "Bars are means over seeds, dots single seeds. Models are blue, peers pink, embeddings of "
                "other tools green, controls grey. Training a model is worthwhile if no control is as good.",
            )
        )
    drawn += studies(records, swept)
    caption = "Bars are means over seeds, dots single seeds; wall-clock time on this machine."
    of_all, of_studies = costs(records, studies=False), costs(records, studies=True)
    if of_all:
        drawn.append(Drawn(cost_bars(of_all), "Time and memory", caption))
    if of_studies:
        drawn.append(Drawn(cost_bars(of_studies), "Time and memory of studies", caption))
    drawn += _embeddings(shown, ranked.get("integrate"), ground, seed)
    return {"drawn": drawn, "rankings": ranked}


def costs(records: Sequence[Record], *, studies: bool) -> dict[str, dict[str, list[float]]]:
    """Return values by cost, then by model and task; of studies, each model's beside those of all data."""
    by_cost: dict[str, dict[str, list[float]]] = {}
    studied = {(r.method, r.task) for r in records if r.study and r.kind == "model"}
    records = [r for r in records if r.aspect == COST and r.value is not None and r.key in DRAWN_COSTS]
    if studies:
        records = [r for r in records if (r.method, r.task) in studied]
        order = list(dict.fromkeys((r.method, r.task) for r in records))
        records.sort(key=lambda r: order.index((r.method, r.task)))
    for r in records:
        if r.value is None or (r.study and not studies):
            continue
        title, unit = DRAWN_COSTS[r.key]
        study = f", {r.study or 'all'}" if studies else ""
        by_cost.setdefault(title, {}).setdefault(f"{r.method}, {r.task}{study}", []).append(r.value / unit)
    return by_cost


def _embeddings(
    shown: Sequence[Contender], ranking: Ranking | None, ground: Ground, seed: int
) -> list[Drawn]:
    if not shown:
        return []
    place = {line.method: i for i, line in enumerate(ranking.lines)} if ranking else {}
    order = sorted(shown, key=lambda c: place.get(c.name, 99))
    order = [c for c in order if c.name != BEST][:MOST_PANELS]
    bundle = ground.bundle
    panels, cells_of, modality_of = [], [], []
    for c in order:
        z, cells, modality = _points(c, ground)
        n = len(z)
        chosen = np.sort(np.random.default_rng(seed).permutation(n)[:DRAWN_CELLS])
        name = f"{c.name}, seed {c.seed}" if c.seed is not None else c.name
        panels.append((name, layout(z[chosen], seed=seed)))
        cells_of.append(cells[chosen])
        modality_of.append(modality[chosen])
    pictures = []
    words = f"UMAP of each method's coordinates, at most {DRAWN_CELLS:,} points, best method first."
    for title, codes, how in (
        ("label", bundle.label, "Labels should lie apart, and at the same position in all modalities."),
        ("batch", bundle.batch, "Batches should be mixed within every group."),
    ):
        if codes is not None:
            colours = [Category(codes.codes[cells], codes.levels) for cells in cells_of]
            picture = side_by_side(panels, colours)
            pictures.append(Drawn(picture, f"Cells by {title}, method by method", f"{words} {how}"))
    if len(bundle.modalities) > 1:
        names = tuple(bundle.modalities)
        if any(len(np.unique(m)) > 1 for m in modality_of):
            colours = [Category(m, (*names, "all modalities of a cell")) for m in modality_of]
            picture = side_by_side(panels, colours)
            how = "Where modalities are integrated, their colours lie on top of each other."
            pictures.append(Drawn(picture, "Cells by modality, method by method", f"{words} {how}"))
    return pictures


def _points(c: Contender, ground: Ground) -> tuple[FloatArray, IntArray, IntArray]:
    """Return coordinates, their cells and the modality: one point for each set of coordinates of a cell."""
    bundle = ground.bundle
    names = list(bundle.modalities)
    if not c.by_modality or c.joint is not None:
        z = c.whole(ground)
        return z, np.arange(bundle.n_cells), np.full(bundle.n_cells, len(names))
    parts = [
        (c.by_modality[m], bundle.cells_of(m), np.full(len(c.by_modality[m]), names.index(m)))
        for m in c.by_modality
    ]
    z, cells, modality = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
    return z, cells, modality


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
