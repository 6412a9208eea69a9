"""Labels for the cells that lack them, by a vote of their nearest labelled cells in other modalities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mocli.data.bundle import Codes, MultiOmics
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import find_labels
from mocli.errors import InputError, UsageError, did_you_mean
from mocli.tasks.integrate.options import TransferOptions
from mocli.tasks.prepare.obscolumns import words
from mocli.types import BoolArray, FloatArray, IntArray, Pairing, StrArray

UNKNOWN = "unknown"
"""Written where the vote is not trusted; a cell that comes with this word counts as one without a label."""


@dataclass(frozen=True, eq=False)
class Labels:
    """A column as it came: codes `(n_m,)` of each modality, -1 where it has none, and what they mean."""

    name: str
    codes: Mapping[str, IntArray]
    levels: tuple[str, ...]

    @property
    def summary(self) -> str:
        """Say who has labels to give and who lacks them."""
        counts = [f"{(c >= 0).sum():,} of {len(c):,} {name} cells" for name, c in self.codes.items()]
        return f"labels to transfer: {self.name}, {len(self.levels):,} labels, on {', '.join(counts)}"

    def of_cells(self, bundle: MultiOmics) -> Codes:
        """One code for every cell of a bundle, that of the first modality which knows."""
        found = np.full(bundle.n_cells, -1, np.int64)
        for name, codes in self.codes.items():
            cells = bundle.cells_of(name)
            found[cells] = np.where(found[cells] < 0, codes, found[cells])
        return Codes(self.name, found, self.levels)


@dataclass(frozen=True, eq=False)
class Carried:
    """A column after the vote, by modality, rows in file order.

    Attributes
    ----------
    codes
        Own label where there is one, else the one voted, -1 unknown, `(n_m,)`.
    confidence
        1 for own labels, else the share of the vote that the winner got, `(n_m,)`.
    own
        Whether the label is the cell's own, `(n_m,)`.
    column, sureness
        What the names of the columns for label and confidence end in.
    """

    name: str
    levels: tuple[str, ...]
    codes: Mapping[str, IntArray]
    confidence: Mapping[str, FloatArray]
    own: Mapping[str, BoolArray]
    column: str = "transferred"
    sureness: str = "confidence"

    @property
    def said(self) -> str:
        """The main column, for people."""
        return f"labels in obs['{self.name}_{self.column}']"

    def of_modality(self, modality: str) -> dict[str, StrArray | FloatArray]:
        """Columns for the obs of a modality, by name."""
        return self._columns(self.codes[modality], self.confidence[modality])

    def of_whole(self, cells: Mapping[str, IntArray], n_cells: int) -> dict[str, StrArray | FloatArray]:
        """Columns for the obs of the whole; of a cell in several modalities, own labels go before sure votes.

        `cells` gives the row in the whole of each row of a modality.
        """
        codes, confidence = np.full(n_cells, -1, np.int64), np.zeros(n_cells, np.float32)
        rank = np.full(n_cells, -1.0)
        for modality, rows in cells.items():
            here = np.where(self.own[modality], 2.0, self.confidence[modality])
            better = here > rank[rows]
            won = rows[better]
            rank[won] = here[better]
            codes[won] = self.codes[modality][better]
            confidence[won] = self.confidence[modality][better]
        return self._columns(codes, confidence)

    def _columns(self, codes: IntArray, confidence: FloatArray) -> dict[str, StrArray | FloatArray]:
        names = np.array([*self.levels, UNKNOWN], dtype=object)  # -1 is the last
        return {
            f"{self.name}_{self.column}": names[codes],
            f"{self.name}_{self.sureness}": confidence.astype(np.float32),
        }


def read_labels(files: Sequence[ModalityFile], options: TransferOptions) -> tuple[Labels, ...]:
    """Find the columns and check that they hold labels.

    Raises
    ------
    InputError
        A column that no modality has, that holds numbers, or that labels no cell.
    UsageError
        Two columns that would be written under one name.
    """
    columns = tuple(_read_column(files, key) for key in options.columns)
    names = [labels.name for labels in columns]
    if len(set(names)) < len(names):
        raise UsageError(
            "two columns of --transfer-labels would be written under one name",
            field="--transfer-labels",
            found=", ".join(options.columns),
        )
    return columns


def _read_column(files: Sequence[ModalityFile], key: str) -> Labels:
    columns = find_labels(files, key, option="--transfer-labels")
    texts = {}
    for f in files:
        column = columns[f.name]
        if column is not None and column.dtype.kind in "iufc":
            raise _numbers(files, f, key, column)
        texts[f.name] = np.full(f.n_obs, None, dtype=object) if column is None else words(column)
    levels = sorted({w for text in texts.values() for w in text if w is not None})
    if not levels:
        raise InputError("the column of --transfer-labels labels no cell", field=f"obs['{key}']")
    code = {level: i for i, level in enumerate(levels)}
    return Labels(
        name=key if any(key in f.obs for f in files) else key.partition(":")[2],
        codes={
            name: np.fromiter((code.get(w, -1) for w in text), dtype=np.int64, count=len(text))
            for name, text in texts.items()
        },
        levels=tuple(levels),
    )


def _numbers(files: Sequence[ModalityFile], f: ModalityFile, key: str, column: pd.Series) -> InputError:
    worded = dict.fromkeys(
        str(c) for g in files for c in g.obs.columns if g.obs[c].dtype.kind not in "iufc" and str(c) != key
    )
    return InputError(
        f"the column '{key}' of --transfer-labels holds numbers, which cannot be voted on",
        file=f.where,
        field=f"obs['{key}']",
        found=", ".join(map(str, column.iloc[:3])),
        expected="labels; numbers that stand for groups must be stored as text or as a categorical",
        hint=did_you_mean(key, worded, "columns with labels"),
    )


def carry(
    labels: Labels,
    latent: Mapping[str, FloatArray],
    bundle: MultiOmics,
    *,
    min_confidence: float,
    device: str,
) -> Carried:
    """Give every cell without a label the one that its nearest labelled cells of other modalities vote for.

    A label of one modality holds for the same cell in another, unless the cells are taken for
    unpaired. Cells without signal neither vote nor get a label: their latent coordinates are not meaningful.
    """
    # imported here and below: a dry run must not pay for scikit-learn and torch
    from mocli.metrics.label_votes import vote

    known = own_codes(labels, bundle)
    codes, confidence = {}, {}
    for name, own in known.items():
        codes[name], confidence[name] = own.copy(), (own >= 0).astype(np.float32)
        asked = np.flatnonzero((own < 0) & placed(latent, bundle, name))
        if len(asked):
            z, reference, _ = electorate(name, known, latent, bundle)
            votes = vote(
                latent[name][asked],
                z,
                reference,
                n_levels=len(labels.levels),
                min_confidence=min_confidence,
                device=device,
            )
            codes[name][asked], confidence[name][asked] = votes.codes, votes.confidence
    return Carried(labels.name, labels.levels, codes, confidence, {n: c >= 0 for n, c in known.items()})


def own_codes(labels: Labels, bundle: MultiOmics) -> dict[str, IntArray]:
    """Codes of each modality; of paired cells those that another modality knows are filled in."""
    known = {name: labels.codes[name].copy() for name in bundle.modalities}
    if bundle.pairing is Pairing.UNPAIRED:
        return known
    of_cell = labels.of_cells(bundle).codes
    return {name: np.where(codes < 0, of_cell[bundle.cells_of(name)], codes) for name, codes in known.items()}


def placed(latent: Mapping[str, FloatArray], bundle: MultiOmics, modality: str) -> BoolArray:
    """Cells whose place in the latent means something, `(n_m,)`."""
    finite = np.isfinite(latent[modality]).all(1)
    return np.asarray(finite & (bundle.modalities[modality].library != 0))


def electorate(
    receiver: str, known: Mapping[str, IntArray], latent: Mapping[str, FloatArray], bundle: MultiOmics
) -> tuple[FloatArray, IntArray, dict[str, int]]:
    """Latent and codes of all cells of the other modalities, and the row at which each modality starts."""
    others = [name for name in known if name != receiver]
    codes = [np.where(placed(latent, bundle, name), known[name], -1) for name in others]
    starts: Any = np.concatenate([[0], np.cumsum([len(c) for c in codes])[:-1]]).tolist()
    z: FloatArray = np.concatenate([latent[name] for name in others])
    return z, np.concatenate(codes), dict(zip(others, starts, strict=True))


def column_for(key: str) -> str:
    """Return the column of obs for a latent of an obsm key: `scmodal_louvain` for `X_scmodal`."""
    return f"{key.removeprefix('X_')}_louvain"


def tell_replaced(files: Sequence[ModalityFile], column: str, warn: Callable[[str], None]) -> None:
    """Say so where a modality has a column of that name, which the output will not have."""
    having = [f.name for f in files if column in f.obs]
    if having:
        warn(
            f"obs['{column}'] of {' and '.join(having)} is replaced in the output by the clusters of this "
            "run; --key-added gives them another name"
        )
