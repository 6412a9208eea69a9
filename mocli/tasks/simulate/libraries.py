"""Total counts of simulated cells, jointly over modalities as in the training cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mocli.tasks.infer.decoder import is_counted
from mocli.tasks.simulate.groups import atlas_of

if TYPE_CHECKING:
    from mocli.tasks.run.run import Run
    from mocli.tasks.simulate.groups import Wanted
    from mocli.tasks.simulate.options import SimulateOptions
    from mocli.tasks.trained.saved import SavedModel
    from mocli.types import FloatArray, IntArray


def libraries(
    saved: SavedModel, wanted: Wanted, source: IntArray, group: IntArray, asked: SimulateOptions, run: Run
) -> dict[str, FloatArray]:
    """Return totals `(n,)` of modalities whose values are counts.

    Sampled ones are those of the training cell that a simulated one follows; a cell that was not
    measured in a modality borrows from another of its group. A modality that is left out stands at the
    model's median.
    """
    kept = atlas_of(saved).library
    rng = np.random.default_rng([run.options.seed, 1_000_003])
    found: dict[str, FloatArray] = {}
    unknown = []
    for name in wanted.modalities:
        if not is_counted(saved, name):
            continue
        if isinstance(asked.library_size, float):
            found[name] = np.full(len(source), asked.library_size, np.float32)
        elif name not in kept:
            unknown.append(name)
        else:
            found[name] = _of_groups(kept[name], wanted, source, group, asked.library_size, rng)
    if unknown:
        run.warn(
            f"the model does not keep how deep {' and '.join(unknown)} of its training cells were measured: "
            "every simulated cell has their median depth; a model trained with this version keeps it"
        )
    return found


def _of_groups(
    kept: FloatArray, wanted: Wanted, source: IntArray, group: IntArray, how: str, rng: np.random.Generator
) -> FloatArray:
    out = kept[source].copy()
    for position, of in enumerate(wanted.groups):
        mine = np.flatnonzero(group == position)
        measured = kept[of.rows][np.isfinite(kept[of.rows])]
        if not len(measured):
            # nobody of the group was measured in it
            measured = kept[np.isfinite(kept)]
        if how == "sampled":
            missing = mine[~np.isfinite(out[mine])]
            out[missing] = rng.choice(measured, len(missing))
        else:
            out[mine] = np.median(measured) if how == "median" else measured.mean()
    return out
