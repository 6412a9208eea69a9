"""Links between features that have the same name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mocli.data.features.index import FALLBACKS
from mocli.data.features.proposal import Proposal, misses

if TYPE_CHECKING:
    from mocli.data.features.index import ColumnMatch, FeatureIndex


def link_names(a: FeatureIndex, b: FeatureIndex) -> Proposal:
    """Link features of the same name, found as the names of a link table are.

    The names of the one are looked up in the other: in the direction in which
    more are found, since only the side looked into may answer by another column
    of `var`. Features of the smaller modality without a partner are misses.
    """
    forward, backward = b.match(a.features.names), a.match(b.features.names)
    if backward.n_found > forward.n_found:
        return _links(b, a, backward).swapped()
    return _links(a, b, forward)


def _links(asking: FeatureIndex, asked: FeatureIndex, match: ColumnMatch) -> Proposal:
    pairs = [(k, position) for k, found in enumerate(match.positions) for position in found]
    # a name that repeats means the first feature of that name on both sides
    seen = {name: k for k, name in reversed(list(enumerate(asking.features.names)))}
    pairs = [(k, p) for k, p in pairs if seen[asking.features.names[k]] == k]
    source = np.array([k for k, _ in pairs], dtype=np.int64)
    target = np.array([p for _, p in pairs], dtype=np.int64)
    notes = []
    for how, found in match.fallbacks.items():
        name, feature = found[0]
        notes.append(f"{len(found):,} names found {FALLBACKS[how]}, e.g. '{name}' is '{feature}'")
    small, large, linked = (
        (asking, asked, source)
        if len(asking.features.names) <= len(asked.features.names)
        else (asked, asking, target)
    )
    has_link = set(linked.tolist())
    absent = [name for k, name in enumerate(small.features.names) if k not in has_link] if len(linked) else []
    failed = misses(
        small.features.modality,
        absent,
        why=f"not in {large.features.modality}",
        among=large.features.names,
    )
    return Proposal(source, target, np.ones(len(source)), failed, tuple(notes))
