"""`mocli benchmark`: find the model that suits these data, with metrics and controls."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mocli.data.write.outfile import check_place, check_writable
from mocli.errors import InputError, UsageError
from mocli.log import logger
from mocli.tasks.benchmark.contender import others_embedding
from mocli.tasks.benchmark.ground import PARTS, Ground, halves, prepare_ground
from mocli.tasks.benchmark.options import RECONSTRUCT, BenchmarkOptions, PeersAsked
from mocli.tasks.benchmark.peers import asked_peers, plan_peers
from mocli.tasks.benchmark.plan import TaskData, cost_of_all, trainings, write_plan
from mocli.tasks.benchmark.runs import (
    ModelRun,
    check_parameters,
    check_sets,
    check_weights,
    choose_models,
    raise_failed,
)
from mocli.tasks.benchmark.studies import Setting, studies_of
from mocli.tasks.prepare.footprint import tell_memory
from mocli.tasks.run.frame import Tell, Verb, perform
from mocli.tasks.run.paths import Paths
from mocli.tasks.run.request import Request, Result, files_read, subcommand
from mocli.tasks.run.run import Launch, Run
from mocli.types import Task


@subcommand(BenchmarkOptions)
def benchmark(
    request: Request, options: BenchmarkOptions, *, dry_run: bool, command: Sequence[str]
) -> Result:
    """Train models and compare them with controls; the shell's `mocli benchmark`.

    Raises:
        MocliError: Every error a user can mend. A failed run is not an error: the table lists it.
    """
    if Launch.here().world > 1:
        raise UsageError(
            "benchmark starts processes of its own",
            field="torchrun",
            hint="start it without torchrun; --plan writes its runs as commands, which torchrun may start",
        )
    effective = request
    peers, params = asked_peers(options.peers, options.peer_python, request.train.params)
    _check_truth(options)
    request = replace(request, train=replace(request.train, params=params))
    if "-" in map(str, request.data.links):
        raise UsageError(
            "--links - does not work here: every run reads the links again",
            field="--links",
            hint="write the table to a file",
        )
    if options.plan is not None and options.collect:
        raise UsageError("--plan comes before the runs, --collect after them", field="--plan, --collect")
    if options.plan is not None and not dry_run:
        return _write_plan(request, options, options.plan)
    verb = Verb(
        task="benchmark",
        suffixes=(".tsv",),
        foresee=partial(_foresee, request, options, peers),
        work=partial(_work, request, options, peers),
        trains=False,
    )
    return perform(verb, effective, dry_run=dry_run, command=command)


def _check_truth(options: BenchmarkOptions) -> None:
    tables = {"--gtf": options.gtf, "--truth": options.truth}
    if Task.GENE2PEAK not in options.tasks:
        for option, path in tables.items():
            if path is not None:
                raise UsageError(
                    f"{option} only works together with --tasks gene2peak",
                    field=option,
                    hint="add gene2peak to --tasks, or leave it out",
                )
        return
    if options.gtf is None:
        raise UsageError(
            "the task gene2peak needs --gtf: promoters around genes are its ground truth",
            field="--gtf",
            hint="give --gtf FILE: GTF, GFF3, BED, or a table with chrom, start, end, strand, gene",
        )
    for option, path in tables.items():
        if path is not None and not path.is_file():
            raise InputError(f"the file of {option} does not exist", file=path, field=option)


def _runs_folder(request: Request) -> Path:
    """Return the folder that keeps every run."""
    output = Paths.of(request.output, request.run, suffixes=(".tsv",)).output
    return output.with_name(output.stem + ".runs")


def _foresee(request: Request, options: BenchmarkOptions, peers_asked: PeersAsked, tell: Tell) -> None:
    ground = prepare_ground(
        request.data, seed=request.run.seed, say=tell.say, warn=tell.warn, debug=lambda _: None
    )
    for text in options.embedding:
        tell.say(f"would score {others_embedding(text, request.data.inputs, ground).name}")
    planned, skipped = _planned(request, options, ground, dry=True)
    for task, model, reason in skipped:
        tell.say(f"leaves out {model} for {task}: it {reason}")
    peers = plan_peers(peers_asked, request, ground, options.seeds, _runs_folder(request))
    for peer, reason in peers.skipped:
        tell.say(f"leaves out the peer {peer.name}: it {reason}")
    tell.say(ground.footprint.words)
    for line in cost_of_all(planned, ground.files, options.jobs).words:
        tell.say(line)
    for t in planned:
        tell.say(f"{'has' if t.finished() else 'would run'} {t.name}: {shlex.join(['mocli', *t.command])}")
    for run in peers.runs:
        tell.say(
            f"{'has' if run.finished() else 'would run'} {run.name}: "
            f"{run.peer.package} {run.version} of {run.python.path}"
        )


def _write_plan(request: Request, options: BenchmarkOptions, path: Path) -> Result:
    """Write the runs as a table: the same runs that the benchmark itself would run, and finds again."""
    paths = Paths.of(request.output, request.run, suffixes=(".tsv",))
    paths.refuse_inputs(files_read(request.groups))
    check_place(path)
    if path.absolute() in {p.absolute() for p in paths.results(trained=False)}:
        raise UsageError("the plan would overwrite the result", field="--plan", file=path)
    check_writable(path, force=True)
    ground = prepare_ground(
        request.data, seed=request.run.seed, say=logger.debug, warn=logger.warning, debug=logger.debug
    )
    planned, skipped = _planned(request, options, ground, dry=False)
    for task, model, reason in skipped:
        logger.info("leaves out %s for %s: it %s", model, task, reason)
    write_plan(path, planned, ground.files)
    done = sum(run.finished() for run in planned)
    logger.info("wrote %s: %d runs, %d of them there already", path, len(planned), done)
    if options.peers:
        logger.info("a plan does not include peers: the benchmark runs them itself, without --collect")
    return Result(path, {}, [], [path])


def _planned(
    request: Request, options: BenchmarkOptions, ground: Ground, *, dry: bool
) -> tuple[list[ModelRun], list[tuple[str, str, str]]]:
    """Return every run, and the models left out, with the reason."""
    from mocli.tasks.infer.translation import likely_direction

    folder = _runs_folder(request)
    chosen, skipped = choose_models(options, ground, links=bool(request.data.links))
    names = list(dict.fromkeys(name for models in chosen.values() for name in models))
    check_parameters(request.train.params, names)
    check_sets(request.data.gene_sets, names)
    check_weights(request.data.weight_key, names, ground.files)
    direction = None
    if Task.IMPUTE in options.tasks:
        kinds = {f.name: f.kind for f in ground.files}
        source, target = likely_direction(options.source, options.target, kinds)
        if source is None or target is None or source == target:
            raise UsageError(
                "the task impute needs --from and --to",
                field="--from, --to",
                found=", ".join(f.name for f in ground.files),
                hint="name two",
            )
        direction = (source, target)
    setting = Setting(
        ground, request.data, options.seeds, names, folder, write=not dry,
        reconstructs=bool(chosen.get(RECONSTRUCT)),
    )  # fmt: skip
    studies = studies_of(options, setting)
    held_out = {"--fractions": bool(options.fractions),
                "--leave-one-batch-out": options.leave_one_batch_out}  # fmt: skip
    for option, is_given in held_out.items():
        if is_given and not {Task.IMPUTE, RECONSTRUCT} & set(options.tasks):
            raise UsageError(
                f"{option} only works together with --tasks impute or reconstruct",
                field=option,
                found=f"--tasks {','.join(options.tasks)}",
                hint="add impute to --tasks",
            )
    n_cells = max(ground.n_before.values())
    data = TaskData(direction, [f.name for f in ground.files], n_cells, options.gtf, options.truth)
    if chosen.get(RECONSTRUCT):
        parts = [setting.drawn("cells", p, partial(halves, ground, part=p)) for p in PARTS]
        data = replace(data, training=parts[0], held_out=parts[1])
    planned = trainings(request, options, chosen, studies, folder, data)
    return planned, skipped


def _work(request: Request, options: BenchmarkOptions, peers_asked: PeersAsked, run: Run) -> None:
    from mocli.tasks.benchmark.work import Benchmark

    folder = _runs_folder(request)
    with run.timed("load"):
        ground = prepare_ground(
            request.data, seed=request.run.seed, say=run.say, warn=run.warn, debug=logger.debug
        )
        planned, skipped = _planned(request, options, ground, dry=False)
        peers = plan_peers(peers_asked, request, ground, options.seeds, folder)
        tell_memory(run, ground.footprint)
        if not options.collect:
            cost = cost_of_all(planned, ground.files, options.jobs)
            run.expect(cost.seconds)
            for line in cost.words:
                run.say(line)
    # before hours of training find out that one is no good
    others = [others_embedding(text, request.data.inputs, ground) for text in options.embedding]
    benchmark = Benchmark(run, request, options, ground, planned, skipped, peers, folder, others)
    records = benchmark.left_out()
    with run.timed("train"):
        records += benchmark.missing() if options.collect else benchmark.train()
    with run.timed("evaluate"):
        scores = benchmark.score()
    with run.timed("write"):
        benchmark.deliver([*records, *scores.records], scores.shown)
    raise_failed(planned, options.models)
