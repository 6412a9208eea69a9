"""Labels transferred to cells: what the vote says of each cell, which are trusted, what is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mocli.data.bundle import MultiOmics
from mocli.data.files.frames import words
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import labels_of
from mocli.report.featureplots import share_histograms
from mocli.report.figures import join, plural, table
from mocli.report.html import Confusion, Drawn
from mocli.tasks.run.run import Run
from mocli.tasks.score.clusterings import cells_of_files
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
        mapping: Mapping score in (0, 1]; see `mocli/metrics/label_votes.py`.
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
        return measured_with(modality, self.again)

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
        measured: The modality, and those measured in the very cells that are counted with it.
        cells: Rows of the modality.
        truth, trusted: Their own labels, and those that the others' vote would have written, -1 unknown.
        far: Whether the mapping score is below the threshold.
    """

    modality: str
    measured: str
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


def measured_with(modality: str, again: Mapping[str, BoolArray]) -> str:
    """Name a modality and those all of whose cells are counted with one before, see `Carried`."""
    return "+".join([modality, *(m for m, cells in again.items() if m != modality and cells.all())])


def counted_before(bundle: MultiOmics, names: Mapping[str, str]) -> dict[str, BoolArray]:
    """Return by file's name of a modality which of its cells are in one before, `(n_m,)`."""
    seen = np.zeros(bundle.n_cells, bool)
    counted = {}
    for name, file_name in names.items():
        cells = bundle.cells_of(name)
        counted[file_name] = seen[cells]
        seen[cells] = True
    return counted


FEW_NOTICED = 0.5
"""Share of the cells of a missing type below which a user is warned that it may not be noticed."""
MANY_UNSURE = 0.2
"""Share of cells on which neighbours disagree from which a user is told what to do."""

_MAPPING = (
    "The mapping score is the share of labelled cells that lie at least as far from their 10th nearest "
    "labelled cell as this one does from its, in coordinates in which every label spreads alike."
)


def describe_carried(run: Run, carried: Carried, *, prefix: str = "") -> None:
    """Log how many cells of each modality got a label, begin the report with it, and add the tables.

    Names of the tables begin with the prefix.
    """
    counts = []
    for name in carried.assigned:
        unlabelled = carried.unlabelled(name)
        if unlabelled.any():
            n_unknown = int((carried.codes(name)[unlabelled] < 0).sum())
            cells = f"{unlabelled.sum():,} {carried.measured(name)} cells"
            counts.append(f"{cells}, {n_unknown:,} of them {UNKNOWN}")
    what = f"transferred {carried.name} by {carried.way} to "
    run.say(what + ("; ".join(counts) or "no cell: all have a label"))
    if not counts:
        return
    if carried.maps:
        sentence = conclusion(carried)
        run.say(f"  {sentence}")
        run.report.conclude(sentence)
        if (advice := advise(carried)) is not None:
            run.report.advice = advice
        _tell_left_out(run, carried)
    _count(run, carried, prefix)


def advise(carried: Carried) -> str | None:
    """Say what to do where neighbours disagree on many cells; None elsewhere."""
    unlabelled = {name: carried.unlabelled(name) for name in carried.assigned}
    n = sum(int(cells.sum()) for cells in unlabelled.values())
    unsure = sum(
        int(
            (
                cells
                & (votes.best >= 0)
                & (votes.mapping >= carried.unknown_below[name])
                & (votes.confidence < np.float32(carried.min_confidence))
            ).sum()
        )
        for (name, cells), votes in zip(unlabelled.items(), carried.assigned.values(), strict=True)
    )
    if unsure < MANY_UNSURE * n or not unsure:
        return None
    return (
        f"Neighbours disagree on {carried.name} of {unsure / n:.0%} of the cells: transfer a column "
        f"of coarser labels, or accept a smaller share of the vote (--min-confidence "
        f"below {carried.min_confidence:g}); "
        "the best guess of every cell is in obs, as a column that ends in _best."
    )


def conclusion(carried: Carried) -> str:
    """Say in one sentence how many cells are unknown, and why."""
    n, far, unsure, nobody = 0, 0, 0, 0
    for name, votes in carried.assigned.items():
        unlabelled = carried.unlabelled(name)
        unknown = unlabelled & (carried.codes(name) < 0)
        nobodys = unknown & (votes.best < 0)
        low = ~nobodys & (votes.mapping < carried.unknown_below[name])
        n += int(unlabelled.sum())
        nobody += int(nobodys.sum())
        far += int((unknown & low).sum())
        unsure += int((unknown & ~nobodys & ~low).sum())
    n_unknown = far + unsure + nobody
    if not n_unknown:
        return f"none of {plural(n, 'cell')} that {carried.name} was transferred to is {UNKNOWN}"
    below = sorted(
        {f"{t:g}" for name, t in carried.unknown_below.items() if (~carried.had_label[name]).any()}
    )
    why = []
    if far:
        lie = "lies" if far == 1 else "lie"
        why.append(f"{far:,} {lie} too far from every label (mapping score below {join(below)})")
    if unsure:
        why.append(f"{unsure:,} because neighbours disagree (confidence below {carried.min_confidence:g})")
    if nobody:
        why.append(f"{nobody:,} without a labelled cell to compare with or without a signal")
    are = "is" if n_unknown == 1 else "are"
    return (
        f"{n_unknown:,} of {plural(n, 'cell')} that {carried.name} was transferred to {are} {UNKNOWN}: "
        + ", ".join(why)
    )


def _tell_left_out(run: Run, carried: Carried) -> None:
    """Report how many cells of each label would have been unknown without that label."""
    rows: list[list[Any]] = []
    for name, of_label in carried.left_out.items():
        if carried.counted_before(name):
            continue
        below = carried.unknown_below[name]
        for code, scores in sorted(of_label.items(), key=lambda item: -len(item[1])):
            rows.append(
                [carried.levels[code], carried.measured(name), len(scores), float((scores < below).mean())]
            )
    if not rows:
        return
    key = f"left_out_labels_{carried.name}"
    run.report.tables[key] = table(
        f"Would a label have been missed? {carried.name}, each left out in turn",
        f"{_MAPPING} Cells of each label are scored against all others, as if their label did not exist: "
        "the share that would be unknown. A label close to another one is not noticed to be missing "
        "(subtypes of T cells), and a type that the model was not trained on is noticed somewhat less "
        "often than the table says.",
        ["label", "of", "cells", "would be unknown"],
        rows,
    )
    shares = [row[3] for row in rows]
    low, high = f"{min(shares):.0%}", f"{max(shares):.0%}"
    spread = "each" if low == high else f"{low} to {high}"
    noticed = float(np.mean(shares))
    counted = [
        name for name, labels in carried.left_out.items() if labels and not carried.counted_before(name)
    ]
    below_words = join(sorted({f"{carried.unknown_below[name]:g}" for name in counted}))
    if noticed < FEW_NOTICED:
        run.warn(
            f"cells of a type that no labelled cell has may get a wrong label of {carried.name}: with each "
            f"of {plural(len(shares), 'label')} left out in turn, {noticed:.0%} of its cells on average "
            f"would be noticed, as {UNKNOWN} ({spread}; a mapping score below {below_words})"
        )
    else:
        run.say(
            f"  if the labelled cells lacked one of {plural(len(shares), 'label')}, {noticed:.0%} of its "
            f"cells would be noticed, as {UNKNOWN} ({spread}; a mapping score below {below_words})"
        )


def _count(run: Run, carried: Carried, prefix: str) -> None:
    """Report how many cells got each label, how confident the vote was, and how well cells map."""
    codes, confidence, mapping = _asked(carried)
    by_label = {UNKNOWN: np.flatnonzero(codes < 0)}
    by_label |= {name: np.flatnonzero(codes == code) for code, name in enumerate(carried.levels)}
    rows = [
        [
            name,
            len(cells),
            len(cells) / len(codes),
            *np.quantile(confidence[cells], (0.5, 0.1)).tolist(),
            float(np.median(mapping[cells])),
        ]
        for name, cells in sorted(by_label.items(), key=lambda item: -len(item[1]))
        if len(cells)
    ]
    run.report.tables[f"{prefix}labels_{carried.name}_{carried.way.replace(' ', '_')}"] = table(
        f"Transferred labels: {carried.name}, {carried.way}",
        f"Cells that had no label of their own. {_MAPPING} A cell of a type that no labelled cell has can "
        f"only be wrong or {UNKNOWN}.",
        [
            "label",
            "cells",
            "share",
            "confidence, median",
            "confidence, lowest tenth",
            "mapping score, median",
        ],
        rows,
    )


def _asked(carried: Carried) -> tuple[IntArray, FloatArray, FloatArray]:
    """Codes, confidence and mapping score of all cells that had no label of their own."""
    parts = []
    for name, votes in carried.assigned.items():
        unlabelled = carried.unlabelled(name)
        parts.append(
            (carried.codes(name)[unlabelled], votes.confidence[unlabelled], votes.mapping[unlabelled])
        )
    codes, confidence, mapping = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
    return codes, confidence, mapping


def draw_carried(carried: Carried) -> list[Drawn]:
    """Draw confidence and mapping score of cells that had no label of their own."""
    if all(labelled.all() for labelled in carried.had_label.values()):
        return []
    _, confidence, mapping = _asked(carried)
    below = [t for name, t in carried.unknown_below.items() if (~carried.had_label[name]).any()]
    panels = [
        ("confidence of the label", confidence, [carried.min_confidence]),
        ("mapping score", mapping, sorted({*below})),
    ]
    caption = (
        f"Dashed: below it a cell is {UNKNOWN}. {_MAPPING} Scores of cells like the labelled ones spread "
    )
    caption += "evenly; a peak on the left is cells of types without a label, or of another batch."
    return [Drawn(share_histograms(panels), f"Confidence of transferred labels: {carried.name}", caption)]


def confusions(carried: Sequence[Carried], files: Sequence[ModalityFile]) -> Confusion:
    """Count known labels against transferred ones, of every column that was transferred."""
    tables = [confusion_of(labels, known_labels(labels, files)) for labels in carried]
    return {key: table for each in tables for key, table in each.items()}


def confusion_of(carried: Carried, truth: Mapping[str, tuple[IntArray, Sequence[str]]]) -> Confusion:
    """Count known labels of cells against transferred ones, unknown last.

    `truth`: by modality the known codes of its cells, -1 for none, and their levels.
    """
    matrices = {}
    for name, (true_codes, levels) in truth.items():
        transferred = carried.codes(name)
        cells = np.flatnonzero((true_codes >= 0) & carried.unlabelled(name))
        if not len(cells):
            continue
        matrix = np.zeros((len(levels), len(carried.levels) + 1), np.int64)
        np.add.at(matrix, (true_codes[cells], transferred[cells]), 1)
        matrices[f"{carried.name} of {carried.measured(name)}"] = (
            matrix,
            tuple(levels),
            (*carried.levels, UNKNOWN),
        )
    return matrices


def known_labels(carried: Carried, files: Sequence[ModalityFile]) -> dict[str, tuple[IntArray, list[str]]]:
    """Return the labels that cells came with in the column of the same name, codes and levels by modality."""
    by_modality = {}
    for file in files:
        if carried.name in file.obs:
            codes, levels = pd.factorize(words(labels_of(file.obs[carried.name])), sort=True)
            by_modality[file.name] = (codes.astype(np.int64), list(levels))
    return by_modality
