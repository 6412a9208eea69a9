"""Latent coordinates of cells: for every row of a modality, or one for every cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mocli.data.bundle import MultiOmics
from mocli.models.base import Encodes, EncodesJointly
from mocli.types import FloatArray, IntArray, Pairing

ROUNDING = 1e-6
"""Of single floats, relative."""


def gives_one_place(model: object, pairing: Pairing) -> bool:
    """Say whether a cell has one set of coordinates from all its modalities, not one for each modality.

    Where no cell was measured in two modalities, each modality has its own if the model encodes modalities.
    """
    is_apart = pairing is Pairing.UNPAIRED and isinstance(model, Encodes)
    return isinstance(model, EncodesJointly) and not is_apart


@dataclass(frozen=True, eq=False)
class Latent:
    """Latent coordinates of an integration.

    Attributes:
        by_modality: `(n_obs, d)` for each, rows in file order.
        joint: `(n_cells, d)` where all modalities of a cell give one set of coordinates; `by_modality` then
            repeats it.
        alone: Coordinates of cells had they been measured in one modality only, `(n_obs, d)` for each
            modality; empty where there are no joint ones.
    """

    by_modality: Mapping[str, FloatArray]
    joint: FloatArray | None = None
    alone: Mapping[str, FloatArray] = field(default_factory=dict)

    @classmethod
    def of_cells(
        cls, joint: FloatArray, bundle: MultiOmics, alone: Mapping[str, FloatArray] | None = None
    ) -> Latent:
        """Give every row of a modality the coordinates of its cell."""
        coordinates = {name: _rows_of(joint, bundle.cells_of(name)) for name in bundle.modalities}
        return cls(coordinates, joint, alone or {})

    @property
    def collapsed(self) -> list[str]:
        """Modalities of which all cells lie at one place, but for rounding."""
        return [
            name
            for name, z in self.by_modality.items()
            if len(z) > 1 and np.ptp(z, axis=0).max(initial=0.0) <= ROUNDING * np.abs(z).max(initial=0.0)
        ]

    def whole(self, bundle: MultiOmics) -> FloatArray:
        """Return coordinates for each cell, `(n_cells, d)`: the mean where modalities have their own."""
        if self.joint is not None:
            return self.joint
        width = next(iter(self.by_modality.values())).shape[1]
        total, times = np.zeros((bundle.n_cells, width)), np.zeros((bundle.n_cells, 1))
        for name, z in self.by_modality.items():
            total[bundle.cells_of(name)] += z
            times[bundle.cells_of(name)] += 1
        return (total / np.maximum(times, 1)).astype(np.float32)

    def groups(self, bundle: MultiOmics) -> dict[str, CellLatent]:
        """Return the groups of cells whose mixing is meaningful.

        Modalities, where each has its own coordinates; else cells grouped by the modalities measured in
        them (`rna+atac`, `rna`).
        """
        if self.joint is None:
            return {name: CellLatent(z, bundle.cells_of(name)) for name, z in self.by_modality.items()}
        return {
            name: CellLatent(_rows_of(self.joint, cells), cells)
            for name, cells in measured_together(bundle).items()
        }

    def points(self, bundle: MultiOmics) -> CellLatent:
        """Return the points of all groups, one after the other."""
        groups = self.groups(bundle).values()
        if len(groups) == 1:
            return next(iter(groups))
        return CellLatent(np.concatenate([g.z for g in groups]), np.concatenate([g.cells for g in groups]))


class CellLatent(NamedTuple):
    """Coordinates `(n, d)` and their cells, `(n,)`."""

    z: FloatArray
    cells: IntArray


def _rows_of(z: FloatArray, cells: IntArray) -> FloatArray:
    """Return the coordinates of cells; of all in order no copy, as there may be very many."""
    return z if np.array_equal(cells, np.arange(len(z))) else z[cells]


def measured_together(bundle: MultiOmics) -> dict[str, IntArray]:
    """Return cells by the modalities they have; sets of more modalities come first."""
    patterns = bundle.patterns()
    names = list(bundle.modalities)
    patterns_of = []
    for pattern in np.unique(patterns):
        having = [name for m, name in enumerate(names) if pattern >> m & 1]
        patterns_of.append((len(having), "+".join(having), np.flatnonzero(patterns == pattern)))
    patterns_of.sort(key=lambda entry: -entry[0])
    return {name: cells for _, name, cells in patterns_of}
