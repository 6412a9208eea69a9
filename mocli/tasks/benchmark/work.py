"""The work of `mocli benchmark` once the data are open: train, score, write the table and the reports."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mocli.data.files.obs import read_coordinates
from mocli.errors import InputError, MocliError
from mocli.log import logger
from mocli.models.registry import traits_of
from mocli.report.figures import plural
from mocli.tasks.benchmark.contender import BEST, UNCORRECTED, Contender, controls, placed
from mocli.tasks.benchmark.ground import Ground, prepare_ground
from mocli.tasks.benchmark.options import BenchmarkOptions
from mocli.tasks.benchmark.page import pictures
from mocli.tasks.benchmark.peers import PeerRun, PeersWork, costs_of
from mocli.tasks.benchmark.processes import Processes
from mocli.tasks.benchmark.runs import ModelRun
from mocli.tasks.benchmark.scorer import MEAN, Scorer, control_name, loss_ratios, reconstruction
from mocli.tasks.benchmark.table import (
    CHANCE,
    REAL_CELLS,
    Record,
    as_figures,
    costs,
    describe_rankings,
    figures,
    ranking_records,
    rankings,
    write_table,
)
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run
from mocli.tasks.score.clusterings import written_agreement
from mocli.tasks.trained.record import describe_inputs
from mocli.types import Task

NOT_THERE = "it has not ended: run its line of the plan, then collect again"

SHUFFLED = "shuffled"
"""The control at chance level."""


@dataclass(frozen=True, eq=False)
class Measurements:
    """Results of a benchmark.

    `shown`: contenders that the report draws: controls, embeddings, and the first seed of every model and
    peer.
    """

    records: list[Record] = field(default_factory=list)
    shown: list[Contender] = field(default_factory=list)

    def add(self, c: Contender, scores: dict[str, Any], *, show: bool) -> None:
        """Add the scores of a contender."""
        self.records.extend(
            Record.of((Task.INTEGRATE, c.name, c.kind, c.seed, c.study), key, entry)
            for key, entry in scores.items()
        )
        if show:
            self.shown.append(c)

    def shows(self, name: str, kind: str) -> bool:
        """Whether a contender of that name and kind is drawn already."""
        return any(c.name == name and c.kind == kind for c in self.shown)


@dataclass(frozen=True, eq=False)
class Benchmark:
    """One benchmark: its data, and every run that it compares.

    `skipped`: task, model and why it cannot be run.
    """

    run: Run
    request: Request
    options: BenchmarkOptions
    ground: Ground
    planned: Sequence[ModelRun]
    skipped: Sequence[tuple[str, str, str]]
    peers: PeersWork
    folder: Path
    others: Sequence[Contender]

    def left_out(self) -> list[Record]:
        """Log which models and peers are left out."""
        records = []
        for task, model, reason in self.skipped:
            self.run.say(f"leaves out {model} for {task}: it {reason}")
            records.append(Record(str(task), model, "model", None, "", "skipped", note=f"it {reason}"))
        for peer, reason in self.peers.skipped:
            self.run.say(f"leaves out the peer {peer.name}: it {reason}")
            identity = (Task.INTEGRATE.value, peer.name, "peer", None, "")
            records.append(Record(*identity, "skipped", note=f"it {reason}"))
        return records

    def missing(self) -> list[Record]:
        """Return a line for each run that has not ended well, and run nothing."""
        records = []
        absent: list[ModelRun | PeerRun] = []
        for job in (job for job in self._jobs() if not job.finished()):
            if reason := reported(job):
                records.append(self._failed(job, reason))
            else:
                absent.append(job)
                records.append(Record(*job.identity, "missing", note=NOT_THERE))
        if absent:
            names = ", ".join(job.name for job in absent[:5]) + (", ..." if len(absent) > 5 else "")
            self.run.warn(f"{plural(len(absent), 'run')} did not end ({names}): the table is without them")
        return records

    def _jobs(self) -> list[ModelRun | PeerRun]:
        return [*self.planned, *self.peers.runs]

    def train(self) -> list[Record]:
        """Run what is not finished yet, and return the failures."""
        fresh = self.request.run.resume == "never"
        every = self._jobs()
        finished = [] if fresh else [job.name for job in every if job.finished()]
        if finished:
            self.run.say(f"{len(finished)} of {len(every)} runs are finished already: {', '.join(finished)}")
        todo = [t for t in self.planned if t.name not in finished]
        granted = int((self.run.report.device or {}).get("threads") or 1)
        threads = self.request.run.threads or max(1, granted // self.options.jobs)
        devices = self.options.devices or (self.request.run.device,)
        processes = Processes(self.options.jobs, devices, threads, self.run.say)
        failures: list[Record] = []
        try:
            peers = self._ready_peers(finished, failures)
            failed = self._run(processes, [*(t for t in todo if t.parent is None), *peers], failures)
        finally:
            self.peers.tidy()
        # those that take another run's model wait for it
        ready = []
        for training in (t for t in todo if t.parent is not None):
            if training.parent is None or training.parent.name not in failed:
                ready.append(training)
                continue
            reason = f"the run whose model it takes failed: {training.parent.name}"
            failures.append(self._failed(training, reason))
        self._run(processes, ready, failures)
        return failures

    def _run(
        self, processes: Processes, jobs: Sequence[ModelRun | PeerRun], failures: list[Record]
    ) -> set[str]:
        """Run them, add failures, and return the names of those that failed."""
        codes = processes.run(jobs) if jobs else {}
        failures += [
            self._failed(job, reported(job) or last_words(job.folder, codes[job.name]))
            for job in jobs
            if codes[job.name] != 0 or (isinstance(job, PeerRun) and job.answer() is None)
        ]
        return {name for name, code in codes.items() if code != 0}

    def _ready_peers(self, finished: Container[str], failures: list[Record]) -> list[PeerRun]:
        """Return the runs of peers that are still to do, with their data written."""
        todo = [run for run in self.peers.runs if run.name not in finished]
        for run in {r.peer.name: r for r in todo}.values():
            tool = f"{run.peer.package} {run.version}, licence: {run.peer.licence}"
            self.run.say(f"writing the data for {run.peer.name} ({tool})")
        failed = self.peers.write_data(todo)
        for run in todo:
            if run.peer.name in failed:
                run.begin()  # leaves nothing of an earlier run to be scored
                failures.append(self._failed(run, failed[run.peer.name]))
        return [run for run in todo if run.peer.name not in failed]

    def _failed(self, job: ModelRun | PeerRun, reason: str) -> Record:
        stderr = job.folder / "stderr.txt"
        self.run.warn(f"{job.name} failed ({reason})" + (f"; see {stderr}" if stderr.exists() else ""))
        return Record(*job.identity, "failed", note=reason)

    def score(self) -> Measurements:
        """Score controls, models and the embeddings of others."""
        scorer = self._scorer(self.ground)
        scores = Measurements()
        if Task.INTEGRATE in self.options.tasks or self.others or self.peers.runs:
            self._score_embeddings(scorer, scores)
            self._score_peers(scorer, scores)
            self._score_models(scorer, scores)
        records = scores.records
        for training in self.planned:
            report = training.report() if training.finished() else None
            if report is None:
                continue
            if training.aim and training.parent is not None:
                records += self._reconstructed(training, records)
                continue
            records += costs(training, report)
            records += figures(training, report, records)
        if scorer.reused:
            self.run.say(f"{scorer.reused} scores were computed before")
        return scores

    def _scorer(self, ground: Ground) -> Scorer:
        seed, device = self.request.run.seed, str(self.run.device)
        return Scorer(ground, self.folder / "scores", seed, device, labels=list(self.options.rare))

    def _score_embeddings(self, scorer: Scorer, scores: Measurements) -> None:
        for control in controls(self.ground, seed=self.request.run.seed):
            self.run.say(f"scoring {control.title}")
            entries = scorer.score(control, uncorrected=control.name == UNCORRECTED)
            scores.add(control, entries, show=True)
        for other in self.others:
            self.run.say(f"scoring {other.name}")
            scores.add(other, scorer.score(other), show=True)

    def _score_peers(self, scorer: Scorer, scores: Measurements) -> None:
        for run in self.peers.runs:
            answer = run.answer()
            if answer is None:
                continue
            try:
                contender = run.contender(self.ground)
            except MocliError as error:
                scores.records.append(self._failed(run, error.message))
                continue
            self.run.say(f"scoring {run.name}")
            entries = scorer.score(contender)
            scores.add(contender, entries, show=not scores.shows(run.peer.name, "peer"))
            scores.records.extend(costs_of(run, answer))

    def _score_models(self, scorer: Scorer, scores: Measurements) -> None:
        of_cells: dict[Path | None, tuple[Ground, Scorer]] = {
            self.request.data.only_cells: (self.ground, scorer)
        }
        for training in self.planned:
            if training.purpose != Task.INTEGRATE or not training.finished():
                continue
            cells = training.request.data.only_cells
            try:
                if cells not in of_cells:
                    of_cells[cells] = self._ground_of_study(training, scores)
                ground, scorer = of_cells[cells]
                contender = self._of_model(training, ground)
            except MocliError as error:
                self.run.warn(f"{training.name} cannot be scored: {error.message}")
                continue
            self.run.say(f"scoring {training.name}")
            entries = scorer.score(contender)
            entries |= written_agreement(training.output, training.model, ground.bundle)
            show = not training.study and not scores.shows(training.model, "model")
            scores.add(contender, entries, show=show)

    def _reconstructed(self, training: ModelRun, records: Sequence[Record]) -> list[Record]:
        """Return how well the held-out cells of a run are reconstructed, beside the control."""
        self.run.say(f"decoding the cells of {training.name}")
        try:
            by_method = reconstruction(
                training, self.ground.files, self.request.data, device=self.run.device, seed=training.seed
            )
        except MocliError as error:
            return [self._failed(training, error.message)]
        by_method[training.model] |= self._loss_ratios(training, by_method[training.model])
        where = (training.purpose, training.seed, training.study)
        values = {(r.method, r.key): r.value for r in records if (r.task, r.seed, r.study) == where}
        control = control_name(by_method[MEAN], values, training.model)
        methods = {training.model: ("model", by_method[training.model])}
        if control is not None:
            methods[control] = ("control", by_method[MEAN])
        return [
            Record.of((training.purpose, method, kind, training.seed, training.study), key, entry)
            for method, (kind, entries) in methods.items()
            for key, entry in entries.items()
        ]

    def _loss_ratios(self, training: ModelRun, studied: dict[str, Any]) -> dict[str, Any]:
        """Return the loss of a study over that of the run without one, on the cells that the study scores."""
        same = (training.purpose, training.model, training.seed)
        whole = [t for t in self.planned if (t.purpose, t.model, t.seed) == same and t.parent and not t.study]
        if not training.study or not whole or not whole[0].finished():
            return {}
        parent = training.parent
        like = training if parent and parent.request.data.seen_in != self.request.data.seen_in else None

        def scored(run: ModelRun) -> dict[str, Any]:
            return reconstruction(
                run, self.ground.files, self.request.data, device=self.run.device, seed=training.seed,
                cells=training.request.data.only_cells, like=like,
            )[training.model]  # fmt: skip

        return loss_ratios(studied if like is None else scored(training), scored(whole[0]))

    def _ground_of_study(self, training: ModelRun, scores: Measurements) -> tuple[Ground, Scorer]:
        """Prepare the cells that a study is about, and score the controls on them."""
        data = replace(self.request.data, only_cells=training.request.data.only_cells)
        seed = self.request.run.seed
        # what the benchmark's own cells lack was said of them
        ground = prepare_ground(data, seed=seed, say=logger.debug, warn=logger.debug, debug=logger.debug)
        scorer = self._scorer(ground)
        self.run.say(f"scoring controls on the cells of {training.study}, seed {training.seed}")
        for control in controls(ground, seed=seed):
            of_study = replace(control, study=training.study, seed=training.seed)
            entries = scorer.score(control, uncorrected=control.name == UNCORRECTED)
            scores.add(of_study, entries, show=False)
        return ground, scorer

    def _of_model(self, training: ModelRun, ground: Ground) -> Contender:
        path, key = training.output, f"X_{training.model}"
        alone = []
        for name in ground.bundle.modalities if "--marginal" in training.command else ():
            with suppress(InputError):  # a model that places modalities apart writes no such array
                alone += [p for p in read_coordinates(path, f"{key}_{name}") if p.modality == name]
        traits = traits_of(training.model)
        definition, turn = f"{traits.title}, doi:{traits.doi}", (training.seed, training.study)
        template = Contender(training.model, "model", traits.title, definition, {}, None, *turn)
        return placed(template, read_coordinates(path, key), ground, where=path, alone=alone)

    def deliver(self, records: Sequence[Record], shown: Sequence[Contender]) -> None:
        """Write the table, then the reports."""
        run = self.run
        describe_inputs(run, self.ground.whole, {})
        answers, bounds = frozenset({BEST, REAL_CELLS}), frozenset({SHUFFLED, CHANCE})
        ranked = rankings(as_figures(records, answers=answers, bounds=bounds))
        write_table(run.paths.output, [*ranking_records(ranked), *records])
        describe_rankings(run, records, ranked)
        peers = self.peers.table()
        if peers is not None:
            run.report.tables["peers"] = peers
        if any(r.status in {"failed", "missing"} for r in records):
            run.report.made_from = None  # there is more to do: such a table is not done
        n = len({(r.task, r.method) for r in records})
        run.add_output(run.paths.output, f"{len(records):,} figures of {n} methods", first=True)
        swept = {(r.purpose, r.model, r.study): r.swept for r in self.planned if r.swept}
        seed = self.request.run.seed
        run.finish(lambda: pictures(records, ranked, shown, self.ground, swept=swept, seed=seed))


def reported(job: ModelRun | PeerRun) -> str:
    """Return why a run failed, in its report's words; empty where there are none."""
    error = ((job.report() or {}).get("error") or {}) if isinstance(job, ModelRun) else {}
    return str(error.get("message") or "")


def last_words(folder: Path, code: int) -> str:
    """Return why a process failed: the last error that it logged, else its exit code or the signal."""
    if code < 0:
        return f"ended by signal {-code}" + (": out of memory?" if code == -9 else "")
    lines = (folder / "stderr.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    errors = [line.partition("error:")[2].strip() for line in lines if "error:" in line]
    if errors:
        return errors[-1]
    # how Python ends: `ValueError: ...`
    raised = [line for line in lines if re.match(r"[A-Za-z_.]+(Error|Exception|Interrupt|Exit)\b", line)]
    return raised[-1][:300] if raised else f"exit code {code}"
