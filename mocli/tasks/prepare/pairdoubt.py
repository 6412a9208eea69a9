"""A test whether cells that count as the same look alike, by linked features and labels of both sides."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mocli.data.batches import dense_rows
from mocli.data.bundle import LinkedFeatures, MultiOmics
from mocli.tasks.prepare.obscolumns import ObsColumn, words
from mocli.types import DoubleArray, IntArray, StrArray

N_SHUFFLES = 99
FEWEST_PAIRS = 50
"""With fewer pairs, chance hides what pairs have in common."""
MOST_PAIRS = 2_000
MOST_LINKS = 200
SURE = 0.05

Pairs = Mapping[tuple[str, str], IntArray]


def doubtful_pairs(bundle: MultiOmics, pairs: Pairs, label: ObsColumn | None, *, seed: int) -> list[str]:
    """Return a line for each two modalities whose links or labels contradict the pairs.

    Of at most 2,000 pairs drawn at random, correlations of linked features, their mean and (as either sign
    may be meant) their mean square, and the share of pairs with equal labels, are compared with the same
    for partners shuffled 99 times. They contradict the pairs unless 95 of these are smaller. Fewer than 50
    pairs are not tested.

    Args:
        pairs: For modalities (a, b) the rows of the same cell in both, `(n_pairs, 2)`.
        label: The user's labels.
    """
    rng = np.random.default_rng(seed)
    links = {link.edge: link for link in bundle.links}
    lines = []
    for (a, b), rows in pairs.items():
        if len(rows) < FEWEST_PAIRS:
            continue
        drawn = rows if len(rows) <= MOST_PAIRS else rng.choice(rows, MOST_PAIRS, replace=False)
        link = links.get((a, b)) or links.get((b, a))
        reasons = []
        if link is not None and _unrelated(*_linked(link, drawn, a, rng), rng):
            reasons.append("linked features are no more alike in cells of one name than in others")
        columns = {} if label is None else {m: label.by_modality.get(m) for m in (a, b)}
        if columns and all(column is not None for column in columns.values()):
            one, other = (words(columns[m])[drawn[:, k]] for k, m in enumerate((a, b)))
            labelled = np.array([x is not None and y is not None for x, y in zip(one, other, strict=True)])
            if labelled.sum() >= FEWEST_PAIRS and _disagree(one[labelled], other[labelled], rng):
                reasons.append("labels agree no more often than those of other cells")
        if reasons:
            why = " and ".join(reasons)
            lines.append(
                f"{len(rows):,} cells of {a} and {b} count as the same, but {why}: check how cells are "
                "named in both files, or add --pairing unpaired"
            )
    return lines


def _linked(
    link: LinkedFeatures, pairs: IntArray, first: str, rng: np.random.Generator
) -> tuple[DoubleArray, DoubleArray]:
    """Linked features of both sides of the pairs, `(n, n_links)`, standardised; those that vary on both."""
    side_of_source = int(link.source != first)
    x, y = (
        dense_rows(features, pairs[:, side]).astype(np.float64)
        for features, side in (
            (link.source_features, side_of_source),
            (link.target_features, 1 - side_of_source),
        )
    )
    vary = np.flatnonzero((x.std(0) > 0) & (y.std(0) > 0))
    if len(vary) > MOST_LINKS:
        vary = np.sort(rng.choice(vary, MOST_LINKS, replace=False))
    x, y = ((v[:, vary] - v[:, vary].mean(0)) / v[:, vary].std(0) for v in (x, y))
    return x, y


def _by_chance(observed: float, shuffled: list[float]) -> bool:
    return (1 + sum(value >= observed for value in shuffled)) / (1 + len(shuffled)) > SURE


def _unrelated(x: DoubleArray, y: DoubleArray, rng: np.random.Generator) -> bool:
    """Whether correlations of columns are those of shuffled partners, in their mean and their mean square."""
    if not x.shape[1]:
        return False
    observed = (x * y).mean(0)
    shuffled = [(x * rng.permutation(y)).mean(0) for _ in range(N_SHUFFLES)]
    return all(
        _by_chance(float(power(observed).mean()), [float(power(r).mean()) for r in shuffled])
        for power in (np.asarray, np.square)
    )


def _disagree(one: StrArray, other: StrArray, rng: np.random.Generator) -> bool:
    """Whether labels are as often the same as those of shuffled partners."""
    if len(set(one)) < 2 or len(set(other)) < 2:
        return False
    shuffled = [float((one == rng.permutation(other)).mean()) for _ in range(N_SHUFFLES)]
    return _by_chance(float((one == other).mean()), shuffled)
