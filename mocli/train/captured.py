"""A training step that is recorded once and repeated as one launch (CUDA graphs).

A step launches hundreds of small operations, and a fast device waits for the host between them. Recorded,
they are one. What is repeated reads its minibatch from fixed places and has all else that Python decided
built in: shapes, learning rates, whether an epoch ends with the step. So there is a recording for each of
these, made once they have come several times; other steps run as usual.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from mocli.data.bundle import Minibatch
from mocli.log import logger

T = TypeVar("T")
Terms = Mapping[str, Tensor]
Work = Callable[[Minibatch], Terms]

WARM = 3
"""Steps of one form that run as usual before the next is recorded."""
MOST = 8
"""Recordings of a phase at most: each holds the memory of a step."""
MANY = 64
"""Forms after which minibatches are taken to have no fixed one."""


WAITING = "called a synchronizing CUDA operation"
"""What torch warns of where the host waits for the device, if asked to."""


class Recorder(Protocol):
    """Records the work of a device, and repeats it.

    `given_up`: whether steps turned out not to be recordable; no phase tries again.
    """

    given_up: bool

    def warm(self, work: Callable[[], T]) -> T:
        """Do work that is recorded later."""

    def record(self, work: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """Do work once; return what repeats it, and its results, which each repetition replaces.

        Raises:
            RuntimeError: Something in it cannot be recorded; nothing of it is done then.
        """


class CudaGraphs:
    """Records with CUDA graphs, each with memory of its own."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._waits = ""
        self.given_up = False

    def warm(self, work: Callable[[], T]) -> T:
        """Do work on the stream beside the default one, as torch asks of what is recorded later.

        Where the host waits for the device is noted: a recording would fail there, and not without harm.
        """
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream), warnings.catch_warnings(record=True) as noted:
            warnings.filterwarnings("always", message=WAITING)
            torch.cuda.set_sync_debug_mode("warn")
            try:
                result = work()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
        places = [f"{Path(w.filename).name}:{w.lineno}" for w in noted if WAITING in str(w.message)]
        self._waits = places[0] if places else ""
        return result

    def record(self, work: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """Record, which runs nothing on the device, and repeat once."""
        if self._waits:
            raise RuntimeError(f"{self._waits} waits for the device")
        before = torch.cuda.current_stream(self._stream.device)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                result = work()
        except RuntimeError:
            # torch stays on the stream of a recording that failed, and its generator goes on recording
            torch.cuda.set_stream(before)
            generator = torch.cuda.default_generators[self._stream.device.index]
            generator.graphsafe_set_state(generator.clone_state())
            raise
        graph.replay()
        return graph.replay, result


@dataclass(frozen=True, eq=False)
class _Recording:
    """What repeats a step, the places of its minibatch, and its terms."""

    replay: Callable[[], None]
    places: list[Tensor]
    terms: Terms


class Captured:
    """The work of a step, recorded where that is possible; the result is that of the work itself.

    Args:
        work: A step after its minibatch was drawn. It may not depend on the number of the step.
        recorder: None never records.
    """

    def __init__(self, work: Callable[[Minibatch, bool], Terms], recorder: Recorder | None) -> None:
        self._work = work
        self._recorder = None if recorder is None or recorder.given_up else recorder
        self._recordings: dict[Hashable, _Recording] = {}
        self._seen: dict[Hashable, int] = {}
        self._rates: tuple[float, ...] = ()

    def __call__(self, batch: Minibatch, *, epoch_over: bool, rates: tuple[float, ...]) -> Terms:
        """Do a step and return its terms, which the next call may overwrite.

        Args:
            epoch_over: Handed to the work.
            rates: Learning rates of all groups; recordings made at others are given up.
        """
        if self._recorder is None:
            return self._work(batch, epoch_over)
        if rates != self._rates:
            self._rates = rates
            self._recordings.clear()
        values = list(_tensors(batch))
        form = (epoch_over, *((v.shape, v.dtype) for v in values))
        recording = self._recordings.get(form)
        if recording is None:
            return self._first(self._recorder, batch, form, epoch_over=epoch_over)
        for place, value in zip(recording.places, values, strict=True):
            place.copy_(value)
        recording.replay()
        return recording.terms

    def _first(self, recorder: Recorder, batch: Minibatch, form: Hashable, *, epoch_over: bool) -> Terms:
        """Do a step that was not recorded; record it if its form keeps coming."""
        self._seen[form] = self._seen.get(form, 0) + 1
        if len(self._seen) > MANY:
            return self._stop(recorder, batch, "minibatches differ in shape", epoch_over=epoch_over)
        if self._seen[form] <= WARM or len(self._recordings) >= MOST:
            return recorder.warm(lambda: self._work(batch, epoch_over))
        kept = _copied(batch)
        try:
            replay, terms = recorder.record(lambda: self._work(kept, epoch_over))
        except RuntimeError as error:
            return self._stop(recorder, batch, str(error).splitlines()[0], epoch_over=epoch_over)
        if not self._recordings:
            logger.info("steps are recorded and repeated as one launch (--cuda-graphs)")
        self._recordings[form] = _Recording(replay, list(_tensors(kept)), terms)
        return terms

    def _stop(self, recorder: Recorder, batch: Minibatch, why: str, *, epoch_over: bool) -> Terms:
        recorder.given_up = True
        logger.warning("steps cannot be recorded (%s): they run one operation at a time", why)
        self._recorder = None
        self._recordings.clear()
        return self._work(batch, epoch_over)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a minibatch, in a fixed order."""
    if isinstance(value, Tensor):
        yield value
    else:
        for part in _parts(value):
            yield from _tensors(part)


def _parts(value: Any) -> Iterator[Any]:
    if is_dataclass(value):
        yield from (getattr(value, f.name) for f in fields(value))
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, tuple):
        yield from value


def _copied(value: Any) -> Any:
    """Return a minibatch with tensors of its own."""
    if isinstance(value, Tensor):
        return value.clone()
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _copied(getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, Mapping):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, tuple):
        parts = map(_copied, value)
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
