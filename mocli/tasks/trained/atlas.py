"""The cells that a model was trained on, as queries and simulations need them: coordinates, names, depths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
from scipy import sparse

from mocli.data.bundle import Codes, FeatureMatrix, Modality, MultiOmics
from mocli.data.transforms.components import Components
from mocli.data.transforms.transform import LOGNORM
from mocli.nn.neighbors import chunks, drawn_rows
from mocli.tasks.trained.latent import Latent
from mocli.types import CSR, BoolArray, FloatArray, IntArray

N_OWN, FIT_CELLS = 50, 20_000
ROWS = 8_192
"""Cells that are placed at a time."""

MAX_KEPT = 100_000
"""Most training cells kept with a model; of more, this many are drawn."""


class LabelColumn(Protocol):
    """A column of obs that a model keeps for queries."""

    @property
    def name(self) -> str:
        """The name of the column."""
        ...

    def of_cells(self, bundle: MultiOmics) -> Codes:
        """Return one code for every cell of a bundle."""
        ...


_OWN = ("loadings", "mean", "scores")

MANY_KNOWN = 0.5
"""Share of cells with names of training cells above which these seem to be the same."""


@dataclass(frozen=True, eq=False)
class OwnComponents:
    """Principal components of the values of a modality that a model sees, counts logged at one depth.

    They are linear, hardly fitted to single cells, and know nothing of a model: so cells of a query lie in
    them as training cells do, where encoders of few cells place new ones elsewhere.

    Attributes:
        loadings, mean: `(p, k)` and `(p,)`.
        depth: Total that counts are scaled to; None where values are no counts.
        scores: Of the training cells that are kept, `(n, k)`; NaN where they were not measured.
    """

    loadings: FloatArray
    mean: FloatArray
    depth: float | None
    scores: FloatArray

    @classmethod
    def fit(cls, m: Modality, rows: IntArray, *, seed: int) -> Self:
        """Fit on 20,000 cells at most, in memory; `rows` of the modality are those kept, -1 for none."""
        depth = m.features.median_total() if m.is_counted else None
        some = m.features.values[drawn_rows(m.n_obs, FIT_CELLS, seed=seed)]
        values = FeatureMatrix(_even(some, depth), m.features.names)
        found = Components.fit(values, n_components=N_OWN, seed=seed)
        scores = np.full((len(rows), found.loadings.shape[1]), np.nan, np.float32)
        fitted = cls(found.loadings, found.mean, depth, scores)
        scores[rows >= 0] = fitted.place(m, rows[rows >= 0])
        return fitted

    def place(self, m: Modality, rows: IntArray) -> FloatArray:
        """Return coordinates of some rows of a modality, `(n, k)`."""
        shift = self.mean @ self.loadings
        placed = np.empty((len(rows), len(shift)), np.float32)
        for part in chunks(len(rows), ROWS):
            placed[part] = _even(m.features.values[rows[part]], self.depth) @ self.loadings - shift
        return placed


def _even(x: CSR | FloatArray, depth: float | None) -> CSR | FloatArray:
    """Return counts logged at one depth, other values unchanged."""
    return x if depth is None else LOGNORM.forward(sparse.csr_matrix(x, dtype=np.float32), target_sum=depth)


@dataclass(frozen=True, eq=False)
class Atlas:
    """Latent coordinates of training cells.

    A cell of a joint latent is listed once, else once for each modality.

    Attributes:
        z: `(n, d)` float32.
        group: What was measured together in each, or its modality: codes `(n,)`.
        batch: Codes `(n,)`, or None.
        alone: By modality, coordinates of each cell had it been measured in that alone, `(n, d)`, NaN for
            cells that were not measured in it; empty where there is no joint latent.
        labels: By column of obs, codes `(n,)`, -1 for none.
        n_cells: Their number before some were drawn.
        library: By modality whose values are counts, totals of the values that the model saw, `(n,)`, NaN for
            cells that were not measured in it.
        drawn: One draw from the posterior of each cell, `(n, d)`, where the model has one: the means alone
            lie closer together than cells do.
        covariates: Other categorical covariates, as `batch`.
        continuous: Covariates that are numbers, `(n, n_keys)`, or None.
        names: Names of the cells, `(n,)`.
        own: By modality, principal components of its own values; none of values that stay on disk. This and
            the five before are empty in a model of an earlier version.
    """

    z: FloatArray
    group: Codes
    n_cells: int
    batch: Codes | None = None
    labels: Mapping[str, Codes] = field(default_factory=dict)
    alone: Mapping[str, FloatArray] = field(default_factory=dict)
    library: Mapping[str, FloatArray] = field(default_factory=dict)
    drawn: FloatArray | None = None
    covariates: tuple[Codes, ...] = ()
    continuous: FloatArray | None = None
    names: tuple[str, ...] = ()
    own: Mapping[str, OwnComponents] = field(default_factory=dict)

    def seen_by(self, modalities: Sequence[str]) -> FloatArray:
        """Coordinates of the cells had they been measured in these modalities only; NaN where unknown.

        They are known as far as they are kept. Cells of one modality are best compared with coordinates
        from the same modality.
        """
        return self.alone[modalities[0]] if list(modalities) in [[m] for m in self.alone] else self.z

    def voters(self, modality: str, codes: IntArray) -> BoolArray:
        """Say which cells to compare those of a modality with, `(n,)`.

        Where modalities have their own coordinates, these are the modality's own cells, if they have all
        labels.
        """
        same_modality = np.array([not self.alone and name == modality for name in self.group.levels])[
            self.group.codes
        ]
        enough = np.isin(np.unique(codes[codes >= 0]), codes[same_modality]).all()
        return same_modality if same_modality.any() and enough else np.ones(len(self.z), bool)

    def share_known(self, names: Sequence[str], modality: str | None = None) -> float:
        """Return which share of cells have names of training cells, estimated where some of these were drawn.

        `modality`: of training cells that were measured in it; None of all.
        """
        holds = [modality is None or modality in of.split("+") for of in self.group.levels]
        known = {name for name, group in zip(self.names, self.group.codes, strict=False) if holds[group]}
        n = sum(name in known for name in names)
        return min(1.0, n / max(len(names), 1) * self.n_cells / max(len(self.z), 1))

    @property
    def cloud(self) -> FloatArray:
        """Where cells may lie, `(n, d)`: a draw from each posterior, where the model has one.

        If draws are further from their means than the means from each other, they are mostly noise, and the
        means are used.
        """
        if self.drawn is None:
            return self.z
        noise = float(np.square(self.drawn - self.z).sum(1).mean())
        return self.drawn if noise < float(self.z.var(0).sum()) else self.z

    @classmethod
    def of(
        cls,
        latent: Latent,
        bundle: MultiOmics,
        labels: Mapping[str, Codes],
        *,
        seed: int,
        drawn: FloatArray | None = None,
    ) -> Atlas:
        """Keep the cells of a training, `MAX_KEPT` at most, with labels and draws given for all cells."""
        groups = latent.groups(bundle)
        z, cells = latent.points(bundle)
        group = np.repeat(np.arange(len(groups)), [len(g.cells) for g in groups.values()])
        rows = drawn_rows(len(z), MAX_KEPT, seed=seed)
        batch, numbers, kept_cells = bundle.batch, bundle.continuous, cells[rows]
        # where modalities have places of their own, a row is of one of them
        of_one = None if latent.joint is not None else np.array(list(groups))[group[rows]]
        return cls(
            z=z[rows].astype(np.float32),
            group=Codes("group", group[rows].astype(np.int64), tuple(groups)),
            n_cells=len(z),
            batch=None if batch is None else Codes(batch.key, batch.codes[cells[rows]], batch.levels),
            labels={k: Codes(k, c.codes[cells[rows]], c.levels) for k, c in labels.items()},
            alone={
                m: _by_cell(z, bundle.cells_of(m), len(cells))[cells[rows]] for m, z in latent.alone.items()
            },
            library=_libraries(bundle, kept_cells, of_one),
            drawn=None if drawn is None else drawn[kept_cells],
            covariates=tuple(Codes(c.key, c.codes[kept_cells], c.levels) for c in bundle.covariates),
            continuous=None if numbers is None else numbers.values[kept_cells],
            names=tuple(bundle.obs_names[i] for i in kept_cells),
            own={
                name: OwnComponents.fit(m, bundle.rows[kept_cells, position], seed=seed)
                for position, (name, m) in enumerate(bundle.modalities.items())
                if m.n_obs > 1 and not m.features.on_disk
            },
        )

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what `from_state` needs: a JSON-able part and arrays by name."""
        columns = [*([] if self.batch is None else [self.batch]), *self.labels.values(), *self.covariates]
        json = {
            "groups": list(self.group.levels),
            "n_cells": self.n_cells,
            "alone": list(self.alone),
            "has_batch": self.batch is not None,
            "n_covariates": len(self.covariates),
            "library": list(self.library),
            "own": [{"modality": m, "depth": own.depth} for m, own in self.own.items()],
            "columns": [{"key": c.key, "levels": list(c.levels)} for c in columns],
        }
        arrays: dict[str, Any] = {"z": self.z, "group": self.group.codes.astype(np.int32)}
        arrays |= {f"codes.{i}": c.codes.astype(np.int32) for i, c in enumerate(columns)}
        arrays |= {f"alone.{i}": z for i, z in enumerate(self.alone.values())}
        arrays |= {f"library.{i}": x for i, x in enumerate(self.library.values())}
        arrays |= {k: x for k, x in (("drawn", self.drawn), ("continuous", self.continuous)) if x is not None}
        for i, own in enumerate(self.own.values()):
            arrays |= {f"own.{i}.{name}": getattr(own, name) for name in _OWN}
        if self.names:
            arrays["names"] = np.frombuffer("\n".join(self.names).encode(), np.uint8)
        return json, arrays

    @classmethod
    def from_state(cls, json: Mapping[str, Any], arrays: Mapping[str, Any]) -> Atlas:
        """Rebuild."""
        columns = [
            Codes(c["key"], np.asarray(arrays[f"codes.{i}"], np.int64), tuple(c["levels"]))
            for i, c in enumerate(json["columns"])
        ]
        batch = columns.pop(0) if json["has_batch"] else None
        n_labels = len(columns) - json.get("n_covariates", 0)
        names = arrays["names"].tobytes().decode() if "names" in arrays else ""
        return cls(
            z=arrays["z"],
            group=Codes("group", np.asarray(arrays["group"], np.int64), tuple(json["groups"])),
            n_cells=json["n_cells"],
            batch=batch,
            labels={c.key: c for c in columns[:n_labels]},
            alone={m: arrays[f"alone.{i}"] for i, m in enumerate(json["alone"])},
            library={m: arrays[f"library.{i}"] for i, m in enumerate(json.get("library", []))},
            drawn=arrays.get("drawn"),
            covariates=tuple(columns[n_labels:]),
            continuous=arrays.get("continuous"),
            names=tuple(names.split("\n")) if names else (),
            own={
                own["modality"]: OwnComponents(
                    depth=own["depth"], **{name: arrays[f"own.{i}.{name}"] for name in _OWN}
                )
                for i, own in enumerate(json.get("own", []))
            },
        )


def _by_cell(z: FloatArray, cells: IntArray, n_cells: int) -> FloatArray:
    whole = np.full((n_cells, z.shape[1]), np.nan, np.float32)
    whole[cells] = z
    return whole


def _libraries(bundle: MultiOmics, kept_cells: IntArray, of_one: Any | None) -> dict[str, FloatArray]:
    """Return totals of counts of cells by modality; `of_one` names the modality of rows of a single one."""
    libraries = {}
    for name, m in bundle.modalities.items():
        if not m.is_counted:
            continue
        totals = m.features.totals().astype(np.float32)
        cells = bundle.cells_of(name)
        by_cell = np.full(bundle.n_cells, np.nan, np.float32)
        by_cell[cells] = totals
        of_kept = by_cell[kept_cells]
        libraries[name] = (
            of_kept if of_one is None else np.where(of_one == name, of_kept, np.nan).astype(np.float32)
        )
    return libraries
