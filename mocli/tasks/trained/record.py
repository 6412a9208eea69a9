"""Write what a run read, trained and measured into the report and the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mocli.data.files.contents import Health
from mocli.data.files.inputs import sha256
from mocli.data.files.modality import ModalityFile
from mocli.data.links.route import MATRICES
from mocli.data.transforms.recipe import Recipe
from mocli.models.base import SOLVED, Traits
from mocli.models.registry import traits_of
from mocli.tasks.prepare.load import Prepared
from mocli.tasks.prepare.plan import Plan
from mocli.tasks.run.run import Run
from mocli.tasks.trained.saved import SavedModel
from mocli.train.loop import Fitted, told
from mocli.types import IntArray, Pairing


def record_files(
    run: Run,
    files: Sequence[ModalityFile],
    facts: Callable[[str, IntArray], Mapping[str, Any]] = lambda *_: {},
) -> None:
    """Record files with their hashes, and what `facts` returns for a modality and for rows of its files."""
    hashes = {path: sha256(path) for path in {p for f in files for p in f.paths}}
    for f in files:
        for part, rows in f.by_part():
            run.report.inputs.append(
                {
                    "path": str(part.path),
                    "sha256": hashes[part.path],
                    "modality": f.name,
                    "kind": f.kind.value,
                    "n_obs": len(rows),
                    "n_vars": part.n_vars,
                    **facts(f.name, rows),
                }
            )


def describe_inputs(
    run: Run, plan: Plan, health: Mapping[str, Health], recipes: Mapping[str, Recipe] | None = None
) -> None:
    """Record what was read: files with their hashes, values, links; empty cells where health is known."""
    used = {name: len(recipe.selected) for name, recipe in (recipes or {}).items()}
    choices = {choice.file.name: choice for choice in plan.choices}

    def facts(name: str, rows: IntArray) -> dict[str, Any]:
        choice = choices[name]
        return {
            "layer": choice.layer.layer,
            "values": choice.layer.values.value,
            "n_empty": int((health[name].total[rows] == 0).sum()) if name in health else None,
            "transform": choice.transform,
            "likelihood": choice.likelihood,
            "seen_in": choice.seen_in,
            "n_used": used.get(name),
        }

    record_files(run, plan.files, facts)
    for edge in plan.linked.edges:
        aggregation = edge.aggregation()
        run.report.links.append(
            {
                "path": ", ".join(t.path for t in plan.linked.tables),
                "sha256": ", ".join(
                    sha256(Path(t.path)) for t in plan.linked.tables if Path(t.path).is_file()
                ),
                "dialect": ", ".join(sorted({t.dialect for t in plan.linked.tables})),
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
    for m in plan.linked.matrices:
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
    """Warn if there are fewer cells than a minibatch holds."""
    batch_size = getattr(params, "batch_size", 0)
    for name, m in prepared.bundle.modalities.items():
        if m.n_obs < batch_size:
            run.warn(
                f"{name} has {m.n_obs:,} cells, fewer than a minibatch of {batch_size}: "
                "cells are drawn more than once per step"
            )


def warn_batches(run: Run, prepared: Prepared) -> None:
    """Warn if there is only one batch, or if every batch was measured in one way only."""
    bundle = prepared.bundle
    if bundle.batch is not None and len(bundle.batch.levels) == 1:
        run.warn(f"all cells belong to one batch, '{bundle.batch.levels[0]}': there is nothing to correct")
    if bundle.pairing is not Pairing.MOSAIC or bundle.batch is None or len(bundle.batch.levels) < 2:
        return
    patterns, codes = bundle.patterns(), bundle.batch.codes
    ways = [len(np.unique(patterns[codes == k])) for k in range(len(bundle.batch.levels))]
    if len(np.unique(patterns)) > 1 and max(ways) == 1:
        run.warn(
            "every batch was measured in one way only: differences between batches cannot be told from "
            "differences between modalities, so both may be removed or kept"
        )


def describe_model(run: Run, traits: Traits, params: Mapping[str, Any], reason: str) -> None:
    """Record the model, its parameters and why it was chosen."""
    run.report.model = {
        "name": traits.name,
        "title": traits.title,
        "doi": traits.doi,
        "params": dict(params),
        "reason": reason,
    }


def describe_training(
    run: Run,
    done: Fitted,
    n_rows: int,
    *,
    init_from: dict[str, Any] | None = None,
    frozen: dict[str, Any] | None = None,
) -> None:
    """Record what training did, on how many rows of all modalities, and what it started from."""
    if done.slowed:
        run.warn(
            f"{done.slowed['reason']} once in phase '{done.slowed['phase']}', which was trained again with a "
            "tenth of the learning rates: look for extreme values in the input"
        )
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
    if done.stop_reason == SOLVED:
        figures = told({name: value["last"] for name, value in done.losses[SOLVED].items()})
        run.say(f"solved in closed form, without steps of training: {figures}")
    else:
        run.say(f"trained {done.steps:,} steps ({_STOP_WORDS.get(done.stop_reason, done.stop_reason)})")


_STOP_WORDS = {
    "plateau": "the loss no longer falls",
    "steps": "the number of steps is reached",
    "validation": "the loss of held-out cells no longer falls",
}


def describe_given(run: Run, files: Sequence[ModalityFile], saved: SavedModel, reason: str) -> None:
    """Record inputs and model where nothing was trained."""
    record_files(run, files)
    describe_model(run, traits_of(saved.description["model"]), saved.description["params"], reason)
