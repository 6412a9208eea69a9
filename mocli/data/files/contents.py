"""What the numbers of a matrix look like, which layer to take, and whether its values can be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mocli.data.files.modality import ModalityFile
from mocli.errors import InputError
from mocli.types import CSR, BoolArray, FloatArray, IntArray, ModalityKind, ValueKind

_WHOLE = 1e-4  # how far from an integer a count may be, after someone's exp(log(x))
_LOG_MAX = 20.0  # log2 of a million and one is 19.9; unlogged totals per 10,000 exceed it
_BLOCK = 1 << 22

COUNTED_KINDS = frozenset({ModalityKind.RNA, ModalityKind.ATAC})

MOST_NEGATIVE = 0.05
"""Whole numbers with at most this share of negative values are counts with a defect."""


def look(x: CSR) -> ValueKind:
    """Tell counts from transformed values, by the stored values of a sample.

    Values that are not finite are not judged. A matrix of zeros is counts.
    """
    data = x.data[np.isfinite(x.data)]
    data = data[data != 0]
    if data.size == 0:
        return ValueKind.COUNTS
    if data.min() < 0:
        return ValueKind.REAL
    whole = np.rint(data)
    if whole.min() >= 1 and np.abs(data - whole).max() <= _WHOLE:
        return ValueKind.COUNTS
    return ValueKind.LOGNORM if data.max() <= _LOG_MAX else ValueKind.POSITIVE


@dataclass(frozen=True)
class LayerChoice:
    """The matrix to use: `X`, a layer's name or `raw`; what it holds; and why it was chosen."""

    layer: str
    values: ValueKind
    reason: str


def choose_layer(
    file: ModalityFile,
    requested: str | None,
    *,
    wants_counts: bool,
    allow_negative: bool = False,
    takes_normal: bool = False,
) -> LayerChoice:
    """Choose a matrix: the one asked for, else `layers['counts']`, else `X`.

    `takes_normal`: whether a normal likelihood could stand in for the one that wants counts, for the message.
    Raises `InputError`: the layer asked for is missing, holds no counts where counts are wanted, or has
    negative values where they are not allowed. The message names the matrices of the file that would do.
    """
    if requested is not None:
        layer, reason = requested, "asked for"
    elif "counts" in file.layers:
        layer, reason = "counts", "layers['counts'] is there"
        if file.has_x and not _holds_counts(file, "counts") and _holds_counts(file, "X"):
            layer, reason = "X", "it holds counts, which layers['counts'] does not"
    else:
        layer, reason = "X", "no layer is called counts"
    sampled = file.sampled()
    sample = sampled.read(layer)
    values = look(sample)
    _refuse_not_finite(sample, sampled, layer)
    _refuse_mixed(file, layer, signed=allow_negative)

    def fits(kind: ValueKind) -> bool:
        return kind is ValueKind.COUNTS if wants_counts else allow_negative or kind is not ValueKind.REAL

    if fits(values):
        chosen = requested is None and values is not ValueKind.COUNTS
        counted = [m for m in file.matrices if chosen and m != layer and _holds_counts(file, m)]
        if counted:
            reason += f"; {_field(counted[0])} holds counts: --layer {file.name}={counted[0]} takes them"
        elif chosen and file.kind in COUNTED_KINDS and (cause := cause_of(sample, values)):
            reason += f"; these look like {cause}: --round takes them rounded, as counts"
        return LayerChoice(layer, values, reason)
    others = [
        m
        for m in file.matrices
        if m != layer and not _mixed(file, m, signed=allow_negative) and fits(look(file.sample(m)))
    ]
    cause = cause_of(sample, values)
    rounds = ", or add --round to take these rounded to whole numbers, negative ones as 0" if cause else ""
    raise InputError(
        f"'{file.name}' needs {'counts' if wants_counts else 'values that are not negative'}",
        file=file.where,
        field=_field(layer),
        found=cause or _WORDS[values],
        expected=_WORDS[ValueKind.COUNTS] if wants_counts else "values >= 0",
        hint=f"{' or '.join(_field(m) for m in others[:3])} would do: --layer {file.name}={others[0]}"
        if others
        else "no other layer of the file would do: give the file with the raw counts"
        + rounds
        + (_as_normal(file.name, values) if takes_normal else "")
        if wants_counts
        else "no other layer of the file would do: give the values before scaling, "
        f"or take them as they are with --transform {file.name}=identity{rounds}",
    )


def _holds_counts(file: ModalityFile, layer: str) -> bool:
    return look(file.sample(layer)) is ValueKind.COUNTS


def cause_of(x: CSR, values: ValueKind) -> str | None:
    """Say which tool makes counts look like these values; None if none does."""
    data = x.data[np.isfinite(x.data) & (x.data != 0)]
    whole = float((np.abs(data - np.rint(data)) <= _WHOLE).mean())
    negative = float((data < 0).mean())
    if negative:
        written = f"counts of which {negative:.2%} are negative, as some versions of CellBender write"
        return written if whole == 1 and negative < MOST_NEGATIVE else None
    if whole > 0.5:
        return f"counts of which {1 - whole:.1%} are fractions, as alevin-fry or kallisto leave them"
    totals = np.asarray(x.sum(axis=1), dtype=np.float64).ravel()
    totals = totals[totals > 0]
    if values is ValueKind.POSITIVE and totals.std() > 0.01 * totals.mean():
        return "fractions with totals that differ, such as counts corrected for ambient RNA (SoupX, DecontX)"
    return None


def _as_normal(name: str, values: ValueKind) -> str:
    """Return how values that are not counts could be used, as the end of a hint."""
    signed = f" --transform {name}=identity" if values is ValueKind.REAL else ""
    return f", or take these for normal values with --likelihood {name}=normal{signed}"


@dataclass(frozen=True, eq=False)
class Health:
    """What a whole matrix holds, or some rows of it.

    Attributes:
        n_empty: Cells without a value other than zero.
        total: Sum of each cell, float32 `(n_obs,)`.
        first, stored, differs: Of each feature the value in the first cell, in how many cells it is not zero,
            and whether one of those differs from the first, `(n_vars,)`.
    """

    n_obs: int
    n_empty: int
    total: FloatArray
    first: FloatArray
    stored: IntArray
    differs: BoolArray

    @property
    def n_constant(self) -> int:
        """Features with one value in all cells."""
        return int((~self.differs & ((self.stored == self.n_obs) | (self.stored == 0))).sum())

    @classmethod
    def joined(cls, parts: Sequence[Health]) -> Health:
        """Put the rows of a matrix together, part after part."""
        first = parts[0].first
        return cls(
            n_obs=sum(part.n_obs for part in parts),
            n_empty=sum(part.n_empty for part in parts),
            total=np.concatenate([part.total for part in parts]),
            first=first,
            stored=np.sum([part.stored for part in parts], axis=0),
            differs=np.any([part.differs | (part.first != first) for part in parts], axis=0),
        )


def check_values(x: CSR, file: ModalityFile, *, layer: str, allow_negative: bool) -> Health:
    """Refuse values that would ruin training; count empty cells and constant features.

    Args:
        x: `(n_obs, n_vars)`, without stored zeros.
        layer: The layer that was read, for the message.

    Raises:
        InputError: A value that is missing, infinite, or negative where it must not be.
    """
    _refuse_not_finite(x, file, layer)
    if not allow_negative:
        _refuse(
            x.data < 0,
            "negative values",
            x,
            file,
            layer,
            "are these scaled or centred data? give the values before scaling",
        )
    stored = np.diff(x.indptr)
    total = np.zeros(x.shape[0])
    filled = stored > 0
    if filled.any():
        total[filled] = np.add.reduceat(x.data, x.indptr[:-1][filled], dtype=np.float64)
    return Health(
        n_obs=int(x.shape[0]), n_empty=int((~filled).sum()), total=total.astype(np.float32), **_columns(x)
    )


def _refuse_not_finite(x: CSR, file: ModalityFile, layer: str) -> None:
    if not np.isfinite(x.data).all():
        missing, hint = "missing values (NaN)", "fill them in or drop those features"
        _refuse(np.isnan(x.data), missing, x, file, layer, hint)
        hint = "a logarithm of zero or a division by zero?"
        _refuse(np.isinf(x.data), "infinite values", x, file, layer, hint)


def _mixed(file: ModalityFile, layer: str, *, signed: bool) -> dict[str, ValueKind]:
    """Return what a matrix holds by file, where its files differ; empty where they agree."""
    parts = file.by_part()
    if len(parts) < 2:
        return {}
    contents = {str(part.path): look(part.sample(layer)) for part, _ in parts}
    kinds = set(contents.values())
    # of values of any sign, some files may lack negative or large ones by chance
    alike = len(kinds) == 1 or (signed and ValueKind.COUNTS not in kinds)
    return {} if alike else contents


def _refuse_mixed(file: ModalityFile, layer: str, *, signed: bool) -> None:
    """Refuse files of one modality of which some hold counts and others do not."""
    contents = _mixed(file, layer, signed=signed)
    if not contents:
        return
    others = [m for m in file.matrices if m != layer and not _mixed(file, m, signed=signed)]
    if others:
        hint = f"{' or '.join(_field(m) for m in others[:3])} would do: --layer {file.name}={others[0]}"
    else:
        counts = [
            f"{_field(m)} of {part.path}"
            for part, _ in file.by_part()
            for m in [next((m for m in part.matrices if look(part.sample(m)) is ValueKind.COUNTS), None)]
            if m is not None
        ]
        hint = "write the same values into a layer of the same name in each file, such as layers['counts']"
        if counts:
            hint += f"; counts are in {' and '.join(counts)}"
    raise InputError(
        f"the files of '{file.name}' hold different values",
        file=file.where,
        field=_field(layer),
        found="; ".join(f"{_WORDS[kind]} in {path}" for path, kind in contents.items()),
        expected="the same in every file",
        hint=hint,
    )


def _columns(x: CSR) -> dict[str, Any]:
    """Return what `Health` keeps of each feature."""
    n_vars = x.shape[1]
    first = np.zeros(n_vars, x.dtype)
    first[x.indices[: x.indptr[1]]] = x.data[: x.indptr[1]]
    stored = np.zeros(n_vars, np.int64)
    differs = np.zeros(n_vars, bool)
    for a in range(0, x.nnz, _BLOCK):
        columns, values = x.indices[a : a + _BLOCK], x.data[a : a + _BLOCK]
        stored += np.bincount(columns, minlength=n_vars)
        differs[columns[values != first[columns]]] = True
    return {"first": first, "stored": stored, "differs": differs}


def _refuse(bad: BoolArray, what: str, x: CSR, file: ModalityFile, layer: str, hint: str) -> None:
    n_bad = int(np.count_nonzero(bad))
    if n_bad == 0:
        return
    places = np.flatnonzero(bad)[:3]
    rows = np.searchsorted(x.indptr, places, side="right") - 1
    named = [
        f"({file.obs.index[r]}, {file.var.index[x.indices[p]]})" for r, p in zip(rows, places, strict=True)
    ]
    raise InputError(
        f"'{file.name}' has {what}",
        file=file.where,
        field=_field(layer),
        found=f"{n_bad} {what}, the first at (cell, feature): {', '.join(named)}",
        expected="finite values" if "negative" not in what else "values >= 0",
        hint=hint,
    )


def _field(layer: str) -> str:
    return {"X": "X", "raw": "raw.X"}.get(layer, f"layers['{layer}']")


_WORDS = {
    ValueKind.COUNTS: "counts (integers >= 0)",
    ValueKind.LOGNORM: "small values that are not integers, such as log-normalised ones",
    ValueKind.POSITIVE: "large values that are not integers, such as scaled counts or intensities",
    ValueKind.REAL: "negative values, such as standardised ones",
}
