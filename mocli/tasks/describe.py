"""Put into the report, and into words, what a run read, trained and measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mocli.data.io import sha256
from mocli.models.parameters import as_dict
from mocli.types import Pairing

if TYPE_CHECKING:
    from mocli.tasks.evaluate import Scores
    from mocli.tasks.prepare import Plan, Prepared
    from mocli.tasks.run import Run
    from mocli.train.loop import Fit


def describe_inputs(run: Run, made: Plan, prepared: Prepared) -> None:
    """Record what was read: files with their hashes, values, links."""
    hashes = {path: sha256(path) for path in {f.path for f in made.files}}
    for choice in made.choices:
        f = choice.file
        run.report.inputs.append(
            {
                "path": str(f.path),
                "sha256": hashes[f.path],
                "modality": f.name,
                "kind": f.kind.value,
                "n_obs": f.n_obs,
                "n_vars": f.n_vars,
                "layer": choice.layer.layer,
                "values": choice.layer.values.value,
                "n_empty": prepared.health[f.name].n_empty,
                "transform": choice.transform,
                "likelihood": choice.likelihood,
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


def warn_small(run: Run, prepared: Prepared, params: Any) -> None:
    """Say where cells are fewer than a minibatch."""
    batch_size = getattr(params, "batch_size", 0)
    for name, m in prepared.bundle.modalities.items():
        if m.n_obs < batch_size:
            run.warn(
                f"{name} has {m.n_obs:,} cells, fewer than a minibatch of {batch_size}: "
                "cells are drawn more than once per step"
            )


def warn_confounded(run: Run, prepared: Prepared) -> None:
    """Say where no batch holds cells that were measured in different ways."""
    bundle = prepared.bundle
    if bundle.pairing is not Pairing.MOSAIC or bundle.batch is None or len(bundle.batch.levels) < 2:
        return
    patterns, codes = bundle.patterns(), bundle.batch.codes
    ways = [len(np.unique(patterns[codes == k])) for k in range(len(bundle.batch.levels))]
    if len(np.unique(patterns)) > 1 and max(ways) == 1:
        run.warn(
            f"every batch of obs['{bundle.batch.key}'] was measured in one way only: what differs between "
            "batches cannot be told from what differs between modalities, and both may be removed or kept"
        )


def describe_training(run: Run, made: Plan, params: Any, done: Fit) -> None:
    """Record the model, its parameters and what training did."""
    cells = sum(c.file.n_obs for c in made.choices)
    run.report.model = {
        "name": made.traits.name,
        "title": made.traits.title,
        "doi": made.traits.doi,
        "params": as_dict(params),
        "reason": made.why_model,
    }
    run.report.training = {  # type: ignore[assignment]
        "phases": done.phases,
        "steps": done.steps,
        "epochs": round(done.cells_drawn / cells, 2),
        "cells_drawn": done.cells_drawn,
        "stop_reason": done.stop_reason,
        "resumed_from_step": done.resumed_from_step,
        "losses": done.losses,
        "history": done.history,
    }
    run.say(f"trained {done.steps:,} steps ({_STOP_WORDS.get(done.stop_reason, done.stop_reason)})")


_STOP_WORDS = {
    "plateau": "the loss no longer falls",
    "steps": "the number of steps is reached",
    "validation": "the loss of held-out cells no longer falls",
}


def describe_scores(run: Run, scores: Scores) -> None:
    """Record metrics and baselines, and log each on a line with what to compare it with."""
    run.report.metrics = scores.metrics
    run.report.baselines = scores.baselines
    for key, entry in scores.metrics.items():
        if entry["value"] is not None:
            arrow = "higher is better" if entry["better"] == "higher" else "lower is better"
            beside = "".join(
                f"; {b['title']} {b['metrics'][key]['value']:.3f}"
                for b in scores.baselines.values()
                if b["metrics"].get(key, {}).get("value") is not None
            )
            run.say(f"  {key} {entry['value']:.3f} ({arrow}{beside})")
