"""What the report says of a simulation: what was made of what, and whether it is like real cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mocli.nn.neighbors import knn
from mocli.tasks.wanted import atlas_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mocli.report.html import Drawn
    from mocli.tasks.simulation import Simulation

AMONG = 15
"""Nearest training cells whose labels are counted."""

MOST_PLACED = 5_000
"""Simulated cells, and ten times as many training cells, whose places are compared."""


def report_groups(work: Simulation) -> None:
    """Say of every group how many cells follow how many, how they are placed, and under what measured."""
    run, asked, cells = work.run, work.asked, work.cells
    rows: list[list[Any]] = []
    nearest = _nearest_labels(work)
    for position, group in enumerate(work.wanted.groups):
        ratio = work.ratios[group.name]
        mine = nearest[cells.group == position] if group.label is not None else np.zeros(0)
        mine = mine[np.isfinite(mine)]
        share = float(mine.mean()) if len(mine) else None
        rows.append([group.name, len(group.rows), group.n, ratio, share])
    run.report.tables["simulated"] = {
        "title": "Cells that were simulated",
        "sentence": "The variance ratio is that of simulated places over the training cells' in the latent, "
        "1 being equally diverse; the last column is the share of them whose 15 nearest training cells are "
        "mostly of the label asked for.",
        "columns": ["label", "training cells", "simulated cells", "variance ratio", "of the label asked"],
        "rows": rows,
    }
    for i, name, title, low in ((3, "latent_variance_ratio", "Variance ratio of places", None),):
        values = [row[i] for row in rows if np.isfinite(row[i])]
        run.report.metrics[name] = {
            "value": float(np.mean(values)) if values else None,
            "better": None,
            "range": [0.0, low],
            "n": cells.n,
            "title": title,
            "definition": "Total variance over the latent's dimensions of the simulated cells of a label, "
            "over that of the training cells of the label (a draw from the posterior of each, where the "
            "model has one); mean over labels.",
            "sentence": "Should be about 1: below it, simulated cells are more alike than real ones.",
        }
    shares = [row[4] for row in rows if row[4] is not None]
    if shares:
        run.report.metrics["nearest_label[latent]"] = {
            "value": float(np.mean(shares)),
            "better": "higher",
            "range": [0.0, 1.0],
            "n": cells.n,
            "title": "Places nearest to the label asked for",
            "definition": "Share of simulated places most of whose 15 nearest training cells in the latent "
            "have the label asked for; mean over labels.",
            "sentence": "1 means that every cell lies among the training cells of its label.",
        }
    run.report.tables["measured_as"] = {
        "title": "How cells were made",
        "sentence": "Repeat the command with another --mode, --places, --batch or --library to change it.",
        "columns": ["choice", "value"],
        "rows": [
            ["places", _places_words(work)],
            ["batch", asked.batch if atlas_of(work.saved).batch is not None else None],
            ["library", asked.library if isinstance(asked.library, str) else f"{asked.library:g} counts"],
        ],
    }
    for key in ("latent_variance_ratio", "nearest_label[latent]"):
        entry = run.report.metrics.get(key)
        if entry is not None and entry["value"] is not None:
            run.say(f"  {key} {entry['value']:.3f}")


def _places_words(work: Simulation) -> str:
    if work.asked.mode == "mean":
        return "one normal distribution about the label's mean place (scCross)"
    mixture = work.asked.places == "mixture" or (work.asked.places == "auto" and work.asked.components)
    if mixture:
        return "drawn from the model's mixture components"
    return "around training cells, as diverse as those"


def _nearest_labels(work: Simulation) -> Any:
    """Whether most of the nearest training cells have a cell's label, `(n,)`; NaN where not looked at."""
    atlas, cells, labels = atlas_of(work.saved), work.cells, work.wanted.labels
    out = np.full(cells.n, np.nan)
    if labels is None:
        return out
    cloud = atlas.z if atlas.drawn is None else atlas.drawn
    rng = np.random.default_rng(work.run.options.seed)
    asked = rng.permutation(cells.n)[:MOST_PLACED]
    known = rng.permutation(np.flatnonzero(labels.codes >= 0))[: 10 * MOST_PLACED]
    near = knn(cells.z[asked], cloud[known], min(AMONG, len(known)), device=str(work.run.device))[1]
    of = labels.codes[known][near]
    votes = np.stack([(of == k).sum(1) for k in range(len(labels.levels))], 1)
    out[asked] = votes.argmax(1) == cells.label[asked]
    return out


def evaluate(work: Simulation) -> list[Drawn]:
    """Compare with real cells, where there are some."""
    return []


def write_html(work: Simulation, drawn: Sequence[Drawn]) -> None:
    """Write the report to read."""
    from mocli.report import html

    run = work.run
    if run.paths.html is None:
        return
    run.say("drawing the report")
    html.write(run.paths.html, html.render(run.report, drawn=drawn))
    run.add_output(run.paths.html, "the report to read")
