"""How far perturbations bring cells towards a target group in another modality than the perturbed one.

scCross (Yang et al. 2024, Discussion) proposes to generate the other modality from perturbed cells, and
to score a gene by how far that shifts. Here: the mean expected profile of a set of cells, on the log
scale where the modality has one, and its Euclidean distance to that of the target cells. Both come from
the model, so that its errors are in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mocli.nn.neighbors import chunks
from mocli.tasks.perturb.effects import mean_changes
from mocli.tasks.perturb.shifts import stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mocli.tasks.perturb.cells import CellSets
    from mocli.tasks.perturb.effect import Effect
    from mocli.tasks.perturb.effects import TargetReader
    from mocli.tasks.perturb.reencode import Replacement
    from mocli.tasks.perturb.shifts import Perturbation
    from mocli.types import DoubleArray, FloatArray

VALUES, MOST = 20_000_000, 50
"""Mean changes kept at a time (sets of cells, perturbations, features), and perturbations at a time."""


@dataclass(frozen=True, eq=False)
class Across:
    """Where the cells of a screen should go in another modality.

    Attributes
    ----------
    profiles
        Mean expected values of the target cells of every set, `(n_sets, n_features)`.
    """

    reader: TargetReader
    profiles: DoubleArray

    @classmethod
    def of(cls, reader: TargetReader, sets: CellSets, targets: FloatArray) -> Across:
        """Read what target cells `(n, n_latent)` have."""
        total = np.zeros((len(sets.sets), len(reader.names)))
        for rows in reader.blocks(len(targets)):
            values = reader.read(targets[rows], logs=True)
            for k, one in enumerate(sets.sets):
                mine = one.targets[(one.targets >= rows.start) & (one.targets < rows.stop)] - rows.start
                total[k] += values[mine].sum(axis=0)
        size = np.array([max(one.n_targets, 1) for one in sets.sets])
        return cls(reader, total / size[:, None])

    def shifts(
        self,
        cells: Replacement,
        perturbations: Sequence[Perturbation],
        sets: CellSets,
        effect: Effect,
        direction: str,
        *,
        absent: frozenset[int],
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[DoubleArray, DoubleArray]:
        """Return distances before `(n_sets,)`, and by how much each perturbation lessens them.

        The second is `(n_sets, n_perturbations)`; exactly 0 where no cell changes.
        """
        members = [one.cells for one in sets.sets]
        found = np.zeros((len(members), len(perturbations)))
        start = np.zeros(len(members))
        for part in chunks(
            len(perturbations), max(1, min(MOST, VALUES // (len(members) * len(self.reader.names))))
        ):
            some = perturbations[part]
            moved = stream(cells, some, effect, direction, absent=absent)
            before, changes = mean_changes(self.reader, cells.z, members, moved, len(some), logs=True)
            if progress is not None:
                progress(part.stop, len(perturbations))
            way = before - self.profiles
            start = np.linalg.norm(way, axis=1)
            after = np.linalg.norm(way[:, None] + changes, axis=2)
            still = ~changes.any(axis=2)
            found[:, part] = np.where(still, 0.0, start[:, None] - after)
        return start, found
