"""The work of `mocli integrate`: choose a model, train, encode, score, cluster, carry labels, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from mocli.data.bundle import Codes, MultiOmics
from mocli.data.files.modality import ModalityFile
from mocli.errors import Interrupted, MocliError
from mocli.metrics.embedding import Nearest
from mocli.models.base import Model
from mocli.models.registry import load_class, resolve
from mocli.report.figures import table
from mocli.report.html import Confusion, Drawn, Layout
from mocli.tasks.infer.stackfitting import keep_all_stacks
from mocli.tasks.integrate.carried import Carried, CarriedPoints, confusions, draw_carried, points_of
from mocli.tasks.integrate.check import transfer
from mocli.tasks.integrate.labels import PLAIN, column_for, read_labels, tell_replaced
from mocli.tasks.integrate.options import IntegrateOptions
from mocli.tasks.integrate.write import (
    AddedColumns,
    Integrated,
    cell_columns,
    deliver,
    draw_cells,
    draw_covariates,
    lay_out,
    more_latents,
    split_points,
    write_cells,
    write_matches,
)
from mocli.tasks.prepare.load import load
from mocli.tasks.prepare.pairing import Relation, relate_files
from mocli.tasks.prepare.plan import Aim, Plan, open_modalities
from mocli.tasks.prepare.select import Demands, candidates
from mocli.tasks.run.frame import Foresight
from mocli.tasks.run.guard import return_freed_memory
from mocli.tasks.run.options import BEST
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run
from mocli.tasks.score.clusterings import (
    CellColumns,
    cells_of_files,
    cluster_graph,
    find_clusters,
    weigh_modalities,
)
from mocli.tasks.score.evaluate import describe_links, describe_scores, score, wanted
from mocli.tasks.score.picture import draw_correlations
from mocli.tasks.trained.foresee import plan_training
from mocli.tasks.trained.latent import Latent
from mocli.tasks.trained.train import Trained, build, encode, schedule_of, time_left, train_model
from mocli.train.loop import Training, fit
from mocli.types import BoolArray, FloatArray, Preset, Task

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
    seed, device, quiet = run.options.seed, str(run.device), Foresight()
    prepared = load(trial.plan, trial.params, seed=seed, say=quiet.say, warn=quiet.warn, device=device)
    start = build(quiet, trial.request, trial.plan, prepared, trial.params, device=device)
    training = Training(run.device, seed, max_time=time_left(run), frozen=start.frozen)
    fit(start.model, start.bundle, schedule_of(trial.request.train), training)
    latent, bundle = encode(run, start.model, prepared.bundle), prepared.bundle
    scores = score(latent, bundle, {}, seed=seed, names=MEASURES, device=device, beside=False).metrics
    return {key: float(entry["value"]) for key, entry in scores.items() if entry["value"] is not None}


@dataclass(frozen=True, eq=False)
class Placed:
    """Cells with latent coordinates from a model: those that it was trained on, or new ones.

    Attributes:
        name: Of the model.
        names: The file's name of each of the model's modalities that was measured.
        column_names: The user's names of `batch` and `label`.
        used: By file's name of the modality which features the model sees, `(n_vars,)`.
        around: Coordinates of the cells among which these are laid out, `(m, d)`; None for these alone.
    """

    files: Sequence[ModalityFile]
    relation: Relation
    name: str
    model: Model
    bundle: MultiOmics
    latent: Latent
    names: Mapping[str, str]
    column_names: Mapping[str, str]
    used: Mapping[str, BoolArray]
    around: FloatArray | None = None


def integrate_cells(run: Run, request: Request, options: IntegrateOptions) -> None:
    """Train a model on the inputs, and write their cells with latent coordinates, and the report."""
    options.check_model(request.train.model)
    files = open_modalities(request.data)
    labels = read_labels(files, options.transfer)
    for column in labels:
        run.say(column.summary)
    if request.train.model == BEST:
        request = choose_best(run, request, files, options.check)
    aim = Aim(Task.INTEGRATE, backed=options.backed, stacked=options.ways)
    trained = train_model(run, request, aim, files, labels=labels, check=options.check)
    if not options.marginal:  # of a sample they are in the model's folder: there may be very many
        trained = replace(trained, latent=replace(trained.latent, alone={}))
    plan, bundle, latent = trained.plan, trained.prepared.bundle, trained.latent
    placed = Placed(
        files=plan.files,
        relation=plan.relation,
        name=plan.traits.name,
        model=trained.model,
        bundle=bundle,
        latent=latent,
        names={f.name: f.name for f in plan.files},
        column_names=plan.column_names,
        used={
            name: np.isin(np.arange(recipe.n_vars), recipe.selected)
            for name, recipe in trained.prepared.recipes.items()
        },
    )

    def carry() -> list[Carried]:
        return transfer(run, options.transfer, labels, plan.pairs, bundle, latent)

    draw = partial(draw_cells, bundle, latent, seed=request.run.seed, device=str(run.device))
    keep = partial(keep_all_stacks, run, request, trained)
    complete(run, request, options, placed, partial(_judge, run, options, trained), carry, draw, keep)


def _judge(run: Run, options: IntegrateOptions, trained: Trained) -> Confusion | None:
    scores = score(
        trained.latent,
        trained.prepared.bundle,
        trained.plan.pairs,
        seed=run.options.seed,
        names=wanted(options.metrics),
        device=str(run.device),
        say=run.say,
    )
    describe_scores(run, scores)
    describe_links(run, scores)
    return scores.confusion


def complete(
    run: Run,
    request: Request,
    options: IntegrateOptions,
    placed: Placed,
    judge: Callable[[], Confusion | None],
    carry: Callable[[], list[Carried]],
    draw: Callable[[Codes | None, FloatArray | None, Sequence[CarriedPoints]], Layout],
    keep: Callable[[], None] = lambda: None,
) -> None:
    """Write cells with their coordinates, judge and cluster them, and write the results and the report.

    Args:
        judge: Measures the coordinates and records it in the report; returns labels against labels, if there
            are any.
        carry: Transfers labels to the cells.
        draw: Makes the picture of the HTML report from clusters and UMAP coordinates, if there are any, and
            from transferred labels.
        keep: Adds to the model's folder once cells are written.
    """
    bundle, latent, names, device = placed.bundle, placed.latent, placed.names, str(run.device)
    key = request.output.key_added or f"X_{placed.name}"
    more = more_latents(run, options, placed.model, bundle, latent, key, names)
    by_file = {names[name]: z for name, z in latent.by_modality.items()}
    integrated = Integrated(placed.files, placed.relation, by_file, placed.name, placed.model.params, more)
    with run.timed("write"):
        obs_columns = cell_columns(bundle, placed.column_names, names)
        write_cells(run, request.data, integrated, obs_columns, placed.used)
        if options.matches:
            write_matches(run, by_file if latent.joint is None else {}, placed.files)
    if options.ways:
        with run.timed("stack"):
            keep()
    clusters = None
    with run.timed("evaluate"):
        confusion = judge() if options.metrics != "none" else None
        columns: list[AddedColumns] = [*find_clusters(run, placed.name, placed.model, latent, bundle, names)]
        if options.clusters is not None:
            tell_replaced(placed.files, column_for(key), run.warn)
            nearest = Nearest.of(latent.whole(bundle), device=device)
            integrated = replace(integrated, nearest=nearest)
            return_freed_memory()
            clusters = cluster_graph(run, options.clusters, column_for(key), nearest, bundle, names)
            taken = any(PLAIN in f.obs for f in placed.files)
            names_of_column = [clusters.key] if taken else [clusters.key, PLAIN]
            columns.append(CellColumns.of_codes(clusters, cells_of_files(bundle, names), names_of_column))
        if options.modality_weights:
            columns += weigh_modalities(run, bundle, names, clusters)
        carried = carry()
        columns += carried
        main = [labels for labels in carried if labels.maps]
        confusion = confusions(main, placed.files) or confusion

    def pictures() -> list[Drawn]:
        heat = draw_correlations(bundle, clusters) if clusters is not None else []
        spaces = draw_covariates(placed.model, bundle, run.device, seed=run.options.seed)
        return [*heat, *spaces, *(picture for labels in main for picture in draw_carried(labels))]

    with run.timed("write"):
        xy = umap = None
        if run.output.umap:
            run.say("computing UMAP coordinates of every cell")
            with run.timed("draw"):
                return_freed_memory()
                xy = lay_out(latent, bundle, placed.around, seed=run.options.seed, device=device)
            first = 0 if placed.around is None else len(placed.around)
            umap = split_points(xy[first:], latent, bundle, names)
        deliver(
            run,
            request.data,
            integrated,
            columns=columns,
            umap=umap,
            draw=lambda: draw(clusters, xy, [points_of(labels, latent, bundle, names) for labels in main]),
            confusion=confusion,
            more=pictures,
        )
