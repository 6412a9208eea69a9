"""Labels on which modalities disagree: cells that lie among another label's cells of the other modalities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mocli.data.bundle import FeatureMatrix, MultiOmics
from mocli.report.figures import table
from mocli.report.wording import plural
from mocli.tasks.integrate.carried import CheckedLabels
from mocli.tasks.integrate.labels import Labels, own_codes
from mocli.tasks.run.run import Run
from mocli.types import DoubleArray, IntArray

FEWEST = 10
"""Cells of one label that others give another one, below which it is the vote's noise."""

LEAST_SHARE = 0.2
"""Of the label's cells in the modality, likewise."""


@dataclass(frozen=True, eq=False)
class Dispute:
    """Cells of a label to which the other modalities give another one.

    Attributes
    ----------
    own, other
        Codes of the two labels.
    cells
        Rows of the modality, `(n,)`.
    share
        Of the label's cells that were asked about.
    """

    modality: str
    own: int
    other: int
    cells: IntArray
    share: float


def find_disputes(labels: Labels, votes: Sequence[CheckedLabels]) -> list[Dispute]:
    """Return labels of a modality whose cells get another one by a trusted vote, most cells first.

    Only labels that the modality itself brings count, and only where 10 cells and a fifth of the label's get
    the same other one: fewer are what any vote gets wrong at the border of two types.
    """
    found = []
    for vote in votes:
        mine = labels.codes[vote.modality][vote.cells] >= 0
        for own in np.unique(vote.truth[mine]):
            of_label = mine & (vote.truth == own)
            given, counts = np.unique(vote.trusted[of_label], return_counts=True)
            for other, n in zip(given, counts, strict=True):
                share = n / of_label.sum()
                if other not in (-1, own) and n >= FEWEST and share >= LEAST_SHARE:
                    cells = vote.cells[of_label & (vote.trusted == other)]
                    found.append(Dispute(vote.modality, int(own), int(other), cells, float(share)))
    return sorted(found, key=lambda one: -len(one.cells))


def said_instead(labels: Labels, disputes: Sequence[Dispute]) -> dict[str, IntArray]:
    """Return, by modality, the label that others give disputed cells, -1 elsewhere; nothing without any."""
    if not disputes:
        return {}
    instead = {name: np.full(len(codes), -1, np.int64) for name, codes in labels.codes.items()}
    for one in disputes:
        instead[one.modality][one.cells] = one.other
    return instead


def tell_disputes(run: Run, labels: Labels, disputes: Sequence[Dispute], bundle: MultiOmics) -> None:
    """Warn of labels in doubt, and put them into the report with what the linked features say."""
    if not disputes:
        return
    known = own_codes(labels, bundle)
    rows = []
    for one in disputes:
        own, other = (_likeness(one, code, known, bundle) for code in (one.own, one.other))
        names = labels.levels[one.own], labels.levels[one.other]
        rows.append([one.modality, *names, len(one.cells), one.share, own, other])
    said = "; ".join(f"{row[3]:,} of {row[0]}'s {row[1]} lie among {row[2]}" for row in rows[:3])
    n = sum(len(one.cells) for one in disputes)
    run.warn(
        f"modalities disagree on {labels.name} of {plural(n, 'cell')}: {said}"
        + (" ..." if len(rows) > 3 else "")
        + f"; obs['{labels.name}_disputed'] names what the others say. Labels, links or latent may be wrong"
    )
    run.report.tables[f"disputes_{labels.name}"] = table(
        f"Labels on which modalities disagree: {labels.name}",
        "Cells of a label to which the vote of the other modalities gives another one (trusted votes, "
        f"{FEWEST} cells and {LEAST_SHARE:.0%} of the label's at least). The last two columns do not use the "
        "latent: correlation, over linked features, of the mean of these cells with the mean of the others' "
        "cells of each label, all less their modality's mean. Where the second is higher, the label is in "
        "doubt rather than the integration.",
        ["modality", "own label", "label by others", "cells", "share", "like own label", "like the other"],
        rows,
    )


def _likeness(one: Dispute, code: int, known: dict[str, IntArray], bundle: MultiOmics) -> float | None:
    """Correlate disputed cells with others' cells of a label over linked features; None without any."""
    found = []
    for link in bundle.links:
        sides = {link.source: link.source_features, link.target: link.target_features}
        if one.modality not in sides or len(link.names) < 3:
            continue
        (other,) = (name for name in sides if name != one.modality)
        there = np.flatnonzero(known[other] == code)
        if not len(there):
            continue
        x = _excess(sides[one.modality], one.cells)
        y = _excess(sides[other], there)
        if x.std() > 0 and y.std() > 0:
            found.append(float(np.corrcoef(x, y)[0, 1]))
    return float(f"{np.mean(found):.3g}") if found else None


def _excess(features: FeatureMatrix, rows: IntArray) -> DoubleArray:
    """Mean of some cells less that of all, `(n_vars,)`."""
    excess: DoubleArray = np.ravel(features.values[rows].mean(0)) - np.ravel(features.values.mean(0))
    return excess
