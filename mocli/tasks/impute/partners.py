"""Cells of two modalities that linked features take for alike, where no true pairs are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mocli.data.batches import dense_rows
from mocli.nn.neighbors import knn
from mocli.tasks.prepare.smoothing import smooth_links
from mocli.tasks.score.baselines import unit

if TYPE_CHECKING:
    from mocli.data.bundle import MultiOmics
    from mocli.types import IntArray

MAX_TARGET, MAX_SOURCE = 5_000, 20_000


def partners_by_links(
    bundle: MultiOmics, source: str, target: str, *, seed: int
) -> tuple[IntArray, IntArray] | None:
    """Return rows of source and target cells, `(n,)` each, nearest by smoothed linked features.

    Every target cell (5,000 sampled at most) has the source cell (of 20,000 at
    most) that is nearest by cosine. None where no links join the two directly,
    or where a cell has no linked signal.
    """
    for link in bundle.links:
        if {source, target} == {link.source, link.target}:
            (smoothed,) = smooth_links(_only(bundle, link.edge), seed=seed, say=lambda _: None).links
            sides = {link.source: smoothed.source_features, link.target: smoothed.target_features}
            rng = np.random.default_rng(seed)
            rows = {}
            for name, most in ((source, MAX_SOURCE), (target, MAX_TARGET)):
                n = sides[name].n_obs
                rows[name] = np.sort(rng.choice(n, most, replace=False)) if n > most else np.arange(n)
            points = {name: unit(dense_rows(sides[name], rows[name])) for name in rows}
            near = knn(points[target], points[source], 1)[1][:, 0]
            known = points[target].any(1)
            return rows[source][near[known]], rows[target][known]
    return None


def _only(bundle: MultiOmics, edge: tuple[str, str]) -> MultiOmics:
    from dataclasses import replace

    return replace(bundle, links=tuple(link for link in bundle.links if link.edge == edge))
