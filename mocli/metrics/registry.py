"""What a metric is, and how all of them are found and run.

A metric is a function in a module of this package under the decorator `metric`; nobody names it
elsewhere. There are three kinds, by their input: an `Embedding` of cells, the simulated cells of
one label beside real ones (`LabelView`), imputed cells that have labels (`LabelledCells`).
"""

from __future__ import annotations

import inspect
import math
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib import import_module
from typing import Any, ClassVar, Generic, TypeVar, cast

import numpy as np

import mocli.metrics
from mocli.errors import UsageError, did_you_mean
from mocli.report.figures import Better, Entry, figure

T = TypeVar("T")

OTHER = "other"
_ASPECTS = (
    ("pairs", "partners"),
    ("linked", "links"),
    ("batches", "batches"),
    ("own", "structure"),
    ("modalities", "modalities"),
    ("label", "labels"),
)


@dataclass(frozen=True, eq=False)
class Scored(ABC):
    """What metrics are computed from; results that several of them need are computed once.

    `kind`: kind of the metrics that take it.
    """

    kind: ClassVar[str]
    _shared: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    @abstractmethod
    def holds(self, need: str) -> bool:
        """Whether it has something that a metric may need, such as `label`."""

    @property
    @abstractmethod
    def n(self) -> int:
        """Number of cells."""

    @cached_property
    def degenerate(self) -> bool:
        """Whether it holds nothing that can be scored."""
        return False

    def share(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what `compute` returned for this key the first time."""
        if key not in self._shared:
            self._shared[key] = compute()
        return cast("T", self._shared[key])


S = TypeVar("S", bound=Scored)


@dataclass(frozen=True, slots=True)
class Score:
    """One number: its value (NaN if undefined), how many cells or features it rests on, and its part."""

    value: float
    n: int
    of: str | None = None


@dataclass(frozen=True, slots=True)
class Metric(Generic[S]):
    """A registered metric; call it with its input.

    Attributes:
        seen: Kind of its input.
        better: Whether higher or lower values are better; None where the best lies in between.
        bounds: Lowest and highest possible value; may be infinite.
        needs: What the input must have; `modalities` and `batches` of an `Embedding` mean at least two.
        best: The best possible value, where there is one.
        sentence: How to read it, for a biologist.
        definition, section: The exact formula in words, and where it comes from.
        headline: Position among the few metrics that the terminal shows, from 1; 0 for those that only the
            report shows.
        aspect: Group of the metric in a benchmark; follows from the needs where not given. `total` sums up
            other metrics.
    """

    title: str
    seen: type[S]
    better: Better | None
    bounds: tuple[float, float]
    needs: frozenset[str]
    best: float | None
    sentence: str
    definition: str
    section: str
    compute: Callable[[S], float | Iterable[Score]]
    headline: int
    aspect: str

    @property
    def name(self) -> str:
        """Return the function's name."""
        return self.compute.__name__

    def __call__(self, seen: S) -> list[Score]:
        """Compute the scores, once per input; they are NaN where the input is degenerate."""

        def listed() -> list[Score]:
            result = self.compute(seen)
            return [Score(float(result), seen.n)] if isinstance(result, int | float) else list(result)

        with np.errstate(all="ignore"):
            scores = seen.share(("scores", self.name), listed)
        return [replace(score, value=math.nan) for score in scores] if seen.degenerate else scores

    def applies_to(self, seen: S) -> bool:
        """Whether the input has what the metric needs."""
        return all(seen.holds(need) for need in self.needs)

    def entry(self, score: Score, *, more: str = "") -> Entry:
        """Return a score as the report shows it; `more` is added to the definition."""
        return figure(
            float(score.value),
            self.title,
            self.definition + more,
            self.sentence,
            better=self.better,
            bounds=self.bounds,
            n=int(score.n),
            leading=self.headline > 0,
        )


def metric(
    seen: type[S],
    *,
    bounds: tuple[float, float],
    better: Better | None = None,
    best: float | None = None,
    needs: Iterable[str] = (),
    definition: str = "",
    headline: int = 0,
    aspect: str = "",
) -> Callable[[Callable[[S], float | Iterable[Score]]], Metric[S]]:
    """Turn a function into the `Metric` that `available_metrics` finds in its module.

    The function's name is the metric's. Paragraphs of its docstring are the title, the sentence, the
    definition (one or more, unless `definition` is given) and, as `Source: ...`, the section. It returns
    one value, or yields a `Score` for each part. Where `best` is given and is a bound, the better direction
    follows from it.
    """
    if best is not None:
        better = {bounds[0]: "lower", bounds[1]: "higher"}.get(best)  # type: ignore[assignment]
    wanted = frozenset(needs)
    aspect = aspect or next((a for need, a in _ASPECTS if need in wanted), OTHER)

    def register(compute: Callable[[S], float | Iterable[Score]]) -> Metric[S]:
        parts = [" ".join(part.split()) for part in inspect.cleandoc(compute.__doc__ or "").split("\n\n")]
        title, sentence = (*parts, "", "")[:2]
        section = parts[-1].removeprefix("Source: ").rstrip(".")
        return Metric(
            title=title.rstrip("."),
            seen=seen,
            better=better,
            bounds=bounds,
            needs=wanted,
            best=best,
            sentence=sentence,
            definition=definition or " ".join(parts[2:-1]),
            section=section,
            compute=compute,
            headline=headline,
            aspect=aspect,
        )

    return register


def available_metrics(kind: str = "embedding") -> dict[str, Metric[Any]]:
    """Return every metric of a kind (`embedding`, `simulated` or `imputed`), by name."""
    return {m.name: m for m in _registered(tuple(mocli.metrics.__path__)) if m.seen.kind == kind}


@cache
def _registered(path: tuple[str, ...]) -> tuple[Metric[Any], ...]:
    """Metrics of all modules on the path, sorted by name."""
    modules = [import_module(f"mocli.metrics.{info.name}") for info in pkgutil.iter_modules(path)]
    metrics = {m.name: m for module in modules for m in vars(module).values() if isinstance(m, Metric)}
    return tuple(sorted(metrics.values(), key=lambda m: m.name))


def evaluate(seen: Scored, names: Iterable[str] | None = None) -> dict[str, Entry]:
    """Compute the metrics whose needs are met.

    Args:
        names: Metrics to compute; None for all.

    Returns:
        By `name` or `name[of]`, the entry of each score in the report.

    Raises:
        UsageError: If no metric has a given name.
    """
    metrics = available_metrics(seen.kind)
    chosen = list(metrics) if names is None else list(dict.fromkeys(names))
    for name in chosen:
        if name not in metrics:
            hint = did_you_mean(name, metrics, "metrics")
            raise UsageError(f"there is no metric '{name}'", field="metrics", hint=hint)
    results: dict[str, Entry] = {}
    for one in (metrics[name] for name in chosen):
        if one.applies_to(seen):
            for score in one(seen):
                results[one.name if score.of is None else f"{one.name}[{score.of}]"] = one.entry(score)
    return results
