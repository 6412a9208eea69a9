"""How cells of different modalities relate, and whether those that count as the same look alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mocli.data.bundle import LinkedFeatures, MultiOmics
from mocli.data.files.frames import words
from mocli.data.files.inputs import are_running_numbers
from mocli.data.files.modality import ModalityFile
from mocli.errors import InputError
from mocli.parsing import one_of
from mocli.tasks.prepare.obscolumns import ObsColumn
from mocli.types import DoubleArray, IntArray, Pairing, StrArray

CHANCE = 0.05
"""Names shared by fewer than this part of the smaller modality are chance: barcodes recur between studies."""


@dataclass(frozen=True)
class Relation:
    """The pairing, why, and whether equal names mean equal cells."""

    pairing: Pairing
    reason: str
    names_mean_cells: bool


def relate_files(files: Sequence[ModalityFile], requested: str) -> Relation:
    """Decide the pairing of opened modalities, see `relate`."""
    several_files = len({f.paths for f in files}) > 1
    return relate([f.obs.index for f in files], requested, several_files=several_files)


def relate(names: Sequence[pd.Index], requested: str, *, several_files: bool = False) -> Relation:
    """Decide the pairing from the cell names of each modality.

    Cells are paired if all modalities hold the same names, mosaic if some
    names are shared, unpaired if none are or so few that chance explains them.

    `apart`: whether the modalities are in separate files, where running numbers do not identify cells: they
    then count as the same cells only on request.
    """
    one_of(requested, ["auto", *(p.value for p in Pairing)], "--pairing")
    if len(names) == 1:
        # nothing to pair with: each row is a cell, whatever was asked
        return Relation(Pairing.PAIRED, "there is one modality", names_mean_cells=True)
    n_shared, least = _shared(names)
    by_chance = 0 < n_shared < CHANCE * least
    numbered = several_files and sum(map(are_running_numbers, names)) > 1
    if requested != "auto":
        if requested != Pairing.UNPAIRED and not n_shared:
            raise InputError(
                f"--pairing {requested} needs cells with the same name in two modalities, there are none",
                field="obs_names",
                found=" and ".join(repr(str(n[0])) for n in names[:2]),
                hint="make the cell names equal, or use --pairing unpaired",
            )
        # of cells said to be unpaired a few common names are chance; of others they are meant
        chance = (by_chance or numbered) and requested == Pairing.UNPAIRED
        means = bool(n_shared) and not chance
        reason = "as asked"
        if means and requested == Pairing.UNPAIRED:
            reason += f"; {n_shared:,} cell names are shared: the model does not use that, metrics do"
        return Relation(Pairing(requested), reason, names_mean_cells=means)
    if not n_shared:
        return Relation(Pairing.UNPAIRED, "no cell name is shared", names_mean_cells=False)
    if numbered:
        reason = (
            "names of cells are running numbers, which in separate files do not say that cells are the same; "
            "if they are, add --pairing paired"
        )
        return Relation(Pairing.UNPAIRED, reason, names_mean_cells=False)
    if by_chance:
        reason = f"only {n_shared:,} cell names are shared, which counts as chance"
        return Relation(Pairing.UNPAIRED, reason, names_mean_cells=False)
    first = set(names[0])
    if all(len(n) == len(first) and first.issuperset(n) for n in names[1:]):
        return Relation(Pairing.PAIRED, f"all {n_shared:,} cell names are shared", names_mean_cells=True)
    return Relation(Pairing.MOSAIC, f"{n_shared:,} cell names are shared", names_mean_cells=True)


def _shared(names: Sequence[pd.Index]) -> tuple[int, int]:
    seen: set[str] = set()
    shared: set[str] = set()
    for index in names:
        current = set(index)
        shared |= current & seen
        seen |= current
    return len(shared), min(len(n) for n in names)


def index_map(files: Sequence[ModalityFile], pairing: Pairing) -> tuple[IntArray, tuple[str, ...]]:
    """Return rows `(n_cells, n_modalities)`, -1 where absent, and the cells' names.

    Unpaired rows are separate cells even if names coincide.
    """
    if pairing is Pairing.UNPAIRED:
        sizes = [f.n_obs for f in files]
        rows = np.full((sum(sizes), len(files)), -1, dtype=np.int64)
        start = 0
        for column, n in enumerate(sizes):
            rows[start : start + n, column] = np.arange(n)
            start += n
        return rows, tuple(str(name) for f in files for name in f.obs.index)
    union = dict.fromkeys(str(name) for f in files for name in f.obs.index)
    where = {name: cell for cell, name in enumerate(union)}
    rows = np.full((len(union), len(files)), -1, dtype=np.int64)
    for column, f in enumerate(files):
        cells = np.fromiter((where[str(name)] for name in f.obs.index), dtype=np.int64, count=f.n_obs)
        rows[cells, column] = np.arange(f.n_obs)
    return rows, tuple(union)


def true_pairs(first: pd.Index | pd.Series, second: pd.Index | pd.Series) -> IntArray | None:
    """Return rows of true partners, `(n_pairs, 2)`, None if there are none.

    Partners have equal names that occur once on each side; missing names have none.
    """
    sides = []
    for names in (first, second):
        rows = pd.Series(np.arange(len(names)), index=pd.Index(names).astype(object))
        sides.append(rows[rows.index.notna() & ~rows.index.duplicated(keep=False)])
    pairs = pd.concat(sides, axis=1, join="inner").sort_values(0).to_numpy(dtype=np.int64)
    return pairs if len(pairs) else None


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
    from mocli.data.batches import dense_rows  # heavy

    x, y = (
        dense_rows(features, pairs[:, int(name != first)]).astype(np.float64)
        for name, features in link.sides.items()
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
