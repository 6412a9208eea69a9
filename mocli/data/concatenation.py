"""A modality of several files as it is written: one set of matrices, block by block, and what is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd

from mocli.data.blocks import NewModality
from mocli.data.encode import safe_key
from mocli.data.hdf5 import open_h5, reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mocli.data.blocks import Block
    from mocli.data.joined import JoinedModality
    from mocli.data.modality import ModalityFile

_BLOCK = 1 << 22  # stored values held at once
_LOST = ("uns", "varm", "obsp", "varp")


def concatenated(file: JoinedModality, obs_names: Sequence[str] | None = None) -> NewModality:
    """Return what is written of a modality of several files.

    `X` and the layers that all files have become CSR, of a type that holds the
    values of each; `obs`, `var` and the arrays of `obsm` that all files have go
    along. Where a file has no `X` the first common layer is `X` too.
    """
    obs = file.obs if obs_names is None else file.obs.set_axis(pd.Index(obs_names, dtype=object))
    return NewModality(
        name=safe_key(file.name), obs=obs, var=file.var, blocks=lambda: _blocks(file), obsm=_obsm(file)
    )


def left_out(file: JoinedModality) -> list[str]:
    """Say in a line or two what the files hold beside that, which has no place in the result."""
    lost: dict[str, list[str]] = {}
    for part in file.parts:
        for place, keys in _contents(part).items():
            lost.setdefault(place, []).extend(keys)
    common = set(_common_obsm(file))
    lost["obsm"] = [key for key in lost.get("obsm", []) if key not in common]
    lost["layers"] = [k for part in file.parts for k in part.layers if k not in file.layers]
    words = [
        f"{place} {', '.join(dict.fromkeys(keys))}" if keys[0] else place
        for place, keys in lost.items()
        if keys
    ]
    if not words:
        return []
    return [f"{file.name}: cannot be joined and is left out: {'; '.join(words)}"]


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


def _obsm(file: JoinedModality) -> dict[str, NDArray[Any]]:
    found: dict[str, list[NDArray[Any]]] = {key: [] for key in _common_obsm(file)}
    for part in file.parts:
        with open_h5(part.path) as h5, reading(part.path, f"{part.group} obsm"):
            for key, pieces in found.items():
                pieces.append(np.asarray(h5[part.group]["obsm"][key][()]))
    whole = {key: np.concatenate(pieces) for key, pieces in found.items()}
    return whole if file.rows is None else {key: array[file.rows] for key, array in whole.items()}


def _common_obsm(file: JoinedModality) -> list[str]:
    """Keys of arrays that all files have, as wide in each."""
    shapes = [_arrays(part) for part in file.parts]
    return [key for key, shape in shapes[0].items() if all(other.get(key) == shape for other in shapes[1:])]


def _arrays(part: ModalityFile) -> Mapping[str, tuple[int, ...]]:
    if part.format == "10x":
        return {}
    with open_h5(part.path) as h5, reading(part.path, f"{part.group} obsm"):
        node = h5[part.group].get("obsm", {})
        return {
            key: tuple(value.shape[1:])
            for key, value in node.items()
            if isinstance(value, h5py.Dataset) and value.ndim > 1 and value.dtype.kind in "biuf"
        }


def _contents(part: ModalityFile) -> dict[str, list[str]]:
    """Keys by slot, of what cannot be put together; a slot without keys is listed by itself."""
    if part.format == "10x":
        return {}
    with open_h5(part.path) as h5, reading(part.path, part.group):
        group = h5[part.group]
        found = {
            slot: [str(key) for key in group[slot]]
            for slot in (*_LOST, "obsm")
            if isinstance(group.get(slot), h5py.Group)
        }
        if "raw" in group:
            found["raw"] = [""]
        return found
