"""How cells of different modalities relate, and the index map that records it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mocli.data.files.cellnames import are_running_numbers
from mocli.data.files.modality import ModalityFile
from mocli.errors import InputError
from mocli.parsing import one_of
from mocli.types import IntArray, Pairing

CHANCE = 0.05
"""Names shared by fewer than this part of the smaller modality are chance: barcodes recur between studies."""


@dataclass(frozen=True)
class Relation:
    """The pairing, why, and whether equal names mean equal cells."""

    pairing: Pairing
    reason: str
    names_mean_cells: bool


def relate_files(files: Sequence[ModalityFile], requested: str) -> Relation:
    """Decide the pairing of opened modalities, see `relate`."""
    several_files = len({f.paths for f in files}) > 1
    return relate([f.obs.index for f in files], requested, several_files=several_files)


def relate(names: Sequence[pd.Index], requested: str, *, several_files: bool = False) -> Relation:
    """Decide the pairing from the cell names of each modality.

    Cells are paired if all modalities hold the same names, mosaic if some
    names are shared, unpaired if none are or so few that chance explains them.

    `apart`: whether the modalities are in separate files, where running numbers do not identify cells: they
    then count as the same cells only on request.
    """
    one_of(requested, ["auto", *(p.value for p in Pairing)], "--pairing")
    if len(names) == 1:
        # nothing to pair with: each row is a cell, whatever was asked
        return Relation(Pairing.PAIRED, "there is one modality", names_mean_cells=True)
    n_shared, least = _shared(names)
    by_chance = 0 < n_shared < CHANCE * least
    numbered = several_files and sum(map(are_running_numbers, names)) > 1
    if requested != "auto":
        if requested != Pairing.UNPAIRED and not n_shared:
            raise InputError(
                f"--pairing {requested} needs cells with the same name in two modalities, there are none",
                field="obs_names",
                found=" and ".join(repr(str(n[0])) for n in names[:2]),
                hint="make the cell names equal, or use --pairing unpaired",
            )
        # of cells said to be unpaired a few common names are chance; of others they are meant
        chance = (by_chance or numbered) and requested == Pairing.UNPAIRED
        means = bool(n_shared) and not chance
        reason = "as asked"
        if means and requested == Pairing.UNPAIRED:
            reason += f"; {n_shared:,} cell names are shared: the model does not use that, metrics do"
        return Relation(Pairing(requested), reason, names_mean_cells=means)
    if not n_shared:
        return Relation(Pairing.UNPAIRED, "no cell name is shared", names_mean_cells=False)
    if numbered:
        reason = (
            "names of cells are running numbers, which in separate files do not say that cells are the same; "
            "if they are, add --pairing paired"
        )
        return Relation(Pairing.UNPAIRED, reason, names_mean_cells=False)
    if by_chance:
        reason = f"only {n_shared:,} cell names are shared, which counts as chance"
        return Relation(Pairing.UNPAIRED, reason, names_mean_cells=False)
    first = set(names[0])
    if all(len(n) == len(first) and first.issuperset(n) for n in names[1:]):
        return Relation(Pairing.PAIRED, f"all {n_shared:,} cell names are shared", names_mean_cells=True)
    return Relation(Pairing.MOSAIC, f"{n_shared:,} cell names are shared", names_mean_cells=True)


def _shared(names: Sequence[pd.Index]) -> tuple[int, int]:
    seen: set[str] = set()
    shared: set[str] = set()
    for index in names:
        current = set(index)
        shared |= current & seen
        seen |= current
    return len(shared), min(len(n) for n in names)


def index_map(files: Sequence[ModalityFile], pairing: Pairing) -> tuple[IntArray, tuple[str, ...]]:
    """Return rows `(n_cells, n_modalities)`, -1 where absent, and the cells' names.

    Unpaired rows are separate cells even if names coincide.
    """
    if pairing is Pairing.UNPAIRED:
        sizes = [f.n_obs for f in files]
        rows = np.full((sum(sizes), len(files)), -1, dtype=np.int64)
        start = 0
        for column, n in enumerate(sizes):
            rows[start : start + n, column] = np.arange(n)
            start += n
        return rows, tuple(str(name) for f in files for name in f.obs.index)
    union = dict.fromkeys(str(name) for f in files for name in f.obs.index)
    where = {name: cell for cell, name in enumerate(union)}
    rows = np.full((len(union), len(files)), -1, dtype=np.int64)
    for column, f in enumerate(files):
        cells = np.fromiter((where[str(name)] for name in f.obs.index), dtype=np.int64, count=f.n_obs)
        rows[cells, column] = np.arange(f.n_obs)
    return rows, tuple(union)


def true_pairs(first: pd.Index | pd.Series, second: pd.Index | pd.Series) -> IntArray | None:
    """Return rows of true partners, `(n_pairs, 2)`, None if there are none.

    Partners have equal names that occur once on each side; missing names have none.
    """
    import pandas as pd

    sides = []
    for names in (first, second):
        rows = pd.Series(np.arange(len(names)), index=pd.Index(names).astype(object))
        sides.append(rows[rows.index.notna() & ~rows.index.duplicated(keep=False)])
    pairs = pd.concat(sides, axis=1, join="inner").sort_values(0).to_numpy(dtype=np.int64)
    return pairs if len(pairs) else None
