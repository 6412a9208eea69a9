"""`--model best`: train every candidate for a short time on these cells, and choose without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch

from mocli.data.files.modality import ModalityFile
from mocli.models.base import Model, SmoothsLinks, Traits
from mocli.models.parameters import resolve
from mocli.models.registry import load_class
from mocli.report.figures import table
from mocli.tasks.prepare.load import load
from mocli.tasks.prepare.pairing import relate_files
from mocli.tasks.prepare.plan import make_plan
from mocli.tasks.prepare.select import candidates
from mocli.tasks.prepare.smoothing import smooth_links
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run
from mocli.tasks.score.evaluate import score
from mocli.tasks.trained.train import encode, schedule_of
from mocli.train.loop import Training, fit
from mocli.types import Preset, Task

MEASURES = ("neighbor_conservation", "link_concordance", "mixing")
"""What tells placements apart without labels; the last two where every modality has places of its own."""


def choose_best(run: Run, request: Request, files: Sequence[ModalityFile]) -> Request:
    """Return the request with the model named whose short training places these cells best.

    The candidates are those that `auto` ranks for such cells, and that know what is asked of training. The
    mean of their ranks by every measure decides, and the rank of `auto` between equals.
    """
    pairing = relate_files(files, request.data.pairing).pairing
    able = candidates(
        task=Task.INTEGRATE,
        pairing=pairing,
        kinds=[f.kind for f in files],
        links=bool(request.data.links),
        params=request.train.params,
        steps=request.train.bounds_steps,
    )
    if len(able) < 2:
        return request
    found = {}
    for traits in able:
        with run.timed("choose"):
            found[traits.name] = _tried(run, request, files, traits)
        words = ", ".join(f"{name} {value:.3f}" for name, value in found[traits.name].items())
        run.say(f"{traits.name}, trained for a short time: {words}")
    ranks = label_free_ranks(found)
    best = min((traits.name for traits in able), key=lambda name: ranks[name])
    run.say(f"--model best: {best} is first, without labels")
    measures = list(found[best])
    run.report.tables["model_choice"] = table(
        "Which model places these cells best",
        "Each was trained for a short time and measured without labels; the lowest mean rank wins.",
        ["model", *measures, "mean rank"],
        [[name, *(values.get(m) for m in measures), ranks[name]] for name, values in found.items()],
    )
    return replace(request, train=replace(request.train, model=best))


def label_free_ranks(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the mean over measures of each model's rank, 1 the best; measures that some lack do not count.

    Parameters
    ----------
    found
        By model, then by metric (`mixing`, `link_concordance[rna-prot]`), its value.
    """
    values = pd.DataFrame({name: dict(of) for name, of in found.items()}).T.dropna(axis=1)
    lower = [name for name in values.columns if name.startswith("mixing")]
    values[lower] *= -1
    ranks = values.rank(ascending=False).mean(axis=1).fillna(0.0)
    return {str(name): float(rank) for name, rank in ranks.items()}


def _tried(run: Run, request: Request, files: Sequence[ModalityFile], traits: Traits) -> dict[str, float]:
    """Train one model by its fast preset, and measure where it places the cells."""
    seed = request.run.seed
    plan = make_plan(
        request.data, replace(request.train, model=traits.name), Task.INTEGRATE, _quiet, files=files
    )
    params = resolve(traits, request.train.params, request.train.preset)
    prepared = load(plan, params, seed=seed, say=_quiet, warn=_quiet)
    torch.manual_seed(seed)
    model: Model = load_class(traits.model).from_bundle(prepared.bundle, params)
    bundle = prepared.bundle
    if isinstance(params, SmoothsLinks) and params.smooth_links:
        bundle = smooth_links(bundle, seed=seed, say=_quiet)
    short = schedule_of(replace(request.train, preset=Preset.FAST.value))
    fit(model, bundle, short, Training(run.device, seed))
    latent = encode(run, model, prepared.bundle)
    scores: dict[str, Any] = score(latent, prepared.bundle, {}, seed=seed, names=MEASURES).metrics
    return {key: float(entry["value"]) for key, entry in scores.items() if entry["value"] is not None}


def _quiet(text: str) -> None:
    """Say nothing: the run that follows says it again of the model that is taken."""
