"""A modality of several files as it is written: one set of matrices, block by block, and all else beside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mocli.data.files.hdf5 import open_h5, reading
from mocli.data.write.blocks import NewModality
from mocli.data.write.carry import CLASH, Lost, carry_arrays, carry_pairs, carry_uns
from mocli.data.write.encode import safe_key
from mocli.data.write.origins import origins_of_part

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import h5py

    from mocli.data.files.joined import JoinedModality
    from mocli.data.write.blocks import Block

_BLOCK = 1 << 22  # stored values held at once
MISSING = "not all files of the modality have it"
RAW = "it has features of its own in every file"


def concatenated(file: JoinedModality, obs_names: Sequence[str] | None = None) -> NewModality:
    """Return what is written of a modality of several files.

    `X` and the layers that all files have become CSR, of a type that holds the
    values of each; `obs` and `var` go along, `carry_slots` writes the rest. Where a
    file has no `X` the first common layer is `X` too.
    """
    obs = file.obs if obs_names is None else file.obs.set_axis(pd.Index(obs_names, dtype=object))
    return NewModality(name=safe_key(file.name), obs=obs, var=file.var, blocks=lambda: _blocks(file))


def carry_slots(group: h5py.Group, file: JoinedModality, *, skip: Collection[str] = ()) -> list[Lost]:
    """Write what the files hold beside that into a modality's group; return what has no place there.

    Parameters
    ----------
    skip
        Keys that will be written over.
    """
    cells, features = origins_of_part(file, "obs"), origins_of_part(file, "var")
    lost = _left_out(file)
    for arrays, pairs, origins in (("obsm", "obsp", cells), ("varm", "varp", features)):
        lost += carry_arrays(group, arrays, origins, skip=skip)
        lost += carry_pairs(group, pairs, origins, skip=skip)
    return lost + carry_uns(group, cells, skip=skip)


def _left_out(file: JoinedModality) -> list[Lost]:
    """Return the matrices that not all files have, and columns of var that differ."""
    lost = []
    for part in file.parts:
        lost += [Lost(part.path, f"layer {k}", MISSING) for k in part.layers if k not in file.layers]
        lost += [Lost(part.path, f"var column {k}", CLASH) for k in part.var if k not in file.var]
        if part.format != "10x":
            with open_h5(part.path) as h5, reading(part.path, part.group):
                if "raw" in h5[part.group]:
                    lost.append(Lost(part.path, "raw", RAW))
    return lost


def _blocks(file: JoinedModality) -> Iterator[Block]:
    matrices = {"X": "X" if file.has_x else file.layers[0], **{safe_key(k): k for k in file.layers}}
    stored = {layer: [part.stored_as(layer) for part in file.parts] for layer in {*matrices.values()}}
    dtypes = {layer: np.result_type(*(dtype for _, dtype in of)) for layer, of in stored.items()}
    per_cell = max(file.nbytes(layer) for layer in stored) / 8 / max(1, file.n_obs)
    for k, (_, rows) in enumerate(file.by_part()):
        # of a matrix stored by columns, a few rows cost as much to read as all
        by_column = any(of[k][0] == "csc" for of in stored.values())
        step = len(rows) if by_column else max(1, int(_BLOCK / max(1.0, per_cell)))
        for a in range(0, len(rows), max(1, step)):
            read: dict[str, Any] = {
                layer: file.read(layer, rows=rows[a : a + step], dtype=None) for layer in stored
            }
            yield {key: read[layer].astype(dtypes[layer], copy=False) for key, layer in matrices.items()}
