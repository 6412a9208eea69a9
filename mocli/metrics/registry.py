"""What a metric is, and how all of them are found and run."""

from __future__ import annotations

import math
import pkgutil
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

import numpy as np

import mocli.metrics
from mocli.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mocli.metrics.embedding import Embedding
    from mocli.types import Json

Need = Literal["modalities", "batches", "label", "pairs", "linked", "own"]

OTHER = "other"
_ASPECTS: tuple[tuple[Need, str], ...] = (
    ("pairs", "partners"),
    ("linked", "links"),
    ("batches", "batches"),
    ("own", "structure"),
    ("modalities", "modalities"),
    ("label", "labels"),
)


@dataclass(frozen=True, slots=True)
class Score:
    """One number: its value (NaN if undefined), the cells or features behind it, what it is of."""

    value: float
    n: int
    of: str | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """A registered metric; call it with an `Embedding`.

    Attributes
    ----------
    bounds
        Lowest and highest possible value; may be infinite.
    needs
        What the embedding must hold; `"modalities"` means at least two, and so does `"batches"`.
    sentence
        How to read it, for a biologist.
    definition, section
        The exact formula in words, and where it comes from.
    headline
        Place among the few metrics that a terminal shows, from 1; 0 for the report alone.
    aspect
        What it speaks of, by which a benchmark groups metrics; follows from the needs where not
        given. `total` sums up other metrics.
    """

    name: str
    title: str
    better: Literal["higher", "lower"]
    bounds: tuple[float, float]
    needs: frozenset[Need]
    sentence: str
    definition: str
    section: str
    compute: Callable[[Embedding], Iterable[Score]]
    headline: int = 0
    aspect: str = ""

    def __post_init__(self) -> None:
        if not self.aspect:
            object.__setattr__(self, "aspect", next((a for n, a in _ASPECTS if n in self.needs), OTHER))

    def __call__(self, embedding: Embedding) -> list[Score]:
        """Compute, once per embedding; the values are NaN where the latent holds no geometry."""
        with np.errstate(all="ignore"):
            scores = embedding.share(("scores", self.name), lambda: list(self.compute(embedding)))
        if embedding.degenerate:
            return [Score(math.nan, s.n, s.of) for s in scores]
        return scores

    def applies_to(self, embedding: Embedding) -> bool:
        """Whether the embedding holds what the metric needs."""
        held: dict[Need, bool] = {
            "modalities": len(embedding.z) > 1,
            "batches": len(np.unique(embedding.joint_batch)) > 1,
            "label": bool(embedding.label),
            "pairs": bool(embedding.pairs),
            "linked": bool(embedding.linked),
            "own": bool(embedding.own),
        }
        return all(held[need] for need in self.needs)


def metric(
    *,
    name: str,
    title: str,
    better: Literal["higher", "lower"],
    bounds: tuple[float, float],
    needs: Iterable[Need],
    sentence: str,
    definition: str,
    section: str,
    headline: int = 0,
    aspect: str = "",
) -> Callable[[Callable[[Embedding], Iterable[Score]]], Metric]:
    """Turn a function into the `Metric` that `available_metrics` finds in its module."""

    def register(compute: Callable[[Embedding], Iterable[Score]]) -> Metric:
        return Metric(
            name,
            title,
            better,
            bounds,
            frozenset(needs),
            sentence,
            definition,
            section,
            compute,
            headline,
            aspect,
        )

    return register


def available_metrics() -> dict[str, Metric]:
    """Return every metric of every module on `mocli.metrics.__path__`, by name."""
    found: dict[str, Metric] = {}
    for module in pkgutil.iter_modules(mocli.metrics.__path__):
        members = vars(import_module(f"mocli.metrics.{module.name}")).values()
        found.update({member.name: member for member in members if isinstance(member, Metric)})
    return dict(sorted(found.items()))


def evaluate(embedding: Embedding, names: Iterable[str] | None = None) -> dict[str, dict[str, Json]]:
    """Compute the metrics whose needs the embedding meets.

    Parameters
    ----------
    names
        Metrics wanted; None for all.

    Returns
    -------
    By `name` or `name[of]`: value (None if undefined), better, range (None where
    unbounded), n, title, definition, sentence; ready for the JSON report.

    Raises
    ------
    UsageError
        A name that no metric has.
    """
    metrics = available_metrics()
    chosen = list(metrics) if names is None else list(dict.fromkeys(names))
    for name in chosen:
        if name not in metrics:
            hint = did_you_mean(name, metrics, "metrics")
            raise UsageError(f"there is no metric '{name}'", field="metrics", hint=hint)
    results: dict[str, dict[str, Json]] = {}
    for one in (metrics[name] for name in chosen):
        if one.applies_to(embedding):
            for score in one(embedding):
                results[one.name if score.of is None else f"{one.name}[{score.of}]"] = _entry(one, score)
    return results


def _entry(one: Metric, score: Score) -> dict[str, Json]:
    return {
        "value": float(score.value) if math.isfinite(score.value) else None,
        "better": one.better,
        "range": [bound if math.isfinite(bound) else None for bound in one.bounds],
        "n": int(score.n),
        "title": one.title,
        "definition": one.definition,
        "sentence": one.sentence,
    }
