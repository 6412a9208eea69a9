"""`mocli doctor --bench`: how long a training step of each model takes on this device."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mocli
from mocli.errors import MocliError
from mocli.models.registry import available

CELLS, STEPS = 2000, 100
CLOSED_FORM = "closed form, no steps"
"""Why a model has no time per step."""


def step_times(
    device: str = "auto", *, models: Sequence[str] = (), n_cells: int = CELLS, steps: int = STEPS
) -> dict[str, Any]:
    """Train models, all by default, for some steps on the demo, and return the times.

    Returns
    -------
    dict
        `device`, and by model `steps`, milliseconds for a step if there are steps, seconds of training, of
        loading and in total, or why there are none.
    """
    from mocli.data.demo.files import write_demo

    times: dict[str, dict[str, Any]] = {}
    used = None
    with tempfile.TemporaryDirectory(prefix="mocli-") as name:
        folder = Path(name)
        write_demo(folder, n_cells=n_cells, seed=0, trimodal=False)
        for model, traits in ((m, t) for m, t in available().items() if m in models or not models):
            paired = "paired" in traits.pairings
            inputs = [folder / "multiome.h5mu"] if paired else [folder / "rna.h5ad", folder / "prot.h5ad"]
            links = folder / ("rna-atac.tsv" if paired else "rna-prot.tsv")
            try:
                report = mocli.integrate(
                    inputs,
                    output=folder / f"{model}.h5mu",
                    links=links,
                    model=model,
                    max_steps=steps,
                    device=device,
                    metrics="none",
                    html=False,
                    umap=False,
                    clusters=None,
                ).report
            except MocliError as error:
                times[model] = {"problem": error.message}
                continue
            used, timing = report["device"], report["timing"]
            done = report["training"]["steps"]
            pace = (
                {"ms_per_step": round(1000 * timing["train_s"] / done, 2)} if done else {"note": CLOSED_FORM}
            )
            times[model] = {
                "steps": done,
                **pace,
                "train_s": timing["train_s"],
                "load_s": timing["load_s"],
                "total_s": timing["total_s"],
            }
    return {"mocli": mocli.__version__, "device": used, "cells": n_cells, "models": times}
