"""Links that mocli proposes, and what it found none for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mocli.data.features.index import nearest_names
from mocli.types import DoubleArray, IntArray

SUGGESTED = 20  # misses that are given a nearest name, which takes its time


@dataclass(frozen=True)
class Miss:
    """A feature without a link.

    Attributes:
        why: The same words for all features that share the reason.
        detail: What is particular to this one: the nearest name, or its genes.
    """

    modality: str
    name: str
    why: str
    detail: str = ""

    def __str__(self) -> str:
        return f"'{self.name}' ({self.detail})" if self.detail else f"'{self.name}'"


@dataclass(frozen=True, eq=False)
class Proposal:
    """Links between two modalities by positions of features.

    Attributes:
        source, target: `(n_links,)` positions; a pair occurs once.
        weight: `(n_links,)`, above zero.
        misses: Features that should have a link and have none.
        notes: What was assumed, and what was left out on purpose, for the log.
    """

    source: IntArray
    target: IntArray
    weight: DoubleArray
    misses: tuple[Miss, ...] = ()
    notes: tuple[str, ...] = ()

    def swapped(self) -> Proposal:
        """Return the same links seen from the other side."""
        return Proposal(self.target, self.source, self.weight, self.misses, self.notes)


def misses(modality: str, names: Iterable[str], *, why: str, among: Sequence[str]) -> tuple[Miss, ...]:
    """Return misses; the first ones with the nearest of the names that would have been found."""
    missed = []
    for k, name in enumerate(names):
        nearest = nearest_names(name, among) if k < SUGGESTED else []
        missed.append(Miss(modality, name, why, f"nearest: '{nearest[0]}'" if nearest else ""))
    return tuple(missed)
