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
"""Fewest cells of one label to which others give another one; fewer are noise of the vote."""

LEAST_SHARE = 0.2
"""Least share of the label's cells in the modality."""


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
    the same other one: fewer are usual errors of a vote at the border of two types.
    """
    disputes = []
    for vote in votes:
        labelled = labels.codes[vote.modality][vote.cells] >= 0
        for own_code in np.unique(vote.truth[labelled]):
            of_label = labelled & (vote.truth == own_code)
            voted, counts = np.unique(vote.trusted[of_label], return_counts=True)
            for other, n in zip(voted, counts, strict=True):
                share = n / of_label.sum()
                if other not in (-1, own_code) and n >= FEWEST and share >= LEAST_SHARE:
                    cells = vote.cells[of_label & (vote.trusted == other)]
                    disputes.append(Dispute(vote.modality, int(own_code), int(other), cells, float(share)))
    return sorted(disputes, key=lambda one: -len(one.cells))


def said_instead(labels: Labels, disputes: Sequence[Dispute]) -> dict[str, IntArray]:
    """Return, by modality, the label that others give disputed cells, -1 elsewhere; nothing without any."""
    if not disputes:
        return {}
    instead = {name: np.full(len(codes), -1, np.int64) for name, codes in labels.codes.items()}
    for one in disputes:
        instead[one.modality][one.cells] = one.other
    return instead


def tell_disputes(run: Run, labels: Labels, disputes: Sequence[Dispute], bundle: MultiOmics) -> None:
    """Warn of labels in doubt, and report them with the evidence of linked features."""
    if not disputes:
        return
    codes_known = own_codes(labels, bundle)
    rows = []
    for one in disputes:
        own_likeness, other = (_likeness(one, code, codes_known, bundle) for code in (one.own, one.other))
        names = labels.levels[one.own], labels.levels[one.other]
        rows.append([one.modality, *names, len(one.cells), one.share, own_likeness, other])
    examples = "; ".join(f"{row[3]:,} of {row[0]}'s {row[1]} lie among {row[2]}" for row in rows[:3])
    n = sum(len(one.cells) for one in disputes)
    run.warn(
        f"modalities disagree on {labels.name} of {plural(n, 'cell')}: {examples}"
        + (" ..." if len(rows) > 3 else "")
        + f"; obs['{labels.name}_disputed'] has the labels by the others. Labels, links or the latent may "
        "be wrong"
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


def _likeness(one: Dispute, code: int, codes_known: dict[str, IntArray], bundle: MultiOmics) -> float | None:
    """Correlate disputed cells with others' cells of a label over linked features; None without any."""
    correlations = []
    for link in bundle.links:
        sides = {link.source: link.source_features, link.target: link.target_features}
        if one.modality not in sides or len(link.names) < 3:
            continue
        (other,) = (name for name in sides if name != one.modality)
        labelled = np.flatnonzero(codes_known[other] == code)
        if not len(labelled):
            continue
        x = _excess(sides[one.modality], one.cells)
        y = _excess(sides[other], labelled)
        if x.std() > 0 and y.std() > 0:
            correlations.append(float(np.corrcoef(x, y)[0, 1]))
    return float(f"{np.mean(correlations):.3g}") if correlations else None


def _excess(features: FeatureMatrix, rows: IntArray) -> DoubleArray:
    """Mean of some cells less that of all, `(n_vars,)`."""
    excess: DoubleArray = np.ravel(features.values[rows].mean(0)) - np.ravel(features.values.mean(0))
    return excess
