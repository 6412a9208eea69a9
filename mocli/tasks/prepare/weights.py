"""What cells weigh in discriminators: a column of obs, by modality."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from mocli.errors import InputError
from mocli.models.parameters import params_class

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd

    from mocli.data.files.inputs import ModalityFile
    from mocli.models.base import Traits
    from mocli.types import DoubleArray, FloatArray, IntArray


def takes_weights(traits: Traits) -> bool:
    """Whether a model has discriminators that weigh cells."""
    return bool(traits.params) and any(f.name == "critic_weights" for f in fields(params_class(traits)))


def weights_of_rows(
    column: Mapping[str, Mapping[str, pd.Series | None]],
    files: Sequence[ModalityFile],
    rows: IntArray,
    say: Callable[[str], None],
) -> dict[str, FloatArray]:
    """Return the weights of every modality's cells, `(n_obs,)`, of mean 1 over all of them.

    A modality's own column wins; what it lacks comes from the same cell in another modality.

    Parameters
    ----------
    column
        By modality, under its name; empty for none.
    rows
        The index map, `(n_cells, n_modalities)`.

    Raises
    ------
    InputError
        A weight is missing, no finite number or negative; all of a modality are 0.
    """
    if not column:
        return {}
    ((key, by_modality),) = column.items()
    own = {name: _numbers(values) for name, values in by_modality.items() if values is not None}
    shared = np.full(len(rows), np.nan)
    for position, f in enumerate(files):
        if f.name in own:
            cells = np.flatnonzero((rows[:, position] >= 0) & np.isnan(shared))
            shared[cells] = own[f.name][rows[cells, position]]
    found: dict[str, DoubleArray] = {}
    for position, f in enumerate(files):
        cells = np.flatnonzero(rows[:, position] >= 0)
        weight = own.get(f.name, np.full(f.n_obs, np.nan)).copy()
        lacking = cells[np.isnan(weight[rows[cells, position]])]
        weight[rows[lacking, position]] = shared[lacking]
        _check(weight, key, f)
        found[f.name] = weight
    mean = float(np.concatenate(list(found.values())).mean())
    for name, weight in found.items():
        say(
            f"{name}: cells weigh {weight.min():.4g} to {weight.max():.4g} in discriminators, by obs['{key}']"
        )
    return {name: (weight / mean).astype(np.float32) for name, weight in found.items()}


def _numbers(column: pd.Series) -> DoubleArray:
    import pandas as pd

    values: DoubleArray = pd.to_numeric(
        column.astype(object) if isinstance(column.dtype, pd.CategoricalDtype) else column, errors="coerce"
    ).to_numpy(dtype=np.float64, na_value=np.nan)
    return values


def _check(weight: DoubleArray, key: str, f: ModalityFile) -> None:
    bad = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
    if len(bad):
        value = weight[bad[0]]
        what = "no number" if np.isnan(value) else f"{value:g}"
        raise InputError(
            f"a weight of --weight-key is not one in '{f.name}'",
            file=f.where,
            field=f"obs['{key}']",
            found=f"{what} for cell '{f.obs.index[bad[0]]}'"
            + (f" and {len(bad) - 1:,} cells more like it" * (len(bad) > 1)),
            expected="a finite number >= 0 for every cell",
            hint="give every modality the column; 0 keeps a cell out of the discriminators",
        )
    if not weight.any():
        raise InputError(
            f"all cells of '{f.name}' have weight 0",
            file=f.where,
            field=f"obs['{key}']",
            expected="some weight > 0",
        )
