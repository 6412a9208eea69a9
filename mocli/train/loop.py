"""The one visible training loop; every model goes through it."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import Parameter

from mocli.data.batches import Batches, BundleRows
from mocli.data.bundle import Minibatch, MultiOmics
from mocli.errors import ENDING, Interrupted, NumericalError, OutOfMemory
from mocli.log import logger, progress
from mocli.models.base import SOLVED, Begins, Model, Phase, Schedule, Solves
from mocli.train.captured import Captured, Recorder
from mocli.train.checkpoint import DAMAGE, Checkpoints, History, Snapshot
from mocli.train.optim import Flatness, Stepper, WeightAverage, freeze, rates_of, trainable, turns_of
from mocli.train.ranks import ALONE, Following, Ranks
from mocli.train.validation import Watch, split

Read = Callable[[Mapping[str, Tensor]], Minibatch]

RETRY_FACTOR = 0.1
"""Factor of learning rates after a loss that was not finite."""

SIGNAL_FOR_TIME = 10
"""SIGUSR1: `--max-time` ends a run as a scheduler's warning does."""


@dataclass(frozen=True)
class Training:
    """How to run a fit, apart from the model and the data.

    Attributes:
        checkpoint_every, max_time: Seconds.
        frozen: Names of parameters that stay as they are.
        fresh: Whether weights are random, not those of another model.
        ranks: This process among those that share every minibatch.
        recorder: What records steps and repeats them as one launch; None to run every operation by itself.
    """

    device: torch.device
    seed: int
    checkpoints: Checkpoints | None = None
    checkpoint_every: float = 600.0
    max_time: float | None = None
    frozen: frozenset[str] = frozenset()
    fresh: bool = True
    ranks: Ranks = ALONE
    recorder: Recorder | None = None


@dataclass
class Fitted:
    """The result of training.

    `slowed`: the phase that started again at lower learning rates after a loss that was not finite, and why;
    the phases after it have them, too.
    """

    steps: int = 0
    cells_drawn: int = 0
    stop_reason: str = ""
    resumed_from_step: int | None = None
    slowed: dict[str, Any] = field(default_factory=dict)
    phases: list[dict[str, Any]] = field(default_factory=list)
    history: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, Any] = field(default_factory=dict)


def fit(model: Model, bundle: MultiOmics, schedule: Schedule, training: Training) -> Fitted:
    """Train a model through its phases.

    Raises:
        NumericalError: At the second loss that is not finite; after the first, its phase starts again at a
            tenth of the learning rates.
        InputError: Where a checkpoint is damaged.
        Interrupted: After a checkpoint, on SIGTERM, SIGUSR1, SIGINT or when `max_time` is over.
        OutOfMemory: When the device runs out of memory.
        Following: After the last step, in all processes but the first.
    """
    model.module.to(training.device).train()
    snapshot = training.checkpoints.load() if training.checkpoints else None
    freeze(model.module, training.frozen)
    done = Fitted()
    started = time.monotonic()
    if snapshot and training.checkpoints:
        try:
            done = Fitted(**_as_mapping(snapshot.meta["fit"]))
        except DAMAGE as error:
            raise training.checkpoints.damaged(error) from error
    with Signals() as signals:
        if isinstance(model, Solves) and not done.phases:
            _solve(model, bundle, training, done)
        was_over = snapshot is not None and snapshot.meta.get("phase", "") is None
        if isinstance(model, Begins) and not was_over:
            with _all_cells(bundle, training) as (read, generator):
                if figures := model.begin(bundle, read, generator, fresh=training.fresh):
                    logger.info("cells aligned in closed form first: %s", told(figures))
        first = int(isinstance(model, Solves))
        for index, phase in enumerate(trainable(model.phases(schedule, bundle)), start=first):
            if index < len(done.phases):
                continue
            stretch = _Stretch(model, bundle, _slowed(phase, done), training, signals, started)
            if snapshot and training.checkpoints:
                try:
                    done.resumed_from_step = stretch.restore(snapshot)
                except DAMAGE as error:
                    raise training.checkpoints.damaged(error) from error
                logger.info("resumed at step %d of phase '%s'", done.resumed_from_step, phase.name)
                snapshot = None
            try:
                _run(stretch, done)
            except torch.OutOfMemoryError as error:
                raise OutOfMemory(
                    "the device ran out of memory",
                    field="--batch-size",
                    found=f"{phase.sampling.batch_size} cells per step on {training.device}",
                    hint=f"try --batch-size {max(phase.sampling.batch_size // 2, 2)}",
                ) from error
    if snapshot and training.checkpoints:
        _restore_trained(model, snapshot, training.checkpoints)
        done.resumed_from_step = done.steps
    elif training.checkpoints and training.ranks.leads:
        # what follows may take longer than training, and be stopped
        weights = {f"module/{k}": v for k, v in model.module.state_dict().items()}
        training.checkpoints.save(Snapshot(weights, {"phase": None, "fit": vars(done)}))
    model.module.eval()
    if not training.ranks.leads:
        raise Following
    return done


def _restore_trained(model: Model, snapshot: Snapshot, checkpoints: Checkpoints) -> None:
    """Restore the weights of a training that was finished."""
    try:
        if snapshot.meta["phase"] is not None:
            raise ValueError("it belongs to a phase that this training does not have")
        model.module.load_state_dict(_under(snapshot.tensors, "module/"))
    except DAMAGE as error:
        raise checkpoints.damaged(error) from error
    logger.info("training was finished before the run was stopped: its weights are restored")


@contextmanager
def _all_cells(bundle: MultiOmics, training: Training) -> Iterator[tuple[Read, torch.Generator]]:
    """Return a reader of any rows of a bundle, and a generator, for work on all cells outside steps."""
    # a few cells are read, and once: the others need not fit on the device
    source = BundleRows(bundle, training.device, held_on="cpu")
    try:
        with torch.no_grad():
            yield lambda rows: source.take(rows, 0), torch.Generator().manual_seed(training.seed)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            "the device ran out of memory",
            found=f"{bundle.n_cells:,} cells on {training.device}",
            hint="try --device cpu",
        ) from error


def _solve(model: Solves, bundle: MultiOmics, training: Training, done: Fitted) -> None:
    """Find weights in closed form, as a phase without steps."""
    with _all_cells(bundle, training) as (read, generator):
        figures = model.solve(bundle, read, generator)
    done.stop_reason = SOLVED
    done.phases.append({"name": SOLVED, "steps": 0, "stop_reason": SOLVED})
    done.losses[SOLVED] = {name: dict.fromkeys(("first", "last", "min"), v) for name, v in figures.items()}


def told(figures: Mapping[str, float]) -> str:
    """Return figures as they are told."""
    return ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in figures.items())


def _run(stretch: _Stretch, done: Fitted) -> None:
    """Run a phase; after a loss that is not finite, once more from its start, at lower learning rates."""
    try:
        stretch.run(done)
    except NumericalError as error:
        if done.slowed:
            raise
        phase = stretch.phase
        done.slowed = {"phase": phase.name, "reason": error.message, "lr_factor": RETRY_FACTOR}
        logger.warning(
            "%s (phase '%s'): the phase starts again with learning rates times %g",
            *(error.message, phase.name, RETRY_FACTOR),
        )
        stretch.again(_slowed(phase, done)).run(done)


class _Stretch:
    """One phase while it runs: batches, optimisers, history."""

    def __init__(
        self,
        model: Model,
        bundle: MultiOmics,
        phase: Phase,
        training: Training,
        signals: Signals,
        started: float,
    ) -> None:
        self.model, self.bundle, self.phase = model, bundle, phase
        self.training, self.signals, self.ranks = training, signals, training.ranks
        self.ranks.equal_start(model.module)
        self.ranks.own_noise(training.seed)
        self.started = self.saved = started
        self.begin = {k: v.detach().clone() for k, v in model.module.state_dict().items()}
        generator = torch.Generator().manual_seed(training.seed)
        training_cells = held_out = None
        if phase.validation is not None:
            training_cells, held_out = split(bundle.n_cells, phase.validation, training.seed)
        self.batches = Batches(
            bundle,
            phase.sampling,
            device=training.device,
            generator=generator,
            cells=training_cells,
            share=(self.ranks.rank, self.ranks.world),
            padded=training.recorder is not None,
        )
        self.captured = Captured(self._work, training.recorder)
        self.steppers = [Stepper(group) for group in phase.groups]
        # a turn of frozen weights has no loss to compute
        turns = [t for t in turns_of(self.steppers) if any(s.group.parameters for s in t)]
        self.turns = [(turn, _beside(turn, phase)) for turn in turns]
        self.watch = None
        if held_out is not None:
            self.watch = Watch(model, self.batches.source, phase, held_out, self.steppers, self.ranks)
        self.interval = 1 if training.device.type == "cpu" else 50
        self.history = History(self.interval)
        self.flatness = Flatness(phase.plateau, self.history, self.steppers) if phase.plateau else None
        # of cells that are drawn, on average; rows of absent modalities do not count
        size, n = phase.sampling.batch_size, len(bundle.modalities)
        measured = n if phase.sampling.independent else float((bundle.rows >= 0).sum()) / bundle.n_cells
        self.rows_per_step = size * measured
        self.average = WeightAverage(model.module, phase.weight_average)

    def again(self, phase: Phase) -> _Stretch:
        """Return a new one that starts where this one began, for a phase with other learning rates."""
        self.model.module.load_state_dict(self.begin)
        return _Stretch(self.model, self.bundle, phase, self.training, self.signals, self.started)

    def run(self, done: Fitted) -> None:
        """Step until the budget is spent, the loss is flat or a signal comes."""
        phase, reason = self.phase, "steps"
        with progress(phase.max_steps, phase.name, start=len(self.history)) as shown:
            while len(self.history) < phase.max_steps:
                self._pause_if_asked(done)
                terms = self._step(len(self.history))
                self.average.update(len(self.history))
                self.history.record(terms)
                shown.update(len(self.history), self.history.latest)
                if self.flatness:
                    self.flatness.look()
                    if self.flatness.over:
                        reason = "plateau"
                        break
                    self._tell_fall(self.flatness.lower_rates())
                if self.watch and self.watch.due(len(self.history)):
                    self.watch.look(len(self.history))
                    if self.watch.over:
                        reason = "validation"
                        break
                    self._tell_fall(self.watch.lower_rates())
        self.history.flush()
        self.average.replace_weights()
        steps = len(self.history)
        done.steps += steps
        done.cells_drawn += round(steps * self.rows_per_step)
        done.stop_reason = reason
        done.phases.append({"name": phase.name, "steps": steps, "stop_reason": reason})
        done.history[phase.name] = self.history.curves()
        if self.flatness and self.flatness.rates.lowered:
            done.phases[-1]["lr_lowered"] = list(self.flatness.rates.lowered)
        if self.watch:
            if steps not in self.watch.steps:
                self.watch.look(steps)
            done.phases[-1]["best_step"] = self.watch.restore_best()
            done.history[phase.name]["validation"] = self.watch.curve()
            if self.watch.lowered:
                done.phases[-1]["lr_lowered"] = [self.watch.steps[look] for look in self.watch.lowered]
        done.losses[phase.name] = self.history.summary()

    def _tell_fall(self, fell: bool) -> None:  # noqa: FBT001
        if fell:
            logger.info("learning rates lowered at step %d", len(self.history))

    def _step(self, step: int) -> dict[str, Tensor]:
        batch, epoch_over = self.batches.next(step), self.batches.epoch_over
        if step < self.phase.steady_from:
            terms = self._work(batch, epoch_over)
        else:
            terms = self.captured(batch, epoch_over=epoch_over, rates=rates_of(self.steppers))
        return self.ranks.average(terms, self.model.module)

    def _work(self, batch: Minibatch, epoch_over: bool) -> Mapping[str, Tensor]:  # noqa: FBT001
        """Do a step but for drawing its minibatch: losses, gradients, optimisers."""
        prepared = self.model.prepare(batch)
        terms: dict[str, Tensor] = {}
        for turn, others in self.turns:
            with _resting(others):
                for _ in range(turn[0].group.repeats):
                    losses = self.model.losses(prepared, turn[0].group.name)
                    for stepper in turn:
                        stepper.clear()
                    torch.autograd.backward(losses.total)
                    self.ranks.average_gradients([p for s in turn for p in s.group.parameters])
                    for stepper in turn:
                        stepper.step(epoch_over=epoch_over)
            # the graph of gradients would live on with them, and with it the stream that it was made on
            terms.update((name, term.detach()) for name, term in losses.terms.items())
        return terms

    def _pause_if_asked(self, done: Fitted) -> None:
        now = time.monotonic()
        checkpoints = self.training.checkpoints
        over = self.training.max_time is not None and now - self.started > self.training.max_time
        signum = self.signals.received or (SIGNAL_FOR_TIME if over else 0)
        # all end at one step, or those that go on would wait for the others
        agreed = self.ranks.world == 1 or len(self.history) % self.interval == 0
        signum = self.ranks.largest(signum) if agreed else 0
        leads = self.ranks.leads
        if checkpoints and leads and (signum or now - self.saved > self.training.checkpoint_every):
            checkpoints.save(self.snapshot(done))
            self.saved = now
        if signum:
            where = f"step {len(self.history):,} of phase '{self.phase.name}'"
            cause = "the time allowed is over" if over else f"signal {signum} received"
            outcome = f"checkpoint written to {checkpoints.folder}" if checkpoints else "nothing was kept"
            hint = "repeat the command to continue" if checkpoints else None
            raise Interrupted(signum, f"{cause} at {where}; {outcome}", hint=hint)

    def snapshot(self, done: Fitted) -> Snapshot:
        """Everything needed to continue with the same bytes."""
        history_meta, tensors = self.history.state()
        tensors |= {f"module/{k}": v for k, v in self.model.module.state_dict().items()}
        tensors |= {f"begin/{k}": v for k, v in self.begin.items()}
        for stepper in self.steppers:
            tensors |= stepper.state_dict()
        tensors |= {f"batches/{k}": v for k, v in self.batches.state_dict().items()}
        tensors |= {f"average/{k}": v for k, v in self.average.state_dict().items()}
        tensors["rng/cpu"] = torch.get_rng_state()
        if self.training.device.type == "cuda":
            tensors["rng/cuda"] = torch.cuda.get_rng_state(self.training.device)
        meta: dict[str, Any] = {"phase": self.phase.name, "history": history_meta, "fit": vars(done)}
        if self.flatness:
            meta["flatness"] = self.flatness.state()
        if self.watch:
            meta["watch"], watched = self.watch.state()
            tensors |= {f"watch/{k}": v for k, v in watched.items()}
        return Snapshot(tensors, meta)

    def restore(self, snapshot: Snapshot) -> int:
        """Continue from a snapshot; returns the step."""
        tensors, meta = snapshot.tensors, snapshot.meta
        for part in ("begin/", "module/"):
            weights = _under(tensors, part)
            if bad := [k for k, v in weights.items() if v.is_floating_point() and not v.isfinite().all()]:
                raise ValueError(f"{part}{bad[0]} is not finite")
            self.model.module.load_state_dict(weights)
        self.begin = _under(tensors, "begin/")
        for stepper in self.steppers:
            stepper.load_state_dict(tensors)
        self.batches.load_state_dict(_under(tensors, "batches/"))
        self.average.load_state_dict(_under(tensors, "average/"))
        self.history.restore(_as_mapping(meta["history"]), tensors)
        if self.flatness:
            self.flatness.restore(_as_mapping(meta.get("flatness", {})))
        if self.watch:
            self.watch.restore(_as_mapping(meta["watch"]), _under(tensors, "watch/"))
        torch.set_rng_state(tensors["rng/cpu"])
        if self.training.device.type == "cuda" and "rng/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng/cuda"], self.training.device)
        self.ranks.own_noise(self.training.seed + len(self.history))
        return len(self.history)


class Signals:
    """Signals that end a run, a flag that the loop reads between steps; a second SIGINT ends it at once."""

    watched = tuple(getattr(signal, name) for name in ENDING if hasattr(signal, name))

    def __init__(self) -> None:
        self.received: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # handlers can be set in the main thread only; elsewhere the host program decides
        if threading.current_thread() is threading.main_thread():
            for signum in self.watched:
                # nohup has a run ignore that its terminal closes
                if signal.getsignal(signum) != signal.SIG_IGN:
                    self._old[signum] = signal.signal(signum, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._old.items():
            signal.signal(signum, handler)
        self._old.clear()

    def _receive(self, signum: int, _frame: object) -> None:
        if self.received is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signum


def _beside(turn: Sequence[Stepper], phase: Phase) -> list[Parameter]:
    """Return the parameters of a phase that do not step in a turn."""
    stepping = {id(p) for stepper in turn for p in stepper.group.parameters}
    return [p for group in phase.groups for p in group.parameters if id(p) not in stepping]


@contextmanager
def _resting(parameters: Sequence[Parameter]) -> Iterator[None]:
    """Compute no gradients of some parameters within the context."""
    for parameter in parameters:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad = True


def _slowed(phase: Phase, done: Fitted) -> Phase:
    factor = float(done.slowed.get("lr_factor", 1.0))
    return replace(phase, groups=tuple(replace(g, lr=g.lr * factor) for g in phase.groups))


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _as_mapping(value: Any) -> dict[str, Any]:
    # through JSON once, so that a resumed run holds the same types as a fresh one
    return dict(json.loads(json.dumps(value)))
