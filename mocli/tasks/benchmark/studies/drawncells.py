"""Cells for studies: some of them, drawn by seed, as a file of names that `--only-cells` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mocli.data.files.obs import find_column
from mocli.errors import UsageError
from mocli.tasks.benchmark.ground import sample_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mocli.tasks.benchmark.ground import Ground
    from mocli.tasks.run.options import DataOptions

PARTS = TRAINING, HELD_OUT = "training", "held-out"
SHARE_HELD_OUT = 0.2
FEWEST = 20
"""Fewest held-out cells for a figure."""

LEAST_CELLS = 50
"""Fewest cells for a comparison of models."""


def some(ground: Ground, data: DataOptions, n: int, seed: int) -> list[str]:
    """Return the names of n cells of every modality, partners together where that is possible.

    Raises
    ------
    UsageError
        There are not so many cells, or they are too few to compare anything.
    """
    most = max(ground.n_before.values())
    if not LEAST_CELLS <= n < most:
        raise UsageError(
            "the number of cells cannot be drawn",
            field="--subsample",
            found=n,
            expected=f"{LEAST_CELLS} to {most - 1:,}",
        )
    rows = sample_rows(ground.files, ground.whole.relation, data.pair_key, most=n, seed=seed)
    return _names([f.obs.index[rows[f.name]] for f in ground.files])


def fewer_of(ground: Ground, data: DataOptions, label: str, share: float, seed: int) -> list[str]:
    """Return the names of all cells, but only a share of those with one label.

    Raises
    ------
    UsageError
        There are no labels, or not this one.
    """
    if data.label_key is None:
        raise UsageError("a rare label needs labels", field="--rare", hint="name their column: --label-key")
    columns = find_column(ground.files, data.label_key, option="--label-key")
    has = [pd.Series(c.astype(str).to_numpy(), index=f.obs.index) for f in ground.files
           if (c := columns.get(f.name)) is not None]  # fmt: skip
    cells = _names([column.index[(column == label).to_numpy()] for column in has])
    if len(cells) < 2:
        levels = sorted({level for column in has for level in column.unique()})
        raise UsageError(
            "there are no two cells of this label",
            field="--rare",
            found=label,
            expected=", ".join(levels[:8]),
        )
    n = max(2, round(share * len(cells)))
    drawn = set(np.random.default_rng(seed).choice(cells, n, replace=False))
    gone = set(cells) - drawn
    return [name for name in _names([f.obs.index for f in ground.files]) if name not in gone]


def halves(ground: Ground, seed: int, *, part: str) -> list[str]:
    """Return the names of the cells to train on, or of those held out, a fifth of those measured in all.

    Raises
    ------
    UsageError
        Too few cells were measured in every modality.
    """
    files = ground.files
    everywhere = files[0].obs.index.astype(str)
    for f in files[1:]:
        everywhere = everywhere[everywhere.isin(f.obs.index.astype(str))]
    n = round(SHARE_HELD_OUT * len(everywhere))
    if n < FEWEST or not ground.whole.relation.names_mean_cells:
        raise UsageError(
            "reconstruct needs cells that were measured in every modality, under one name",
            field="--tasks",
            found=f"{len(everywhere):,} such cells",
            expected=f"at least {round(FEWEST / SHARE_HELD_OUT)}",
        )
    out = np.random.default_rng(seed).permutation(len(everywhere))[:n]
    held_out = {str(everywhere[i]): None for i in np.sort(out)}
    if part == HELD_OUT:
        return list(held_out)
    return [name for name in _names([f.obs.index for f in files]) if name not in held_out]


def part_of(cells: Sequence[str], share: float, seed: int) -> list[str]:
    """Return a share of some cells by name.

    Raises
    ------
    UsageError
        Too few are left to train on.
    """
    n = round(share * len(cells))
    if n < FEWEST:
        raise UsageError(
            "too few cells are left to train on",
            field="--fractions",
            found=f"{share:g} of {len(cells):,} cells",
            expected=f"at least {FEWEST} cells",
        )
    chosen = np.random.default_rng(seed).choice(len(cells), n, replace=False)
    return [cells[i] for i in np.sort(chosen)]


def in_batch(ground: Ground, key: str, level: str) -> set[str]:
    """Return the names of the cells that any modality says are of a batch."""
    columns = find_column(ground.files, key, option="--batch-key")
    indices = [f.obs.index[(c.astype(str) == level).to_numpy()] for f in ground.files
          if (c := columns.get(f.name)) is not None]  # fmt: skip
    return set(_names(indices))


def _names(indices: Sequence[pd.Index]) -> list[str]:
    return list(dict.fromkeys(str(name) for index in indices for name in index))
