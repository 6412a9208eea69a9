"""`mocli integrate`: place the cells of all modalities in one latent space."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mocli.data.files.inputs import parse_source
from mocli.data.links.route import link_files
from mocli.models.parameters import as_dict, resolve
from mocli.tasks.integrate.extras import Beside
from mocli.tasks.integrate.labels import TransferOptions, read_labels
from mocli.tasks.prepare.footprint import foreseen
from mocli.tasks.prepare.plan import open_modalities, plan
from mocli.tasks.run.paths import Paths, command_line
from mocli.tasks.run.request import Result, requested
from mocli.tasks.run.run import Run
from mocli.tasks.score.graphclusters import check_resolution, cluster_graph, column_for, tell_replaced
from mocli.tasks.trained.latent import Placed
from mocli.tasks.trained.saved import DESCRIPTION, WEIGHTS
from mocli.types import Task

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mocli.tasks.integrate.write import Columns
    from mocli.tasks.run.request import Request


@dataclass(frozen=True)
class IntegrateOptions:
    """What is asked of an integration, beside what training needs."""

    transfer: TransferOptions
    beside: Beside
    reference: Path | None = None
    metrics: bool = True
    clusters: float | None = None


def integrate(
    inputs: str | Path | Sequence[str | Path],
    *,
    output: str | Path,
    reference: str | Path | None = None,
    transfer_labels: str | Sequence[str] | None = None,
    min_confidence: float = 0.5,
    sample: int = 0,
    marginal: bool = False,
    metrics: bool = True,
    clusters: float | None = None,
    dry_run: bool = False,
    command: Sequence[str] | None = None,
    **shared: Any,
) -> Result:
    """Integrate modalities into one latent; the shell's `mocli integrate`.

    Parameters have the names and meaning of the command line's options; see
    `mocli integrate --help`.

    Parameters
    ----------
    reference
        Folder of a trained model: cells are placed among those that it was trained on, and only
        weights for what is new about them are trained.
    transfer_labels, min_confidence
        Columns of obs to carry to the cells that lack them, and the confidence below which a
        label is `unknown`.
    sample
        Draws from the posterior of every cell to write as well.
    marginal
        Whether to write where cells would lie by each of their modalities alone as well.
    metrics
        Whether to measure how good the integration is, and its baselines beside it.
    clusters
        Resolution of the Louvain clusters of the graph of nearest cells to write to obs; None for none.
    shared
        What every task that trains takes: `links`, `model`, `label_key`, `params` (what `--set`
        gives), ...; see `mocli.tasks.run.request.requested`.

    Returns
    -------
    Result
        The latent itself lies in the output: `obsm["X_<model>"]` of every
        modality and of the whole; with a model that has spaces for covariates,
        `obsm["X_<model>_<covariate>"]` as well.

    Raises
    ------
    MocliError
        Every error a user can mend; `exit_code` says of which sort.
    """
    asked = IntegrateOptions(
        transfer=TransferOptions.of(transfer_labels, min_confidence),
        beside=Beside(sample, alone=marginal),
        reference=Path(reference) if reference is not None else None,
        metrics=metrics,
        clusters=clusters,
    )
    check_resolution(clusters)
    request = requested(inputs, output=output, **shared)
    paths = Paths.of(request.output, request.run, suffixes=(".h5mu",))
    sources = [parse_source(text).path for text in request.data.inputs]
    paths.refuse_inputs([*sources, *link_files(request.data.links)])
    told = command if command is not None else command_line()
    if asked.reference is not None:
        paths.refuse_inputs([asked.reference / name for name in (WEIGHTS, DESCRIPTION)])
        if dry_run:
            return _dry_map(request, asked, paths, asked.reference)
        return _map(request, asked, paths, asked.reference, told)
    if dry_run:
        return _dry_run(request, asked, paths)
    return _run(request, asked, paths, told)


def _dry_run(request: Request, asked: IntegrateOptions, paths: Paths) -> Result:
    lines: list[str] = []
    paths.check(force=request.output.force)
    made = plan(request.data, request.train, Task.INTEGRATE, lines.append)
    lines.extend(labels.summary for labels in read_labels(made.files, asked.transfer))
    params = resolve(made.traits, request.train.params, request.train.preset)
    lines.extend(f"warning: {w}" for w in made.warnings)
    if asked.clusters is not None:
        key = request.output.key_added or f"X_{made.traits.name}"
        tell_replaced(made.files, column_for(key), lambda text: lines.append(f"warning: {text}"))
    lines.append(f"parameters: {json.dumps(as_dict(params), sort_keys=True)}")
    lines.append(foreseen(made, request.train, Task.INTEGRATE))
    files = paths.results()
    lines.extend(f"would write {path}" for path in files)
    return Result(paths.output, {}, lines, files)


def _run(request: Request, asked: IntegrateOptions, paths: Paths, command: Sequence[str]) -> Result:
    with Run("integrate", paths, output=request.output, options=request.run, command=command) as run:
        # torch and scikit-learn are loaded only now: a dry run and a refusal need neither
        from mocli.tasks.integrate.check import transfer
        from mocli.tasks.integrate.write import deliver, draw_cells
        from mocli.tasks.score.clusters import find_clusters
        from mocli.tasks.score.evaluate import score
        from mocli.tasks.trained.record import describe_links, describe_scores
        from mocli.tasks.trained.train import train_model

        files = open_modalities(request.data)
        labels = read_labels(files, asked.transfer)
        for column in labels:
            run.say(column.summary)
        trained = train_model(run, request, Task.INTEGRATE, files, labels=labels, check=asked.beside.check)
        made, prepared, latent = trained.made, trained.prepared, trained.latent
        with run.timed("evaluate"):
            scores = None
            if asked.metrics:
                scores = score(latent, prepared.bundle, made.pairs, seed=request.run.seed)
                describe_scores(run, scores)
                describe_links(run, scores)
            key = request.output.key_added or f"X_{made.traits.name}"
            names = {f.name: f.name for f in made.files}
            columns: list[Columns] = []
            columns += find_clusters(run, made.traits.name, trained.model, latent, prepared.bundle, names)
            graph = None
            if asked.clusters is not None:
                tell_replaced(made.files, column_for(key), run.warn)
                graph = cluster_graph(run, asked.clusters, column_for(key), latent, prepared.bundle, names)
                columns.append(graph)
            columns += transfer(run, asked.transfer, labels, made, prepared, latent.by_modality)
        with run.timed("write"):
            deliver(
                run,
                request.data,
                Placed(
                    made.files,
                    made.relation,
                    latent.by_modality,
                    made.traits.name,
                    trained.model.params,
                    asked.beside.of(run, trained.model, prepared.bundle, latent, key, names),
                ),
                carried=columns,
                draw=partial(
                    draw_cells,
                    prepared.bundle,
                    latent,
                    None if graph is None else graph.codes,
                    seed=request.run.seed,
                ),
                confusion=None if scores is None else scores.confusion,
            )
    return Result(paths.output, run.report.as_dict(), [], paths.results())


def _map(
    request: Request, asked: IntegrateOptions, paths: Paths, reference: Path, command: Sequence[str]
) -> Result:
    with Run("integrate", paths, output=request.output, options=request.run, command=command) as run:
        from mocli.tasks.integrate.reference import map_query

        map_query(
            run,
            request,
            asked.transfer,
            asked.beside,
            reference,
            metrics=asked.metrics,
            resolution=asked.clusters,
        )
    return Result(paths.output, run.report.as_dict(), [], paths.results())


def _dry_map(request: Request, asked: IntegrateOptions, paths: Paths, reference: Path) -> Result:
    from mocli.tasks.infer.query import check_labels, match_query
    from mocli.tasks.trained.saved import load_model

    lines: list[str] = []
    paths.check(force=request.output.force)
    saved = load_model(reference)
    lines.append(f"reference: {saved.description['model']} from {reference}")
    query = match_query(
        saved,
        open_modalities(request.data),
        request.data,
        say=lines.append,
        warn=lambda text: lines.append(f"warning: {text}"),
    )
    check_labels(saved, asked.transfer)
    if asked.clusters is not None:
        key = request.output.key_added or f"X_{saved.description['model']}"
        tell_replaced(query.files, column_for(key), lambda text: lines.append(f"warning: {text}"))
    files = paths.results()
    lines.extend(f"would write {path}" for path in files)
    return Result(paths.output, {}, lines, files)
