"""Put into the report, and into words, what a run read, trained and measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mocli.data.files.inputs import sha256
from mocli.data.links.matrices import MATRICES
from mocli.models.parameters import as_dict
from mocli.models.registry import traits_of
from mocli.report.figures import Entry
from mocli.report.tables import table
from mocli.types import Pairing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mocli.data.files.modality import ModalityFile
    from mocli.data.files.values import Health
    from mocli.data.transforms.recipe import Recipe
    from mocli.models.base import Traits
    from mocli.tasks.prepare.plan import Plan, Prepared
    from mocli.tasks.run.run import Run
    from mocli.tasks.score.evaluate import Scores
    from mocli.tasks.trained.saved import SavedModel
    from mocli.train.loop import Fit


def describe_inputs(
    run: Run, made: Plan, health: Mapping[str, Health], recipes: Mapping[str, Recipe] | None = None
) -> None:
    """Record what was read: files with their hashes, values, links; empty cells where health is known."""
    used = {name: len(recipe.selected) for name, recipe in (recipes or {}).items()}
    hashes = {path: sha256(path) for path in {p for f in made.files for p in f.paths}}
    for choice in made.choices:
        f = choice.file
        parts, known = f.by_part(), health.get(f.name)
        for part, rows in parts:
            run.report.inputs.append(
                {
                    "path": str(part.path),
                    "sha256": hashes[part.path],
                    "modality": f.name,
                    "kind": f.kind.value,
                    "n_obs": len(rows),
                    "n_vars": part.n_vars,
                    "layer": choice.layer.layer,
                    "values": choice.layer.values.value,
                    "n_empty": None if known is None else int((known.total[rows] == 0).sum()),
                    "transform": choice.transform,
                    "likelihood": choice.likelihood,
                    "seen_in": choice.seen_in,
                    "n_used": used.get(f.name),
                }
            )
    for edge in made.edges:
        aggregation = edge.aggregation()
        run.report.links.append(
            {
                "path": ", ".join(t.path for t in made.tables),
                "sha256": ", ".join(sha256(Path(t.path)) for t in made.tables if Path(t.path).is_file()),
                "dialect": ", ".join(sorted({t.dialect for t in made.tables})),
                "source": edge.source,
                "target": edge.target,
                "n_read": edge.n_read,
                "n_matched": len(edge.source_index),
                "n_columns": len(aggregation.names),
                "n_source_matched": len(np.unique(edge.source_index)),
                "n_target_matched": len(np.unique(edge.target_index)),
                "unmatched_examples": [*edge.unmatched_source[:3], *edge.unmatched_target[:3]],
            }
        )
    for m in made.matrices:
        n = len(m.names)
        run.report.links.append(
            {
                "path": m.text,
                "sha256": None,  # of the inputs
                "dialect": MATRICES,
                "source": m.source,
                "target": m.target,
                "n_read": None,  # there is no table
                "n_matched": n,
                "n_columns": n,
                "n_source_matched": None,
                "n_target_matched": None,
                "unmatched_examples": [],
            }
        )


def warn_small(run: Run, prepared: Prepared, params: Any) -> None:
    """Say where cells are fewer than a minibatch."""
    batch_size = getattr(params, "batch_size", 0)
    for name, m in prepared.bundle.modalities.items():
        if m.n_obs < batch_size:
            run.warn(
                f"{name} has {m.n_obs:,} cells, fewer than a minibatch of {batch_size}: "
                "cells are drawn more than once per step"
            )


def warn_batches(run: Run, prepared: Prepared) -> None:
    """Say where batches are one, or where none holds cells that were measured in different ways."""
    bundle = prepared.bundle
    if bundle.batch is not None and len(bundle.batch.levels) == 1:
        run.warn(f"all cells are of one batch, '{bundle.batch.levels[0]}': there is nothing to correct")
    if bundle.pairing is not Pairing.MOSAIC or bundle.batch is None or len(bundle.batch.levels) < 2:
        return
    patterns, codes = bundle.patterns(), bundle.batch.codes
    ways = [len(np.unique(patterns[codes == k])) for k in range(len(bundle.batch.levels))]
    if len(np.unique(patterns)) > 1 and max(ways) == 1:
        run.warn(
            "every batch was measured in one way only: what differs between batches cannot be told from "
            "what differs between modalities, and both may be removed or kept"
        )


def describe_model(run: Run, traits: Traits, params: object, reason: str) -> None:
    """Record the model, its parameters and why it was taken."""
    run.report.model = {
        "name": traits.name,
        "title": traits.title,
        "doi": traits.doi,
        "params": as_dict(params),
        "reason": reason,
    }


def describe_training(
    run: Run,
    done: Fit,
    n_rows: int,
    *,
    init_from: dict[str, Any] | None = None,
    frozen: dict[str, Any] | None = None,
) -> None:
    """Record what training did, on that many rows of all modalities, and what it started from."""
    run.report.training = {
        "phases": done.phases,
        "steps": done.steps,
        "epochs": round(done.cells_drawn / n_rows, 2),
        "cells_drawn": done.cells_drawn,
        "stop_reason": done.stop_reason,
        "resumed_from_step": done.resumed_from_step,
        "losses": done.losses,
        "history": done.history,
        "init_from": init_from,
        "frozen": frozen,
    }
    run.say(f"trained {done.steps:,} steps ({_STOP_WORDS.get(done.stop_reason, done.stop_reason)})")


_STOP_WORDS = {
    "plateau": "the loss no longer falls",
    "steps": "the number of steps is reached",
    "validation": "the loss of held-out cells no longer falls",
}


MAX_LINES = 12
"""Metrics that a terminal shows; the report has all."""


def describe_scores(run: Run, scores: Scores) -> None:
    """Record metrics and baselines, and log the leading ones, each with what to compare it with."""
    from mocli.metrics.registry import available_metrics

    run.report.metrics = scores.metrics
    run.report.baselines = scores.baselines
    place = {name: one.headline for name, one in available_metrics().items() if one.headline}
    measured = [key for key, entry in scores.metrics.items() if entry["value"] is not None]
    leading = sorted((k for k in measured if _name(k) in place), key=lambda k: (place[_name(k)], k))
    # without any leading one the rest is better than silence
    shown = (leading or measured)[:MAX_LINES]
    for key in shown:
        entry = scores.metrics[key]
        arrow = "higher is better" if entry["better"] == "higher" else "lower is better"
        beside = "".join(
            f"; {b['title']} {b['metrics'][key]['value']:.3f}"
            for b in scores.baselines.values()
            if b["metrics"].get(key, {}).get("value") is not None
        )
        run.say(f"  {key} {entry['value']:.3f} ({arrow}{beside})")
    if len(measured) > len(shown):
        run.say(f"  {len(measured) - len(shown)} more metrics are in the report")
    for baseline in (b for b in scores.baselines.values() if not b.get("is_bound")):
        both = [k for k in leading if baseline["metrics"].get(k, {}).get("value") is not None]
        worse = [k for k in both if _worse(scores.metrics[k], baseline["metrics"][k])]
        if 2 * len(worse) > len(both) > 1:
            run.warn(
                f"'{baseline['title']}', which needs no training, is better in {len(worse)} of {len(both)} "
                f"leading metrics ({', '.join(worse[:4])}): look at the report before you use this latent"
            )


def _worse(mine: Entry, other: Entry) -> bool:
    sign = 1 if mine["better"] == "higher" else -1
    return sign * (mine["value"] or 0.0) < sign * (other["value"] or 0.0)


def _name(key: str) -> str:
    return key.partition("[")[0]


WORST_LINKS = 100
"""Rows of the report's table of links."""

CONTRADICTED = -4.0
"""Standard errors below 0 at which the data contradict a link."""


def describe_links(run: Run, scores: Scores) -> None:
    """Put the links that the cells agree on least into the report; warn of contradictions."""
    for (a, b), links in scores.links.items():
        known = np.flatnonzero(np.isfinite(links.concordance))
        order = known[np.argsort(links.concordance[known], kind="stable")]
        if not len(order):
            continue
        drawn = f" of {len(links.names):,} drawn" if links.n_links > len(links.names) else ""
        run.report.tables[f"links_{a}_{b}"] = table(
            f"Links of {a} and {b}, those that the cells agree on least first",
            "Correlation of a linked feature with the mean of the 15 nearest cells of the other "
            f"modality in the latent ({min(len(order), WORST_LINKS):,}{drawn} shown). "
            "Negative: look at the link.",
            ["link", "concordance"],
            [[links.names[i], float(links.concordance[i])] for i in order[:WORST_LINKS]],
        )
        limit = CONTRADICTED / np.sqrt(links.n_cells)
        against = [links.names[i] for i in order if links.concordance[i] < limit]
        if against:
            run.warn(
                f"the integrated cells contradict {len(against):,} of {len(known):,} links of {a} and {b} "
                f"({', '.join(against[:5])}): where one feature is high, the other is low"
            )


def describe_given(run: Run, files: Sequence[ModalityFile], saved: SavedModel, reason: str) -> None:
    """Record inputs and model where nothing was trained."""
    hashes = {path: sha256(path) for path in {p for f in files for p in f.paths}}
    for f in files:
        run.report.inputs.extend(
            {"path": str(part.path), "sha256": hashes[part.path], "modality": f.name, "kind": f.kind.value,
             "n_obs": len(rows), "n_vars": part.n_vars}
            for part, rows in f.by_part()
        )  # fmt: skip
    traits = traits_of(saved.description["model"])
    run.report.model = {
        "name": traits.name,
        "title": traits.title,
        "doi": traits.doi,
        "params": saved.description["params"],
        "reason": reason,
    }
