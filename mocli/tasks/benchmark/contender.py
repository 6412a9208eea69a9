"""One entry of a benchmark: the coordinates that a method gives the scored cells, from any tool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from mocli.data.files.obsm import Coordinates, read_coordinates
from mocli.data.files.source import parse_source
from mocli.errors import InputError, UsageError
from mocli.types import FloatArray

if TYPE_CHECKING:
    from mocli.tasks.benchmark.ground import Ground

    Kind = Literal["model", "control", "embedding", "peer"]


@dataclass(frozen=True, eq=False)
class Contender:
    """Coordinates of the scored cells by one method and seed.

    Attributes:
        by_modality: Coordinates of each modality's cells, `(n_obs, d)`, rows as in the sample; empty if the
            method only knows whole cells.
        joint: Coordinates of each cell, `(n_cells, d)`; None if only modalities have coordinates, whose mean
            is then used.
    """

    name: str
    kind: Kind
    title: str
    definition: str
    by_modality: Mapping[str, FloatArray] = field(default_factory=dict)
    joint: FloatArray | None = None
    seed: int | None = None
    study: str = ""

    def whole(self, ground: Ground) -> FloatArray:
        """Return coordinates of each cell, `(n_cells, d)`."""
        if self.joint is not None:
            return self.joint
        rows = ground.bundle.rows
        width = next(iter(self.by_modality.values())).shape[1]
        total = np.zeros((len(rows), width))
        times = np.zeros(len(rows))
        for position, name in enumerate(ground.bundle.modalities):
            if name in self.by_modality:
                cells = np.flatnonzero(rows[:, position] >= 0)
                total[cells] += self.by_modality[name][rows[cells, position]]
                times[cells] += 1
        return (total / np.maximum(times, 1)[:, None]).astype(np.float32)


def others_embedding(text: str, inputs: Sequence[str], ground: Ground) -> Contender:
    """Read what another tool wrote: `obsm:KEY` of the inputs, or `FILE::KEY`.

    Raises:
        UsageError: The text is neither.
        InputError: See `aligned`.
    """
    owner, separator, key = text.rpartition("::")
    if not separator:
        owner, separator, key = text.partition(":")
    if not (owner and separator and key):
        raise UsageError(
            f"'{text}' does not name an embedding",
            field="--embedding",
            expected="obsm:KEY for an array of the inputs, or FILE.h5ad::KEY",
            hint="such as obsm:X_scVI, or results/harmony.h5ad::X_harmony",
        )
    definition = f"obsm['{key}'] of {'the inputs' if owner == 'obsm' else owner}, aligned by cell names"
    if owner != "obsm":
        parts = read_coordinates(Path(owner), key)
        return placed(parts, ground, key, "embedding", key, definition, where=owner)
    return placed(
        _of_inputs(inputs, key, ground), ground, key, "embedding", key, definition, where="the inputs"
    )


def _of_inputs(inputs: Sequence[str], key: str, ground: Ground) -> list[Coordinates]:
    """Collect an array from the input files that have it; a file of one modality is that modality's."""
    coordinates: list[Coordinates] = []
    missing: InputError | None = None
    for path in dict.fromkeys(parse_source(text).path for text in inputs):
        modalities = [f.name for f in ground.files if path in f.paths]
        try:
            parts = read_coordinates(path, key)
        except InputError as error:
            missing = missing or error
            continue
        coordinates += [
            replace(p, modality=modalities[0]) if p.modality is None and len(modalities) == 1 else p
            for p in parts
        ]
    if not coordinates and missing is not None:
        raise missing
    return coordinates


def placed(
    parts: Sequence[Coordinates],
    ground: Ground,
    name: str,
    kind: Kind,
    title: str,
    definition: str,
    *,
    where: str | Path,
    seed: int | None = None,
    study: str = "",
    alone: Sequence[Coordinates] = (),
) -> Contender:
    """Align coordinates with the scored cells by name, never by position.

    If every modality has coordinates and those of partners differ, the method places modalities separately;
    otherwise a cell has one set of coordinates.

    `alone`: coordinates from one modality alone, for methods with one set of coordinates for each cell.
    """
    bundle = ground.bundle
    by_modality = {p.modality: p for p in parts if p.modality is not None}
    if not ground.apart and not set(bundle.modalities) <= set(by_modality):
        joint = aligned(parts, bundle.obs_names, where, None)
        return Contender(name, kind, title, definition, {}, joint, seed, study)
    by_name = {}
    for m in bundle.modalities:
        of_modality = by_modality.get(m)
        by_name[m] = aligned(
            [of_modality] if of_modality is not None else parts, bundle.modalities[m].obs_names, where, m
        )
    _same_width(by_name, where)
    if ground.apart or not _together(by_name, ground):
        return Contender(name, kind, title, definition, by_name, None, seed, study)
    joint = np.zeros((bundle.n_cells, next(iter(by_name.values())).shape[1]), np.float32)
    for m, z in by_name.items():
        joint[bundle.cells_of(m)] = z
    marginal = {
        p.modality: aligned([p], bundle.modalities[p.modality].obs_names, where, p.modality)
        for p in alone
        if p.modality is not None and p.modality in bundle.modalities
    }
    complete = marginal if set(marginal) == set(bundle.modalities) else {}
    return Contender(name, kind, title, definition, complete, joint, seed, study)


def _together(by_modality: Mapping[str, FloatArray], ground: Ground) -> bool:
    """Say whether cells have the same coordinates in all modalities that they were measured in."""
    first, seen = np.full((ground.bundle.n_cells, 1), np.nan, np.float32), False
    width = next(iter(by_modality.values())).shape[1]
    first = np.full((ground.bundle.n_cells, width), np.nan, np.float32)
    for m, z in by_modality.items():
        cells = ground.bundle.cells_of(m)
        is_placed = ~np.isnan(first[cells, 0])
        seen = seen or bool(is_placed.any())
        if not np.array_equal(first[cells[is_placed]], z[is_placed]):
            return False
        first[cells] = z
    return seen


def aligned(
    parts: Sequence[Coordinates], wanted: Sequence[str], where: str | Path, modality: str | None
) -> FloatArray:
    """Return coordinates in the order of the wanted cells, `(n, d)`.

    A cell is found by its name, or by `modality:name` as mocli writes names that modalities share.

    Raises `InputError`: a wanted cell has no coordinates, coordinates that are not finite, or two rows under
    one name.
    """
    _same_width({str(i): p.z for i, p in enumerate(parts)}, where)
    names = parts[0].names.append([p.names for p in parts[1:]])
    z = np.concatenate([p.z for p in parts])
    # a cell of two modalities may be given once for each
    keep = ~names.duplicated()
    index, z_once = pd.Index(names[keep]), z[keep]
    back = index.get_indexer(names)
    if not np.array_equal(z_once[back], z, equal_nan=True):
        twice = names[(z_once[back] != z).any(1)][0]
        raise InputError(
            "the embedding has two rows for one cell",
            file=where,
            field="obs_names",
            found=repr(str(twice)),
            hint="write it as .h5mu with the coordinates of each modality in its own obsm",
        )
    rows = index.get_indexer(pd.Index(wanted))
    if modality is not None and (rows < 0).any():
        prefixed = index.get_indexer(pd.Index([f"{modality}:{name}" for name in wanted]))
        rows = np.where(prefixed >= 0, prefixed, rows)
    absent = np.flatnonzero(rows < 0)
    of_modality = "" if modality is None else f" of {modality}"
    if len(absent):
        examples = ", ".join(repr(wanted[i]) for i in absent[:3])
        raise InputError(
            f"the embedding lacks {len(absent):,} of {len(wanted):,} cells{of_modality}",
            file=where,
            field="obs_names",
            found=f"{len(index):,} cells, such as {', '.join(repr(str(n)) for n in index[:3])}",
            expected=f"coordinates of all cells; it lacks {examples}",
            hint="cells are matched by obs_names: name them as in the inputs"
            if len(absent) == len(wanted)
            else "give these cells coordinates, or leave them out of the inputs",
        )
    places: FloatArray = z_once[rows]
    bad = np.flatnonzero(~np.isfinite(places).all(1))
    if len(bad):
        raise InputError(
            f"the embedding has no finite coordinates for {len(bad):,} of {len(wanted):,} cells{of_modality}",
            file=where,
            field="obsm",
            found=f"NaN or infinity, first in cell {wanted[bad[0]]!r}",
            hint="leave such cells out of the inputs, or give them coordinates",
        )
    return places


def _same_width(z: Mapping[str, FloatArray], where: str | Path) -> None:
    widths = {v.shape[1] for v in z.values()}
    if len(widths) > 1:
        raise InputError(
            "the modalities lie in spaces of different dimensions",
            file=where,
            field="obsm",
            found=" and ".join(map(str, sorted(widths))),
            expected="one space",
        )
