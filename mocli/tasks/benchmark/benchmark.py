"""`mocli benchmark`: which model for these data, answered with figures beside controls."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mocli.data.files.inputs import parse_source
from mocli.data.links.route import link_files
from mocli.errors import InputError, UsageError
from mocli.log import logger
from mocli.tasks.benchmark.contender import others_embedding
from mocli.tasks.benchmark.ground import prepare_ground
from mocli.tasks.benchmark.options import TASKS, Asked, BenchmarkOptions, StudyOptions
from mocli.tasks.benchmark.peers import asked_peers, plan_peers
from mocli.tasks.benchmark.plan import Places, trainings
from mocli.tasks.benchmark.runs import (
    check_parameters,
    check_sets,
    check_weights,
    choose_models,
)
from mocli.tasks.benchmark.study import studies_of
from mocli.tasks.run.options import listed_names, one_of
from mocli.tasks.run.paths import Paths, command_line
from mocli.tasks.run.request import Result, requested
from mocli.tasks.run.run import Run
from mocli.types import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mocli.tasks.benchmark.ground import Ground
    from mocli.tasks.benchmark.runs import Training
    from mocli.tasks.run.request import Request


def benchmark(
    inputs: str | Path | Sequence[str | Path],
    *,
    output: str | Path,
    models: str | Sequence[str] | None = None,
    seeds: str | Sequence[int] = "0,1,2",
    tasks: str | Sequence[str] = "integrate",
    source: str | None = None,
    target: str | None = None,
    gtf: str | Path | None = None,
    truth: str | Path | None = None,
    embedding: str | Sequence[str] | None = None,
    peers: str | Sequence[str] | None = None,
    peer_python: str | Path | None = None,
    jobs: int = 1,
    devices: str | Sequence[str] | None = None,
    panel: str | Sequence[int] | None = None,
    ablate: str | Sequence[str] | None = None,
    fractions: str | Sequence[float] | None = None,
    corrupt: str | Sequence[float] | None = None,
    leave_one_batch_out: bool = False,
    dry_run: bool = False,
    command: Sequence[str] | None = None,
    **shared: Any,
) -> Result:
    """Train models and compare them with controls; the shell's `mocli benchmark`.

    Parameters
    ----------
    models
        Names; None for all that fit the data.
    seeds
        Every model is trained once with each.
    tasks
        Any of `integrate`, `impute`, `simulate` and `gene2peak`; the latter two take the models of
        `integrate`, where that is asked for, and train otherwise.
    source, target
        Modalities to impute from and to; None where the kinds say it.
    gtf, truth
        Where genes lie, and known pairs of genes and peaks (BEDPE): for `gene2peak`, as there.
    embedding
        Places by other tools, scored in the same table: `obsm:KEY` or `FILE::KEY`.
    peers
        Published tools to run beside the models, `all` or names; those whose package is not installed,
        or that do not take such data, are left out with the reason.
    peer_python
        The Python that has their packages; None for the one that runs mocli.
    jobs, devices
        Runs at a time, and the devices they take turns on.
    panel, ablate, fractions, corrupt, leave_one_batch_out
        Studies; see `mocli benchmark --help`.

    Raises
    ------
    MocliError
        Every error a user can mend. A run that fails is no error: the table says so.
    """
    words = listed_names(tasks, "--tasks")
    for word in words:
        one_of(word, [t.value for t in TASKS], "--tasks")
    asked = Asked(
        models=None if models is None else listed_names(models, "--models"),
        seeds=tuple(int(n) for n in _numbers(seeds, "--seeds", whole=True)),
        tasks=tuple(t for t in TASKS if t.value in words),
        source=source,
        target=target,
    )
    device = str(shared.get("device", "auto"))
    request = requested(inputs, output=output, **shared)
    wanted, params = asked_peers(peers, peer_python, request.train.params)
    options = BenchmarkOptions(
        asked,
        embeddings=(embedding,) if isinstance(embedding, str) else tuple(embedding or ()),
        jobs=jobs,
        devices=listed_names(devices, "--devices") or (device,),
        studies=StudyOptions(
            panel=tuple(int(n) for n in _numbers(panel, "--panel", whole=True)),
            ablate=listed_names(ablate, "--ablate"),
            fractions=_numbers(fractions, "--fractions", most=1.0),
            corrupt=_numbers(corrupt, "--corrupt", most=1.0),
            leave_one_batch_out=leave_one_batch_out,
        ),
        peers=wanted,
        gtf=None if gtf is None else Path(gtf),
        truth=None if truth is None else Path(truth),
    )
    _check_places(options)
    if jobs < 1:
        raise UsageError("--jobs must be at least 1", field="--jobs", found=jobs)
    request = replace(
        request,
        data=replace(request.data, links=list(request.data.links)),
        train=replace(request.train, params=params),
    )
    paths = Paths.of(request.output, request.run, suffixes=(".tsv",))
    read = [*(parse_source(t).path for t in request.data.inputs), *link_files(request.data.links)]
    paths.refuse_inputs([*read, *(p for p in (options.gtf, options.truth) if p is not None)])
    if "-" in map(str, request.data.links):
        raise UsageError(
            "a benchmark reads its links once a run, standard input can be read once",
            field="--links",
            hint="write the table to a file",
        )
    if dry_run:
        return _dry_run(request, options, paths)
    return _run(request, options, paths, command if command is not None else command_line())


def _check_places(options: BenchmarkOptions) -> None:
    given = {"--gtf": options.gtf, "--truth": options.truth}
    if Task.GENE2PEAK not in options.asked.tasks:
        for option, path in given.items():
            if path is not None:
                raise UsageError(
                    f"only genes and peaks have a use for {option}",
                    field=option,
                    hint="add gene2peak to --tasks, or leave it out",
                )
        return
    if options.gtf is None:
        raise UsageError(
            "how well peaks of genes are found is told by where genes lie",
            field="--gtf",
            hint="give --gtf FILE: GTF, GFF3, BED, or a table with chrom, start, end, strand, gene",
        )
    for option, path in given.items():
        if path is not None and not path.is_file():
            raise InputError(f"the file of {option} is not there", file=path, field=option)


def runs_folder(paths: Paths) -> Path:
    """Return the folder that keeps every run."""
    return paths.output.with_name(paths.output.stem + ".runs")


def results(paths: Paths) -> list[Path]:
    """Return the files that a benchmark leaves beside the folder of its runs."""
    return [paths.log, paths.output, *(p for p in (paths.html, paths.report) if p is not None)]


def _dry_run(request: Request, options: BenchmarkOptions, paths: Paths) -> Result:
    lines: list[str] = []
    paths.check(force=request.output.force)
    ground = prepare_ground(
        request.data,
        seed=request.run.seed,
        say=lines.append,
        warn=lambda text: lines.append(f"warning: {text}"),
        debug=lambda _: None,
    )
    for text in options.embeddings:
        other = others_embedding(text, [str(given) for given in request.data.inputs], ground)
        lines.append(f"would score {other.name}")
    planned, skipped = _planned(request, options, paths, ground, dry=True)
    lines.extend(f"leaves out {model} for {task}: it {reason}" for task, model, reason in skipped)
    peers = plan_peers(options.peers, request, ground, options.asked.seeds, runs_folder(paths))
    lines.extend(f"leaves out the peer {peer.name}: it {reason}" for peer, reason in peers.skipped)
    lines.extend(
        f"{'has' if t.finished() else 'would run'} {t.name}: mocli {' '.join(t.command)}" for t in planned
    )
    lines.extend(
        f"{'has' if run.finished() else 'would run'} {run.name}: "
        f"{run.peer.package} {run.version} of {run.python.path}"
        for run in peers.runs
    )
    lines.extend(f"would write {path}" for path in results(paths))
    return Result(paths.output, {}, lines, results(paths))


def _planned(
    request: Request, options: BenchmarkOptions, paths: Paths, ground: Ground, *, dry: bool
) -> tuple[list[Training], list[tuple[Task, str, str]]]:
    """Return every run, and the models left out with the reason."""
    from mocli.tasks.infer.direction import likely_direction

    asked, folder = options.asked, runs_folder(paths)
    chosen, skipped = choose_models(asked, ground, links=bool(request.data.links))
    names = list(dict.fromkeys(name for of in chosen.values() for name in of))
    check_parameters(request.train.params, names)
    check_sets(request.data.gene_sets, names)
    check_weights(request.data.weight_key, names, ground.files)
    direction = None
    if Task.IMPUTE in asked.tasks:
        kinds = {f.name: f.kind for f in ground.files}
        source, target = likely_direction(asked.source, asked.target, kinds)
        if source is None or target is None or source == target:
            raise UsageError(
                "which modality is to be imputed from which?",
                field="--from, --to",
                found=", ".join(f.name for f in ground.files),
                hint="name two",
            )
        direction = (source, target)
    studies = studies_of(options.studies, ground, asked.seeds, names, folder, write=not dry)
    held_out = {"--fractions": bool(options.studies.fractions),
                "--leave-one-batch-out": options.studies.leave_one_batch_out}  # fmt: skip
    for option, given in held_out.items():
        if given and Task.IMPUTE not in asked.tasks:
            raise UsageError(
                f"{option} trains models to impute what they have not seen",
                field=option,
                found=f"--tasks {','.join(asked.tasks)}",
                hint="add impute to --tasks",
            )
    n_cells = max(ground.n_before.values())
    places = Places(direction, len(ground.files), n_cells, options.gtf, options.truth)
    planned = trainings(request, asked, chosen, studies, folder, places)
    return planned, skipped


def _run(request: Request, options: BenchmarkOptions, paths: Paths, command: Sequence[str]) -> Result:
    with Run("benchmark", paths, output=request.output, options=request.run, command=command) as run:
        from mocli.tasks.benchmark.work import Benchmark

        with run.timed("load"):
            ground = prepare_ground(
                request.data, seed=request.run.seed, say=run.say, warn=run.warn, debug=logger.debug
            )
            planned, skipped = _planned(request, options, paths, ground, dry=False)
            peers = plan_peers(options.peers, request, ground, options.asked.seeds, runs_folder(paths))
        work = Benchmark(run, request, options, ground, planned, skipped, peers, runs_folder(paths))
        work.read_others()
        with run.timed("train"):
            work.train()
        with run.timed("evaluate"):
            work.score()
        with run.timed("write"):
            work.deliver()
    return Result(paths.output, run.report.as_dict(), [], results(paths))


def _numbers(
    given: str | float | Sequence[Any] | None, option: str, *, whole: bool = False, most: float | None = None
) -> tuple[float, ...]:
    """Read `0,1,2`, or numbers as they are.

    Raises
    ------
    UsageError
        Something is no number, is negative, or is above `most`.
    """
    if given is None:
        return ()
    items = str(given).split(",") if isinstance(given, (str, int, float)) else [str(n) for n in given]
    found: list[float] = []
    for item in items:
        try:
            value = float(item)
        except ValueError:
            value = -1.0
        if (
            not math.isfinite(value)
            or value < 0
            or (whole and value != int(value))
            or (most is not None and not 0 < value < most)
        ):
            kind = "whole numbers" if whole else "numbers" + (" between 0 and 1" if most else "")
            raise UsageError(
                f"{option} takes {kind} with commas between",
                field=option,
                found=repr(str(item)),
                hint="such as " + ("0,1,2" if whole else "0.1,0.5"),
            )
        found.append(value)
    if not found:
        raise UsageError(f"{option} holds no number", field=option)
    return tuple(dict.fromkeys(found))
