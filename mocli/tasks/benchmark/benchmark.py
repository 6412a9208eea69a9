"""`mocli benchmark`: which model for these data, answered with figures beside controls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mocli.data.files.inputs import parse_source
from mocli.data.links.route import link_files
from mocli.errors import InputError, UsageError
from mocli.log import logger
from mocli.tasks.benchmark.contender import others_embedding
from mocli.tasks.benchmark.ground import prepare_ground
from mocli.tasks.benchmark.options import BenchmarkOptions, PeersAsked
from mocli.tasks.benchmark.peers import asked_peers, plan_peers
from mocli.tasks.benchmark.plan import Places, trainings
from mocli.tasks.benchmark.runs import (
    check_parameters,
    check_sets,
    check_weights,
    choose_models,
)
from mocli.tasks.benchmark.study import studies_of
from mocli.tasks.run.paths import Paths
from mocli.tasks.run.request import Request, Result, subcommand
from mocli.tasks.run.run import Run
from mocli.types import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mocli.tasks.benchmark.ground import Ground
    from mocli.tasks.benchmark.runs import Training


@subcommand(BenchmarkOptions)
def benchmark(
    request: Request, options: BenchmarkOptions, *, dry_run: bool, command: Sequence[str]
) -> Result:
    """Train models and compare them with controls; the shell's `mocli benchmark`.

    Raises
    ------
    MocliError
        Every error a user can mend. A run that fails is no error: the table says so.
    """
    peers, params = asked_peers(options.peers, options.peer_python, request.train.params)
    _check_places(options)
    request = replace(request, train=replace(request.train, params=params))
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
        return _dry_run(request, options, peers, paths)
    return _run(request, options, peers, paths, command)


def _check_places(options: BenchmarkOptions) -> None:
    given = {"--gtf": options.gtf, "--truth": options.truth}
    if Task.GENE2PEAK not in options.tasks:
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


def _dry_run(request: Request, options: BenchmarkOptions, asked: PeersAsked, paths: Paths) -> Result:
    lines: list[str] = []
    paths.check(force=request.output.force)
    ground = prepare_ground(
        request.data,
        seed=request.run.seed,
        say=lines.append,
        warn=lambda text: lines.append(f"warning: {text}"),
        debug=lambda _: None,
    )
    for text in options.embedding:
        other = others_embedding(text, [str(given) for given in request.data.inputs], ground)
        lines.append(f"would score {other.name}")
    planned, skipped = _planned(request, options, paths, ground, dry=True)
    lines.extend(f"leaves out {model} for {task}: it {reason}" for task, model, reason in skipped)
    peers = plan_peers(asked, request, ground, options.seeds, runs_folder(paths))
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

    asked, folder = options, runs_folder(paths)
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
    studies = studies_of(options, ground, asked.seeds, names, folder, write=not dry)
    held_out = {"--fractions": bool(options.fractions),
                "--leave-one-batch-out": options.leave_one_batch_out}  # fmt: skip
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


def _run(
    request: Request, options: BenchmarkOptions, asked: PeersAsked, paths: Paths, command: Sequence[str]
) -> Result:
    with Run("benchmark", paths, output=request.output, options=request.run, command=command) as run:
        from mocli.tasks.benchmark.work import Benchmark

        with run.timed("load"):
            ground = prepare_ground(
                request.data, seed=request.run.seed, say=run.say, warn=run.warn, debug=logger.debug
            )
            planned, skipped = _planned(request, options, paths, ground, dry=False)
            peers = plan_peers(asked, request, ground, options.seeds, runs_folder(paths))
        work = Benchmark(run, request, options, ground, planned, skipped, peers, runs_folder(paths))
        work.read_others()
        with run.timed("train"):
            work.train()
        with run.timed("evaluate"):
            work.score()
        with run.timed("write"):
            work.deliver()
    return Result(paths.output, run.report.as_dict(), [], results(paths))
