"""The cells that a model was trained on, as queries need them: where they lie, what they are called."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mocli.data.bundle import Codes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mocli.data.bundle import MultiOmics
    from mocli.tasks.placement import Latent
    from mocli.types import FloatArray, IntArray

MAX_KEPT = 100_000
"""Training cells kept with a model; of more, as many are drawn."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """Training cells in the latent.

    A cell of a joint latent is here once, else once for each modality.

    Attributes
    ----------
    z
        `(n, d)` float32.
    group
        Which of `groups` each belongs to, `(n,)`: what was measured together, or the modality.
    batch
        Codes `(n,)`, or None.
    alone
        By modality, where each would lie had it been measured in that alone, `(n, d)`, NaN for
        cells that were not measured in it; empty where there is no joint latent.
    labels
        By column of obs, codes `(n,)`, -1 for none.
    n_cells
        How many there were before some were drawn.
    """

    z: FloatArray
    group: IntArray
    groups: tuple[str, ...]
    n_cells: int
    batch: Codes | None = None
    labels: Mapping[str, Codes] = field(default_factory=dict)
    alone: Mapping[str, FloatArray] = field(default_factory=dict)

    def seen_by(self, modalities: Sequence[str]) -> FloatArray:
        """Where the cells would lie had they been measured in these modalities only, as far as kept.

        Cells of one modality are best compared with places that rest on the same; NaN where unknown.
        """
        return self.alone[modalities[0]] if list(modalities) in [[m] for m in self.alone] else self.z

    @classmethod
    def of(cls, latent: Latent, bundle: MultiOmics, labels: Mapping[str, Codes], *, seed: int) -> Atlas:
        """Keep the cells of a training, `MAX_KEPT` at most, with labels given for all cells."""
        groups = latent.groups(bundle)
        z = np.concatenate([g.z for g in groups.values()])
        cells = np.concatenate([g.cells for g in groups.values()])
        group = np.repeat(np.arange(len(groups)), [len(g.cells) for g in groups.values()])
        rows = np.arange(len(z))
        if len(rows) > MAX_KEPT:
            rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_KEPT, replace=False))
        batch = bundle.batch
        return cls(
            z=z[rows].astype(np.float32),
            group=group[rows].astype(np.int64),
            groups=tuple(groups),
            n_cells=len(z),
            batch=None if batch is None else Codes(batch.key, batch.codes[cells[rows]], batch.levels),
            labels={k: Codes(k, c.codes[cells[rows]], c.levels) for k, c in labels.items()},
            alone={
                m: _by_cell(z, bundle.cells_of(m), len(cells))[cells[rows]] for m, z in latent.alone.items()
            },
        )

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what `from_state` needs: a JSON-able part and arrays by name."""
        columns = [*([] if self.batch is None else [self.batch]), *self.labels.values()]
        json = {
            "groups": list(self.groups),
            "n_cells": self.n_cells,
            "alone": list(self.alone),
            "has_batch": self.batch is not None,
            "columns": [{"key": c.key, "levels": list(c.levels)} for c in columns],
        }
        arrays: dict[str, Any] = {"z": self.z, "group": self.group.astype(np.int32)}
        arrays |= {f"codes.{i}": c.codes.astype(np.int32) for i, c in enumerate(columns)}
        arrays |= {f"alone.{i}": z for i, z in enumerate(self.alone.values())}
        return json, arrays

    @classmethod
    def from_state(cls, json: Mapping[str, Any], arrays: Mapping[str, Any]) -> Atlas:
        """Rebuild."""
        columns = [
            Codes(c["key"], np.asarray(arrays[f"codes.{i}"], np.int64), tuple(c["levels"]))
            for i, c in enumerate(json["columns"])
        ]
        batch = columns.pop(0) if json["has_batch"] else None
        return cls(
            z=arrays["z"],
            group=np.asarray(arrays["group"], np.int64),
            groups=tuple(json["groups"]),
            n_cells=json["n_cells"],
            batch=batch,
            labels={c.key: c for c in columns},
            alone={m: arrays[f"alone.{i}"] for i, m in enumerate(json["alone"])},
        )


def _by_cell(z: FloatArray, cells: IntArray, n_cells: int) -> FloatArray:
    found = np.full((n_cells, z.shape[1]), np.nan, np.float32)
    found[cells] = z
    return found
