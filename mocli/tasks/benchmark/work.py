"""The work of `mocli benchmark` once the data are open: train, score, write the table and the reports."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mocli.data.files.obsm import read_coordinates
from mocli.errors import InputError, Interrupted, MocliError
from mocli.models.registry import traits_of
from mocli.tasks.benchmark.contender import Contender, others_embedding, placed
from mocli.tasks.benchmark.controls import BEST, UNCORRECTED, controls
from mocli.tasks.benchmark.figures import CHANCE, REAL_CELLS, costs, figures, loss_ratios
from mocli.tasks.benchmark.peers import costs_of
from mocli.tasks.benchmark.processes import Processes
from mocli.tasks.benchmark.scorer import Scorer
from mocli.tasks.benchmark.table import (
    Record,
    as_figures,
    describe_rankings,
    ranking_records,
    rankings,
    write_table,
)
from mocli.tasks.score.clusterings import written_agreement
from mocli.tasks.trained.record import describe_inputs
from mocli.types import Task

if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from pathlib import Path

    from mocli.tasks.benchmark.ground import Ground
    from mocli.tasks.benchmark.options import BenchmarkOptions
    from mocli.tasks.benchmark.peerrun import PeerRun
    from mocli.tasks.benchmark.peers import PeersWork
    from mocli.tasks.benchmark.processes import Job
    from mocli.tasks.benchmark.runs import Training
    from mocli.tasks.run.request import Request
    from mocli.tasks.run.run import Run

SHUFFLED = "shuffled"
"""The control that knows nothing."""


@dataclass(eq=False)
class Benchmark:
    """One benchmark, from its runs to its report.

    Attributes
    ----------
    planned
        Every run, whether it is there already or not.
    skipped
        Task, model and why it cannot be had.
    peers
        Runs of other tools.
    records
        What the table says, a line each.
    shown
        Contenders that the report draws: controls, embeddings, and the first seed of every model and peer.
    """

    run: Run
    request: Request
    options: BenchmarkOptions
    ground: Ground
    planned: list[Training]
    skipped: list[tuple[Task, str, str]]
    peers: PeersWork
    folder: Path
    records: list[Record] = field(default_factory=list)
    shown: list[Contender] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    _others: list[Contender] = field(default_factory=list)

    def read_others(self) -> None:
        """Read the embeddings of other tools, before hours of training find out that one is no good."""
        for task, model, reason in self.skipped:
            self.run.say(f"leaves out {model} for {task}: it {reason}")
            self.records.append(Record(task.value, model, "model", None, "", "skipped", note=f"it {reason}"))
        for peer, reason in self.peers.skipped:
            self.run.say(f"leaves out the peer {peer.name}: it {reason}")
            of = (Task.INTEGRATE.value, peer.name, "peer", None, "")
            self.records.append(Record(*of, "skipped", note=f"it {reason}"))
        inputs = [str(text) for text in self.request.data.inputs]
        self._others = [others_embedding(text, inputs, self.ground) for text in self.options.embedding]

    def train(self) -> None:
        """Run what is not there yet."""
        fresh = self.request.run.resume == "never"
        every: list[Training | PeerRun] = [*self.planned, *self.peers.runs]
        self.reused = [] if fresh else [job.name for job in every if job.finished()]
        if self.reused:
            self.run.say(
                f"{len(self.reused)} of {len(every)} runs are there already: {', '.join(self.reused)}"
            )
        there = set(self.reused)
        todo = [t for t in self.planned if t.name not in there]
        threads = self.request.run.threads or max(1, int(self._threads()) // self.options.jobs)
        processes = Processes(
            self.options.jobs, self.options.devices or (self.request.run.device,), threads, self.run.say
        )
        try:
            failed = self._run(processes, [t for t in todo if t.parent is None], self._ready_peers(there))
        finally:
            self.peers.tidy()
        # those that take another run's model wait for it
        ready = []
        for training in (t for t in todo if t.parent is not None):
            if training.parent is None or training.parent.name not in failed:
                ready.append(training)
                continue
            training.begin()  # leaves nothing of an earlier model to be scored
            self._failed(training, f"the run whose model it takes failed: {training.parent.name}")
        self._run(processes, ready, [])

    def _run(self, processes: Processes, trainings: Sequence[Training], peers: Sequence[PeerRun]) -> set[str]:
        """Run them and return the names of those that failed."""
        jobs: list[Job] = [*trainings, *peers]
        codes = processes.run(jobs) if jobs else {}
        for training in trainings:
            if codes[training.name] != 0:
                self._failed(training, failure(training, codes[training.name]))
        for run in peers:
            if codes[run.name] != 0 or run.answer() is None:
                self._failed_peer(run, last_words(run.folder, codes[run.name]))
        return {name for name, code in codes.items() if code != 0}

    def _ready_peers(self, there: Container[str]) -> list[PeerRun]:
        """Return the runs of peers that are still to do, with their data written."""
        todo = [run for run in self.peers.runs if run.name not in there]
        if todo:
            for run in {r.peer.name: r for r in todo}.values():
                tool = f"{run.peer.package} {run.version}, licence: {run.peer.licence}"
                self.run.say(f"writing the data for {run.peer.name} ({tool})")
        failed = self.peers.write_data(todo)
        for run in todo:
            if run.peer.name in failed:
                run.begin()  # leaves nothing of an earlier run to be scored
                self._failed_peer(run, failed[run.peer.name])
        return [run for run in todo if run.peer.name not in failed]

    def _failed(self, training: Training, reason: str) -> None:
        self._warn_of(training, reason)
        of = (training.task.value, training.model, "model", training.seed, training.study)
        self.records.append(Record(*of, "failed", note=reason))

    def _failed_peer(self, run: PeerRun, reason: str) -> None:
        self._warn_of(run, reason)
        of = (Task.INTEGRATE.value, run.peer.name, "peer", run.seed, "")
        self.records.append(Record(*of, "failed", note=reason))

    def _warn_of(self, job: Job, reason: str) -> None:
        said = job.folder / "stderr.txt"
        self.run.warn(f"{job.name} failed ({reason})" + (f"; see {said}" if said.exists() else ""))

    def _threads(self) -> int:
        return int((self.run.report.device or {}).get("threads") or 1)

    def score(self) -> None:
        """Score controls, models and the embeddings of others."""
        scorer = Scorer(
            self.ground, self.folder / "scores", seed=self.request.run.seed, device=str(self.run.device)
        )
        if Task.INTEGRATE in self.options.tasks or self._others or self.peers.runs:
            self._score_all(scorer)
        for training in self.planned:
            report = training.report()
            if report is None or report["status"] != "ok":
                continue
            self.records += costs(training, report)
            self.records += figures(training, report, self.records)
        self.records += loss_ratios(self.records)
        if scorer.reused:
            self.run.say(f"{scorer.reused} scores were there already")

    def _score_all(self, scorer: Scorer) -> None:
        for control in controls(self.ground, seed=self.request.run.seed):
            self.run.say(f"scoring {control.title}")
            self._add(control, scorer.score(control, uncorrected=control.name == UNCORRECTED))
            self.shown.append(control)
        for other in self._others:
            self.run.say(f"scoring {other.name}")
            self._add(other, scorer.score(other))
            self.shown.append(other)
        self._score_peers(scorer)
        for training in self.planned:
            if training.task is not Task.INTEGRATE or not training.output.exists():
                continue
            try:
                contender = self._of_model(training)
            except Interrupted:
                raise
            except MocliError as error:
                self.run.warn(f"{training.name} cannot be scored: {error.message}")
                continue
            self.run.say(f"scoring {training.name}")
            own = written_agreement(training.output, training.model, self.ground.bundle)
            self._add(contender, scorer.score(contender) | own)
            if not training.study and training.model not in {c.name for c in self.shown if c.kind == "model"}:
                self.shown.append(contender)

    def _score_peers(self, scorer: Scorer) -> None:
        for run in self.peers.runs:
            told = run.answer()
            if told is None:
                continue
            try:
                contender = run.contender(self.ground)
            except Interrupted:
                raise
            except MocliError as error:
                self._failed_peer(run, error.message)
                continue
            self.run.say(f"scoring {run.name}")
            self._add(contender, scorer.score(contender))
            self.records += costs_of(run, told)
            if run.peer.name not in {c.name for c in self.shown if c.kind == "peer"}:
                self.shown.append(contender)

    def _of_model(self, training: Training) -> Contender:
        path, key = training.output, f"X_{training.model}"
        alone = []
        for name in self.ground.bundle.modalities if "--marginal" in training.words else ():
            with suppress(InputError):  # a model that places modalities apart writes no such array
                alone += [p for p in read_coordinates(path, f"{key}_{name}") if p.modality == name]
        traits = traits_of(training.model)
        return placed(
            read_coordinates(path, key),
            self.ground,
            training.model,
            "model",
            traits.title,
            f"{traits.title}, doi:{traits.doi}",
            where=path,
            seed=training.seed,
            study=training.study,
            alone=alone,
        )

    def _add(self, c: Contender, scores: dict[str, Any]) -> None:
        for key, entry in scores.items():
            self.records.append(Record.of(Task.INTEGRATE, c.name, c.kind, c.seed, c.study, key, entry))

    def deliver(self) -> None:
        """Write the table, then the reports."""
        run = self.run
        describe_inputs(run, self.ground.whole, {})
        answers, bounds = frozenset({BEST, REAL_CELLS}), frozenset({SHUFFLED, CHANCE})
        ranked = rankings(as_figures(self.records, answers=answers, bounds=bounds))
        write_table(run.paths.output, [*ranking_records(ranked), *self.records])
        describe_rankings(run, self.records, ranked)
        peers = self.peers.table()
        if peers is not None:
            run.report.tables["peers"] = peers
        n = len({(r.task, r.method) for r in self.records})
        run.add_output(run.paths.output, f"{len(self.records):,} figures of {n} methods", first=True)
        if run.paths.html is not None:
            from mocli.report import html
            from mocli.tasks.benchmark.page import page

            run.say("drawing the report")
            html.write(run.paths.html, page(self, ranked))
            run.add_output(run.paths.html, "the report to read")
        for record in run.report.outputs:
            run.say(f"wrote {record['path']}: {record['what']}")


def failure(training: Training, code: int) -> str:
    """Return why a run failed: its report's words, else its exit code or the signal that ended it."""
    report = training.report()
    error = (report or {}).get("error") or {}
    if error.get("message"):
        return str(error["message"])
    return last_words(training.folder, code)


def last_words(folder: Path, code: int) -> str:
    """Return why a process failed: the last error that it told, else its exit code or the signal."""
    if code < 0:
        return f"ended by signal {-code}" + (": out of memory?" if code == -9 else "")
    lines = (folder / "stderr.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    told = [line.partition("error:")[2].strip() for line in lines if "error:" in line]
    if told:
        return told[-1]
    # how Python ends: `ValueError: ...`
    raised = [line for line in lines if re.match(r"[A-Za-z_.]+(Error|Exception|Interrupt|Exit)\b", line)]
    return raised[-1][:300] if raised else f"exit code {code}"
