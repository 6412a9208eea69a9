"""The page of a benchmark: rankings, bars with seeds, embeddings side by side, time and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mocli.report import benchplots
from mocli.report.html import Drawn
from mocli.report.ranking import Ranking
from mocli.report.scatter import Category
from mocli.tasks.benchmark.contender import Contender
from mocli.tasks.benchmark.controls import BEST
from mocli.tasks.benchmark.ground import Ground
from mocli.tasks.benchmark.studies.studypictures import Swept, studies
from mocli.tasks.benchmark.table import COST, Record
from mocli.tasks.score.picture import layout
from mocli.types import FloatArray, IntArray

DRAWN_CELLS = 3000
"""Points of every embedding in the picture."""

DRAWN_COSTS = {
    "train_s": ("Training, s", 1.0),
    "peak_memory_bytes": ("Peak memory, MB", 1e6),
}
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
                benchplots.ranked_bars(ranking),
                f"Leading metrics, {task}",
                "Bars are means over seeds, dots single seeds. Models are blue, peers pink, embeddings of "
                "other tools green, controls grey. Training a model is worthwhile if no control is as good.",
            )
        )
    drawn += studies(records, swept)
    caption = "Bars are means over seeds, dots single seeds; wall-clock time on this machine."
    of_all, of_studies = costs(records, studies=False), costs(records, studies=True)
    if of_all:
        drawn.append(Drawn(benchplots.cost_bars(of_all), "Time and memory", caption))
    if of_studies:
        drawn.append(Drawn(benchplots.cost_bars(of_studies), "Time and memory of studies", caption))
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
        name = f"{c.title}, seed {c.seed}" if c.seed is not None else c.title
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
            picture = benchplots.side_by_side(panels, colours)
            pictures.append(Drawn(picture, f"Cells by {title}, method by method", f"{words} {how}"))
    if len(bundle.modalities) > 1:
        names = tuple(bundle.modalities)
        if any(len(np.unique(m)) > 1 for m in modality_of):
            colours = [Category(m, (*names, "all modalities of a cell")) for m in modality_of]
            picture = benchplots.side_by_side(panels, colours)
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
