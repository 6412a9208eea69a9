"""How far to trust transferred labels: the vote repeated for cells of known label, and compared.

Labels on which modalities disagree are those whose cells lie among another label's cells of the others. Cells
with one place for all that was measured of them are asked about once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from mocli.data.bundle import FeatureMatrix, MultiOmics
from mocli.metrics.embedding import MAX_CELLS
from mocli.metrics.label_votes import Labelled, calibration_error, threshold
from mocli.nn.neighbors import drawn_rows
from mocli.report.figures import Better, Entry, figure, plural, table
from mocli.tasks.integrate.carried import (
    UNKNOWN,
    Assigned,
    Carried,
    CheckedLabels,
    counted_before,
    describe_carried,
    measured_with,
)
from mocli.tasks.integrate.labels import Labels, ask, carry, electorate, own_codes, placed
from mocli.tasks.integrate.options import TransferOptions
from mocli.tasks.run.run import Run
from mocli.tasks.trained.latent import Latent
from mocli.types import BoolArray, DoubleArray, FloatArray, IntArray, Json

Pairs = Mapping[tuple[str, str], IntArray]

N_FOLDS = 5
"""Groups in which cells with a true partner get a vote without their partners; each costs one search."""

_HOW = (
    "Cells of known label are labelled once more by the vote of their 15 nearest labelled cells of the "
    "other modalities (Euclidean, joint latent, weight exp(-d^2 / 2h^2), h the distance of the 15th), never "
    "of their own modality nor by their true partner, where one is known (cells with a partner are asked "
    f"in {N_FOLDS} random groups, the partners of the whole group left out). "
    f"At most {MAX_CELLS:,} cells, drawn at random. "
)
_METRICS: dict[str, tuple[str, Better, str, str]] = {
    "carried_label_accuracy": (
        "Carried labels: accuracy",
        "higher",
        "Share of cells for which the other modalities vote for the right label, trusted or not.",
        "Share of cells whose winner is the known label.",
    ),
    "carried_label_unknown": (
        "Carried labels: share unknown",
        "lower",
        "Share of cells left unknown, because their neighbours disagree or are too far away.",
        "Share of cells whose winner has less than the least confidence, or whose mapping score (share of "
        "voters at least as far from each other as the cell from them) is below the threshold.",
    ),
    "carried_label_accuracy_known": (
        "Carried labels: accuracy where not unknown",
        "higher",
        "Share of right labels among those that would be written: what to expect of a carried label.",
        "Share of cells whose winner is the known label, among those not left unknown.",
    ),
    "carried_label_calibration_error": (
        "Carried labels: calibration error",
        "lower",
        "How far the confidence is from the share that is right: at 0, of the labels with confidence 0.8 "
        "eight in ten are right.",
        "Expected calibration error of the winner, ten bins of equal width (Guo et al. 2017), over the cells "
        "whose mapping score is not below the threshold.",
    ),
}


def entries_of(vote: CheckedLabels, column: str) -> dict[str, Entry]:
    """Return entries for the metrics of the report."""
    right, is_known = vote.assigned.best == vote.truth, vote.trusted >= 0
    is_near = ~vote.far
    values = {
        "carried_label_accuracy": (_mean(right), len(right)),
        "carried_label_unknown": (_mean(~is_known), len(right)),
        "carried_label_accuracy_known": (_mean(right[is_known]), int(is_known.sum())),
        "carried_label_calibration_error": (
            calibration_error(vote.assigned.confidence[is_near], right[is_near]),
            int(is_near.sum()),
        ),
    }
    return {f"{m}[{column}->{vote.measured}]": _entry(m, *value) for m, value in values.items()}


def transfer(
    run: Run,
    options: TransferOptions,
    columns: Sequence[Labels],
    pairs: Pairs,
    bundle: MultiOmics,
    latent: Latent,
) -> list[Carried]:
    """Transfer every column, measure the accuracy where labels are known, log and report it.

    `pairs`: true pairs, as `check_carried` takes them.
    """
    device, z = str(run.device), latent.by_modality
    again = {} if latent.joint is None else counted_before(bundle, {name: name for name in bundle.modalities})
    done = []
    for labels in columns:
        carried = carry(labels, z, bundle, options, device=device, again=again)
        describe_carried(run, carried)
        checked = partial(check_carried, device=device, seed=run.options.seed, again=again)
        votes = list(checked(labels, z, bundle, pairs, options))
        for vote in votes:
            entries = entries_of(vote, labels.name)
            run.report.metrics.update(entries)
            run.say(_compared(labels.name, vote.measured, entries))
        disputes = find_disputes(labels, votes)
        tell_disputes(run, labels, disputes, bundle)
        done.append(replace(carried, disputed=said_instead(labels, disputes, bundle, again)))
    return done


def _compared(column: str, modality: str, entries: Mapping[str, Mapping[str, Json]]) -> str:
    def shown(metric: str) -> str:
        value = entries[f"{metric}[{column}->{modality}]"]["value"]
        return "undefined" if value is None else f"{value:.3f}"

    n = entries[f"carried_label_accuracy[{column}->{modality}]"]["n"]
    return (
        f"  where {column} of {modality} is known ({n:,} cells) the vote of the others has accuracy "
        f"{shown('carried_label_accuracy')}, share {UNKNOWN} {shown('carried_label_unknown')}, accuracy "
        f"where not {UNKNOWN} {shown('carried_label_accuracy_known')}, calibration error "
        f"{shown('carried_label_calibration_error')}"
    )


def check_carried(
    labels: Labels,
    latent: Mapping[str, FloatArray],
    bundle: MultiOmics,
    pairs: Pairs,
    options: TransferOptions,
    *,
    device: str,
    seed: int,
    again: Mapping[str, BoolArray] | None = None,
) -> Iterator[CheckedLabels]:
    """Vote on the cells of known label and compare.

    Args:
        pairs: For modalities (a, b) the rows of the same cell in both, `(n_pairs, 2)`. A label known for one
            is the ground truth of the other.
        again: Cells that are counted with a modality before, see `Carried`. They are asked about once more
            only where they have another label there.

    Yields:
        The vote on each modality with known labels to which others can transfer labels.
    """
    codes_known = own_codes(labels, bundle)
    asked_before = np.full(bundle.n_cells, -1, np.int64)
    for name, truth in _truth(codes_known, pairs).items():
        to_ask = (truth >= 0) & placed(latent, bundle, name)
        if again:
            cells_of_rows = bundle.cells_of(name)
            to_ask &= truth != asked_before[cells_of_rows]
            asked_before[cells_of_rows[to_ask]] = truth[to_ask]
        asked_of = np.flatnonzero(to_ask)
        cells = drawn_rows(asked_of, MAX_CELLS, seed=seed)
        z, codes, starts = electorate(name, codes_known, latent, bundle)
        if not len(cells) or not (codes >= 0).any():
            continue
        partners = _partners(name, len(truth), starts, pairs)[cells]
        assigned, far, trusted = (
            Assigned.nothing(len(cells)),
            np.zeros(len(cells), bool),
            np.full(len(cells), -1),
        )
        for group in _groups(partners, seed=seed):
            voters = codes.copy()
            voters[partners[group][partners[group] >= 0]] = -1
            reference = Labelled.of(z, voters, device=device)
            below = options.unknown_below
            below = threshold(reference.left_out()) if below is None else below
            votes = ask(latent[name][cells[group]], z, voters, reference, n_levels=len(labels.levels))
            for field in ("best", "confidence", "mapping"):
                getattr(assigned, field)[group] = getattr(votes, field)
            trusted[group] = votes.codes(options.min_confidence, below)
            far[group] = votes.mapping < below
        measured = measured_with(name, again or {})
        yield CheckedLabels(name, measured, cells, truth[cells], assigned, trusted, far)


def _truth(codes_known: Mapping[str, IntArray], pairs: Pairs) -> dict[str, IntArray]:
    """Return known codes, and those of true partners where a cell's own is missing."""
    truth = {name: codes.copy() for name, codes in codes_known.items()}
    for (a, b), rows in pairs.items():
        for giver, receiver, giver_rows, to in (
            (a, b, rows[:, 0], rows[:, 1]),
            (b, a, rows[:, 1], rows[:, 0]),
        ):
            truth[receiver][to] = np.where(
                truth[receiver][to] < 0, codes_known[giver][giver_rows], truth[receiver][to]
            )
    return truth


def _partners(name: str, n: int, starts: Mapping[str, int], pairs: Pairs) -> IntArray:
    """Rows of the true partners of each cell among the voters, `(n, n_others)`, -1 where there is none."""
    partners = np.full((n, len(starts)), -1, np.int64)
    for column, (other, start) in enumerate(starts.items()):
        for edge, side, other_side in (((name, other), 0, 1), ((other, name), 1, 0)):
            if edge in pairs:
                partners[pairs[edge][:, side], column] = pairs[edge][:, other_side] + start
    return partners


def _groups(partners: IntArray, *, seed: int) -> list[IntArray]:
    """Cells without a partner, then those with one in `N_FOLDS` random groups."""
    has = (partners >= 0).any(1)
    shuffled = np.random.default_rng(seed).permutation(np.flatnonzero(has))
    groups: list[Any] = [np.flatnonzero(~has), *np.array_split(shuffled, N_FOLDS)]
    return [group for group in groups if len(group)]


def _mean(values: Any) -> float:
    return float(values.mean()) if len(values) else math.nan


def _entry(metric: str, value: float, n: int) -> Entry:
    title, better, sentence, definition = _METRICS[metric]
    return figure(value, title, _HOW + definition, sentence, better=better, bounds=(0.0, 1.0), n=n)


FEWEST = 10
"""Fewest cells of one label to which others give another one; fewer are noise of the vote."""

LEAST_SHARE = 0.2
"""Least share of the label's cells in the modality."""


@dataclass(frozen=True, eq=False)
class Dispute:
    """Cells of a label to which the other modalities give another one.

    Attributes:
        measured: See `CheckedLabels`.
        own, other: Codes of the two labels.
        cells: Rows of the modality, `(n,)`.
        share: Of the label's cells that were asked about.
    """

    modality: str
    measured: str
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
                    codes = int(own_code), int(other)
                    disputes.append(Dispute(vote.modality, vote.measured, *codes, cells, float(share)))
    return sorted(disputes, key=lambda one: -len(one.cells))


def said_instead(
    labels: Labels, disputes: Sequence[Dispute], bundle: MultiOmics, again: Mapping[str, BoolArray]
) -> dict[str, IntArray]:
    """Return, by modality, the label that others give disputed cells, -1 elsewhere; nothing without any.

    `again`: see `check_carried`; what is said of a cell holds in all modalities counted with it.
    """
    if not disputes:
        return {}
    instead = {name: np.full(len(codes), -1, np.int64) for name, codes in labels.codes.items()}
    for one in disputes:
        instead[one.modality][one.cells] = one.other
    of_cell = np.full(bundle.n_cells, -1, np.int64)
    for name in again:
        cells = bundle.cells_of(name)
        instead[name] = np.where(instead[name] < 0, of_cell[cells], instead[name])
        of_cell[cells] = instead[name]
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
        rows.append([one.measured, *names, len(one.cells), one.share, own_likeness, other])
    examples = "; ".join(f"{row[3]:,} {row[0]} cells of {row[1]} lie among {row[2]}" for row in rows[:3])
    n = sum(len(one.cells) for one in disputes)
    whole = any(one.measured != one.modality for one in disputes)
    beginning = "neighbours disagree with the" if whole else "modalities disagree on"
    run.warn(
        f"{beginning} {labels.name} of {plural(n, 'cell')}: {examples}"
        + (" ..." if len(rows) > 3 else "")
        + f"; obs['{labels.name}_disputed'] has the labels by the others. Labels, links or the latent may "
        "be wrong"
    )
    run.report.tables[f"disputes_{labels.name}"] = table(
        f"Labels that cells nearby contradict: {labels.name}",
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
    return np.ravel(features.values[rows].mean(0)) - np.ravel(features.values.mean(0))
