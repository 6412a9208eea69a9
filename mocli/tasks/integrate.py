"""`mocli integrate`: place the cells of all modalities in one latent space."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mocli.data.io import parse_source
from mocli.models.parameters import as_dict, resolve
from mocli.tasks.paths import Paths, command_line
from mocli.tasks.placement import Placed
from mocli.tasks.prepare import open_modalities, plan
from mocli.tasks.request import NO_NUMBERS, NO_STRINGS, NO_VALUES, Result, requested
from mocli.tasks.run import Run
from mocli.tasks.saved import DESCRIPTION, WEIGHTS
from mocli.tasks.transfer import TransferOptions, read_labels
from mocli.types import Task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mocli.tasks.request import Request


def integrate(
    inputs: str | Path | Sequence[str | Path],
    *,
    output: str | Path,
    links: str | Path | Sequence[str | Path] = (),
    model: str = "auto",
    pairing: str = "auto",
    kind: Mapping[str, str] = NO_STRINGS,
    layer: Mapping[str, str] = NO_STRINGS,
    transform: Mapping[str, str] = NO_STRINGS,
    likelihood: Mapping[str, str] = NO_STRINGS,
    hvg: Mapping[str, int] = NO_NUMBERS,
    var_key: str | None = None,
    batch_key: str | None = None,
    covariate: Sequence[str] = (),
    continuous: Sequence[str] = (),
    label_key: str | None = None,
    pair_key: str | None = None,
    key_added: str | None = None,
    obs_prefix: bool = False,
    preset: str = "auto",
    n_latent: int | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    params: Mapping[str, object] = NO_VALUES,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    deterministic: bool = False,
    checkpoint_dir: str | Path | None = None,
    checkpoint_every: float = 600.0,
    resume: str = "auto",
    max_time: float | None = None,
    umap: bool = False,
    transfer_labels: str | Sequence[str] | None = None,
    min_confidence: float = 0.5,
    reference: str | Path | None = None,
    html: bool = True,
    report: str | Path | None = None,
    provenance: bool = True,
    force: bool = False,
    dry_run: bool = False,
    command: Sequence[str] | None = None,
) -> Result:
    """Integrate modalities into one latent; the shell's `mocli integrate`.

    Parameters have the names and meaning of the command line's options; see
    `mocli integrate --help`. `params` holds what `--set` gives. With a `reference`, the folder of
    a trained model, the cells are placed among those that it was trained on.

    Returns
    -------
    Result
        The latent itself lies in the output: `obsm["X_<model>"]` of every
        modality and of the whole.

    Raises
    ------
    MocliError
        Every error a user can mend; `exit_code` says of which sort.
    """
    asked = TransferOptions.of(transfer_labels, min_confidence)
    request = requested(
        inputs,
        output=output,
        links=links,
        model=model,
        pairing=pairing,
        kind=kind,
        layer=layer,
        transform=transform,
        likelihood=likelihood,
        hvg=hvg,
        var_key=var_key,
        batch_key=batch_key,
        covariate=covariate,
        continuous=continuous,
        label_key=label_key,
        pair_key=pair_key,
        key_added=key_added,
        obs_prefix=obs_prefix,
        preset=preset,
        n_latent=n_latent,
        max_steps=max_steps,
        batch_size=batch_size,
        lr=lr,
        params=params,
        seed=seed,
        device=device,
        threads=threads,
        deterministic=deterministic,
        checkpoint_dir=checkpoint_dir,
        checkpoint_every=checkpoint_every,
        resume=resume,
        max_time=max_time,
        umap=umap,
        html=html,
        report=report,
        provenance=provenance,
        force=force,
    )
    paths = Paths.of(request.output, request.run, suffixes=(".h5mu",))
    sources = [parse_source(text).path for text in request.data.inputs]
    paths.refuse_inputs([*sources, *map(Path, request.data.links)])
    if reference is not None:
        return _map(request, asked, paths, Path(reference), dry_run=dry_run, command=command)
    if dry_run:
        return _dry_run(request, asked, paths)
    return _run(request, asked, paths, command if command is not None else command_line())


def _dry_run(request: Request, asked: TransferOptions, paths: Paths) -> Result:
    lines: list[str] = []
    paths.check(force=request.output.force)
    made = plan(request.data, request.train, Task.INTEGRATE, lines.append)
    lines.extend(labels.summary for labels in read_labels(made.files, asked))
    params = resolve(made.traits, request.train.params, request.train.preset)
    lines.extend(f"warning: {w}" for w in made.warnings)
    lines.append(f"parameters: {json.dumps(as_dict(params), sort_keys=True)}")
    size = sum(c.file.nbytes(c.layer.layer) for c in made.choices)
    lines.append(f"matrices: about {size / 2**20:,.0f} MiB, up to 2.5 times that while they are prepared")
    files = paths.results()
    lines.extend(f"would write {path}" for path in files)
    return Result(paths.output, {}, lines, files)


def _run(request: Request, asked: TransferOptions, paths: Paths, command: Sequence[str]) -> Result:
    with Run("integrate", paths, output=request.output, options=request.run, command=command) as run:
        # torch and scikit-learn are loaded only now: a dry run and a refusal need neither
        from mocli.tasks.clusters import find_clusters
        from mocli.tasks.deliver import deliver, draw_cells
        from mocli.tasks.describe import describe_links, describe_scores
        from mocli.tasks.evaluate import score
        from mocli.tasks.training import train_model
        from mocli.tasks.transfercheck import transfer

        files = open_modalities(request.data)
        labels = read_labels(files, asked)
        for column in labels:
            run.say(column.summary)
        trained = train_model(run, request, Task.INTEGRATE, files, labels)
        made, prepared, latent = trained.made, trained.prepared, trained.latent
        with run.timed("evaluate"):
            scores = score(latent, prepared.bundle, made.pairs, seed=request.run.seed)
            describe_scores(run, scores)
            describe_links(run, scores)
            clusters = find_clusters(run, made.traits.name, trained.model, latent, prepared.bundle)
            carried = transfer(run, asked, labels, made, prepared, latent.by_modality)
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
                ),
                carried=[*clusters, *carried],
                draw=partial(draw_cells, prepared.bundle, latent, seed=request.run.seed),
                confusion=scores.confusion,
            )
    return Result(paths.output, run.report.as_dict(), [], paths.results())


def _map(
    request: Request,
    asked: TransferOptions,
    paths: Paths,
    reference: Path,
    *,
    dry_run: bool,
    command: Sequence[str] | None,
) -> Result:
    paths.refuse_inputs([reference / name for name in (WEIGHTS, DESCRIPTION)])
    if dry_run:
        return _dry_map(request, asked, paths, reference)
    told = command if command is not None else command_line()
    with Run("integrate", paths, output=request.output, options=request.run, command=told) as run:
        from mocli.tasks.mapping import map_query

        map_query(run, request, asked, reference)
    return Result(paths.output, run.report.as_dict(), [], paths.results())


def _dry_map(request: Request, asked: TransferOptions, paths: Paths, reference: Path) -> Result:
    from mocli.tasks.query import check_labels, match_query
    from mocli.tasks.saved import load_model

    lines: list[str] = []
    paths.check(force=request.output.force)
    saved = load_model(reference)
    lines.append(f"reference: {saved.description['model']} from {reference}")
    match_query(
        saved,
        open_modalities(request.data),
        request.data,
        say=lines.append,
        warn=lambda text: lines.append(f"warning: {text}"),
    )
    check_labels(saved, asked)
    files = paths.results()
    lines.extend(f"would write {path}" for path in files)
    return Result(paths.output, {}, lines, files)
