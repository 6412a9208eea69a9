"""`--model best`: train every candidate for a short time on these cells, and choose without labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from mocli.data.files.modality import ModalityFile
from mocli.errors import Interrupted, MocliError
from mocli.models.parameters import resolve
from mocli.models.registry import load_class
from mocli.report.figures import table
from mocli.tasks.prepare.load import load
from mocli.tasks.prepare.pairing import relate_files
from mocli.tasks.prepare.plan import Plan
from mocli.tasks.prepare.select import Demands, candidates
from mocli.tasks.run.frame import Foresight
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run
from mocli.tasks.score.evaluate import score
from mocli.tasks.trained.foresee import plan_training
from mocli.tasks.trained.train import build, encode, schedule_of, time_left
from mocli.train.loop import Training, fit
from mocli.types import Preset, Task

MEASURES = ("neighbor_conservation", "link_concordance", "mixing")
"""Metrics that compare integrations without labels; the last two if modalities have their own coordinates."""


@dataclass(frozen=True, eq=False)
class Trial:
    """The planned short training of a candidate: the request, for this model and with the fast preset."""

    request: Request
    plan: Plan
    params: Any


def choose_best(
    run: Run, request: Request, files: Sequence[ModalityFile], check: Callable[[Any, str], None]
) -> Request:
    """Return the request with the model named whose short training integrates these cells best.

    The candidates are those that `auto` ranks for such cells, that can meet the requests for the training,
    and that accept the given values and hyper-parameters; all this is checked before the first is trained.
    The mean of their ranks by every measure decides, and the rank of `auto` between equals.

    `check`: called with a candidate's class and name, to refuse it. Raises `MocliError`: every candidate is
    refused; the error says why the first is.
    """
    refused: dict[str, MocliError] = {}
    trials = _trials(request, files, check, refused)
    by_model: dict[str, dict[str, float]] = {}
    if len(trials) > 1:
        for name, trial in trials.items():
            with run.timed("choose"):
                try:
                    by_model[name] = _tried(run, trial)
                except Interrupted:
                    raise
                except MocliError as error:
                    refused[name] = error
                    continue
            words = ", ".join(f"{measure} {value:.3f}" for measure, value in by_model[name].items())
            run.say(f"{name}, trained for a short time: {words}")
    for name, why in refused.items():
        run.say(f"--model best leaves {name} out: {why.message}")
    able = [name for name in trials if name not in refused]
    if not able and refused:
        raise next(iter(refused.values()))
    if len(able) < 2:
        return _named(request, able[0], "the only candidate that accepts all options") if able else request
    ranks = label_free_ranks(by_model)
    best = min(by_model, key=lambda name: ranks[name])
    run.say(f"--model best: {best} is first, without labels")
    measures = list(by_model[best])
    run.report.tables["model_choice"] = table(
        "Which model integrates these cells best",
        "Each was trained for a short time and measured without labels; the lowest mean rank wins.",
        ["model", *measures, "mean rank"],
        [[name, *(values.get(m) for m in measures), ranks[name]] for name, values in by_model.items()],
    )
    return _named(request, best, f"first of {', '.join(by_model)} by short trainings, without labels")


def _named(request: Request, model: str, reason: str) -> Request:
    return replace(request, train=replace(request.train, model=model, reason=reason))


def label_free_ranks(by_model: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the mean over measures of each model's rank, 1 the best; measures that some lack do not count.

    `found`: by model, then by metric (`mixing`, `link_concordance[rna-prot]`), its value.
    """
    values = pd.DataFrame({name: dict(measures) for name, measures in by_model.items()}).T.dropna(axis=1)
    lower = [name for name in values.columns if name.startswith("mixing")]
    values[lower] *= -1
    ranks = values.rank(ascending=False).mean(axis=1).fillna(0.0)
    return {str(name): float(rank) for name, rank in ranks.items()}


def _trials(
    request: Request,
    files: Sequence[ModalityFile],
    check: Callable[[Any, str], None],
    refused: dict[str, MocliError],
) -> dict[str, Trial]:
    """Plan the short training of every candidate; those that cannot be trained as asked are noted."""
    able = candidates(
        task=Task.INTEGRATE,
        pairing=relate_files(files, request.data.pairing).pairing,
        kinds=[f.kind for f in files],
        links=bool(request.data.links),
        demands=Demands.by(request.data, request.train),
    )
    trials = {}
    for traits in able:
        short = replace(request, train=replace(request.train, model=traits.name, preset=Preset.FAST.value))
        try:
            check(load_class(traits.model), traits.name)
            plan = plan_training(short, Task.INTEGRATE, Foresight().say, files)
            params = resolve(traits, short.train.params, short.train.preset)
            trials[traits.name] = Trial(short, plan, params)
        except MocliError as error:
            refused[traits.name] = error
    return trials


def _tried(run: Run, trial: Trial) -> dict[str, float]:
    """Train one model for a short time, and measure its latent coordinates.

    Its messages are dropped: the run that follows logs them for the chosen model.
    """
    seed, quiet = run.options.seed, Foresight()
    prepared = load(trial.plan, trial.params, seed=seed, say=quiet.say, warn=quiet.warn)
    start = build(quiet, trial.request, trial.plan, prepared, trial.params)
    training = Training(run.device, seed, max_time=time_left(run), frozen=start.frozen)
    fit(start.model, start.bundle, schedule_of(trial.request.train), training)
    latent, bundle = encode(run, start.model, prepared.bundle), prepared.bundle
    device = str(run.device)
    scores = score(latent, bundle, {}, seed=seed, names=MEASURES, device=device, beside=False).metrics
    return {key: float(entry["value"]) for key, entry in scores.items() if entry["value"] is not None}
