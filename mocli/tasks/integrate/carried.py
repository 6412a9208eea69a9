"""Labels transferred to cells: what the vote says of each cell, and which labels are trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from mocli.data.bundle import MultiOmics
from mocli.tasks.score.cellcolumns import cells_of_files
from mocli.tasks.trained.latent import Latent
from mocli.types import BoolArray, FloatArray, IntArray, StrArray

UNKNOWN = "unknown"
"""Written where a label is not trusted; a cell that comes with this word counts as unlabelled."""


@dataclass(frozen=True, eq=False)
class Assigned:
    """Labels that other cells vote for, `(n,)` each.

    Attributes:
        best: The label with most votes, -1 only where no voter has one.
        confidence: Confidence, in [0, 1].
        mapping: Mapping score in (0, 1]; see `mocli/metrics/mapping_score.py`.
    """

    best: IntArray
    confidence: FloatArray
    mapping: FloatArray

    @classmethod
    def nothing(cls, n: int) -> Assigned:
        """Return it for cells without any vote."""
        none = np.zeros(n, np.float32)
        return cls(np.full(n, -1, np.int64), none, none.copy())

    def at(self, rows: IntArray, n: int) -> Assigned:
        """Put them among `n` cells; the others get no label."""
        whole = Assigned.nothing(n)
        for name in ("best", "confidence", "mapping"):
            getattr(whole, name)[rows] = getattr(self, name)
        return whole

    def codes(self, min_confidence: float, unknown_below: float) -> IntArray:
        """Return the labels that are trusted, -1 elsewhere."""
        trusted = (self.confidence >= np.float32(min_confidence)) & (self.mapping >= unknown_below)
        return np.where(trusted, self.best, -1)


@dataclass(frozen=True, eq=False)
class Carried:
    """A column after the vote, by modality, rows in file order.

    Attributes:
        assigned: Labels of every cell; for own labels, confidence and mapping score are 1.
        had_label: Whether the label is the cell's own, `(n_m,)`.
        min_confidence, unknown_below: Thresholds below which a cell is unknown.
        left_out: By receiving modality and label, scores of the label's cells when these were left out.
        disputed: By modality, the votes on cells whose own label they contradict, -1 elsewhere, `(n_m,)`;
            none where no label is in doubt.
        way: The way, in words.
        column, maps: Ending of the name of the column for the label; with `maps` there is one for the mapping
            score.
        again: Cells that have the same coordinates as what was measured of them in a modality before,
            `(n_m,)`; none where modalities have coordinates of their own.
    """

    name: str
    levels: tuple[str, ...]
    assigned: Mapping[str, Assigned]
    had_label: Mapping[str, BoolArray]
    min_confidence: float
    unknown_below: Mapping[str, float]
    left_out: Mapping[str, Mapping[int, FloatArray]] = field(default_factory=dict)
    disputed: Mapping[str, IntArray] = field(default_factory=dict)
    way: str = "k-NN"
    column: str = "transferred"
    maps: bool = True
    again: Mapping[str, BoolArray] = field(default_factory=dict)

    @property
    def sureness(self) -> str:
        """Ending of the name of the column for confidence."""
        return "confidence" if self.maps else f"{self.column}_confidence"

    def unlabelled(self, modality: str) -> BoolArray:
        """Return the cells that had no label of their own, each counted once, `(n_m,)`."""
        cells: BoolArray = ~self.had_label[modality]
        return cells & ~self.again[modality] if modality in self.again else cells

    def measured(self, modality: str) -> str:
        """Name a modality and those that were measured in the very cells that are counted with it."""
        return "+".join([modality, *(m for m in self.again if m != modality and self.counted_before(m))])

    def counted_before(self, modality: str) -> bool:
        """Say whether every cell of a modality is counted with one before."""
        return modality in self.again and bool(self.again[modality].all())

    @property
    def said(self) -> str:
        """The main column, for people."""
        return f"labels in obs['{self.name}_{self.column}']"

    def codes(self, modality: str) -> IntArray:
        """Labels that are trusted, -1 unknown, `(n_m,)`."""
        return self.assigned[modality].codes(self.min_confidence, self.unknown_below[modality])

    def of_modality(self, modality: str) -> dict[str, StrArray | FloatArray]:
        """Columns for the obs of a modality, by name."""
        columns = self._columns(self.codes(modality), self.assigned[modality])
        if modality in self.disputed:
            columns[f"{self.name}_disputed"] = self._words(self.disputed[modality])
        return columns

    def of_whole(self, cells: Mapping[str, IntArray], n_cells: int) -> dict[str, StrArray | FloatArray]:
        """Return columns for the obs of the whole.

        For a cell in several modalities, own labels go before confident votes.

        `cells` gives the row in the whole of each row of a modality.
        """
        codes, whole = np.full(n_cells, -1, np.int64), Assigned.nothing(n_cells)
        rank = np.full(n_cells, -1.0)
        for modality, rows in cells.items():
            votes = self.assigned[modality]
            sureness = np.where(self.had_label[modality], 2.0, votes.confidence)
            better = sureness > rank[rows]
            won = rows[better]
            rank[won] = sureness[better]
            codes[won] = self.codes(modality)[better]
            for name in ("best", "confidence", "mapping"):
                getattr(whole, name)[won] = getattr(votes, name)[better]
        columns = self._columns(codes, whole)
        if self.disputed:
            instead = np.full(n_cells, -1, np.int64)
            for modality, rows in cells.items():
                if modality in self.disputed:
                    disputed = self.disputed[modality]
                    instead[rows[disputed >= 0]] = disputed[disputed >= 0]
            columns[f"{self.name}_disputed"] = self._words(instead)
        return columns

    def _words(self, codes: IntArray) -> StrArray:
        """Names of labels, nothing for -1."""
        return np.array([*self.levels, ""], dtype=object)[codes]

    def _columns(self, codes: IntArray, votes: Assigned) -> dict[str, StrArray | FloatArray]:
        names = np.array([*self.levels, UNKNOWN], dtype=object)  # -1 is the last
        columns: dict[str, StrArray | FloatArray] = {
            f"{self.name}_{self.column}": names[codes],
            f"{self.name}_{self.column}_best": names[votes.best],
            f"{self.name}_{self.sureness}": votes.confidence.astype(np.float32),
        }
        if self.maps:
            columns[f"{self.name}_mapping"] = votes.mapping.astype(np.float32)
        return columns


@dataclass(frozen=True, eq=False)
class CheckedLabels:
    """Labels that other modalities assign to cells of known label, `(n,)` each.

    Attributes:
        cells: Rows of the modality.
        truth, trusted: Their own labels, and those that the others' vote would have written, -1 unknown.
        far: Whether the mapping score is below the threshold.
    """

    modality: str
    cells: IntArray
    truth: IntArray
    assigned: Assigned
    trusted: IntArray
    far: BoolArray


@dataclass(frozen=True, eq=False)
class CarriedPoints:
    """Labels of the points of a latent, `(n,)` each: codes, -1 unknown; confidence; mapping score."""

    name: str
    levels: tuple[str, ...]
    codes: IntArray
    confidence: FloatArray
    mapping: FloatArray


def points_of(
    carried: Carried, latent: Latent, bundle: MultiOmics, names: Mapping[str, str]
) -> CarriedPoints:
    """Put labels in the order of the latent's points.

    `names`: the file's name of each of the bundle's modalities.
    """
    groups = latent.groups(bundle)
    if latent.joint is None:
        parts = [carried.of_modality(names[name]) for name in groups]
    else:
        whole = carried.of_whole(cells_of_files(bundle, names), bundle.n_cells)
        parts = [{key: column[group.cells] for key, column in whole.items()} for group in groups.values()]
    label, confidence, mapping = (
        np.concatenate([part[f"{carried.name}_{key}"] for part in parts])
        for key in (carried.column, carried.sureness, "mapping")
    )
    codes = pd.Index(carried.levels).get_indexer(label)
    return CarriedPoints(carried.name, carried.levels, codes, confidence, mapping)
