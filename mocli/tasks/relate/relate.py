"""Imputed features against measured ones: the pairs tested, their table, and what is known beside it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mocli.data.batches import densify
from mocli.errors import InputError
from mocli.tasks.infer.align import align
from mocli.tasks.relate.correlate import FEWEST_CELLS, correlate, relate
from mocli.tasks.relate.promoters import promoter_controls, promoter_enrichment
from mocli.tasks.relate.table import relations_table

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from mocli.tasks.impute.work import Imputation
    from mocli.tasks.relate.candidates import Candidates
    from mocli.tasks.relate.correlate import Pairs, Relations
    from mocli.tasks.relate.promoters import Figures
    from mocli.types import CSR, BoolArray, FloatArray, IntArray, StrArray

MEASURED = "correlation_measured"
LINKED = "linked"
_PATIENCE = 30.0  # seconds between two lines about progress


@dataclass(frozen=True, eq=False)
class Related:
    """What goes with what.

    Attributes
    ----------
    table
        As `relations_table` gives it; `correlation_measured` of the measured values
        of both, where cells have both; `linked` is 1 for pairs of the link table
        that the model was trained with, where there is one between the two.
    left_out
        Groups of too few cells.
    n_measured
        Cells that have both sides measured.
    absent, n_absent
        Measured features of the pairs that the input lacks, and the pairs that these are in.
    enrichment, enrichment_measured
        Of promoters, None where features have no places, or no cell has both.
    """

    candidates: Candidates
    table: pd.DataFrame
    left_out: tuple[str, ...]
    n_compared: int | None
    n_measured: int
    enrichment: Figures | None
    enrichment_measured: Figures | None
    absent: tuple[str, ...] = ()
    n_absent: int = 0


def relate_features(
    work: Imputation,
    candidates: Candidates,
    rows: IntArray,
    *,
    groups: StrArray | None = None,
    n_permutations: int = 20,
) -> Related:
    """Correlate imputed features of the target with measured ones of the source.

    Both on the scale `log`, normalised by depth, so that a deep cell is no reason
    to go together.

    Parameters
    ----------
    rows
        Cells of the source.
    groups
        `(n_rows,)` labels of the cells, see `relate`.

    Raises
    ------
    InputError
        The model holds no readout of the source.
    """
    if work.source not in work.saved.readouts:
        raise InputError(
            f"the model cannot give values of '{work.source}'",
            file=str(work.asked.from_model),
            hint="train it again with this version of mocli",
        )
    seed = work.request.run.seed
    x, absent = _values(work, work.source, rows)

    def imputed(columns: IntArray) -> FloatArray:
        return work.predict(rows, "log", candidates.columns[columns])

    pairs = candidates.pairs(x, imputed)
    found = relate(
        x,
        imputed,
        pairs,
        groups=groups,
        n_permutations=n_permutations,
        seed=seed,
        progress=_progress(work.run.say),
    )
    near = candidates.vicinity
    controls = None if near is None else candidates.turned(promoter_controls(near, seed=seed))
    known, both = _measured_in_both(work, rows)
    beside = None
    if len(known) >= FEWEST_CELLS:
        y = _values(work, work.target, both)[0].tocsc()

        def measured(columns: IntArray) -> FloatArray:
            return densify(y[:, candidates.columns[columns]])

        of_known = None if groups is None else groups[known]
        beside = relate(x[known], measured, pairs, groups=of_known, n_permutations=0, n_matched=0)
    table = _tabulate(candidates, found, beside, _linked(work, candidates))
    enrichment = second = None
    if controls is not None:
        enrichment = promoter_enrichment(table, correlate(x, imputed, controls))
        if beside is not None:
            swapped = table.assign(correlation=table[MEASURED])
            second = promoter_enrichment(swapped, correlate(x[known], measured, controls))
    n_measured = 0 if beside is None else len(known)
    lacking = np.isin(pairs.second, absent)
    names = tuple(candidates.second.names[j] for j in np.unique(pairs.second[lacking]))
    return Related(
        candidates, table, found.left_out, pairs.n_compared, n_measured, enrichment, second, names,
        int(lacking.sum()),
    )  # fmt: skip


def _values(work: Imputation, name: str, rows: IntArray) -> tuple[CSR, IntArray]:
    """Values of some rows, and the features that the file lacks, which are 0 there."""
    file = work.source_file if name == work.source else work.target_file
    assert file is not None
    aligned = align(work.saved, name, file, layers=work.request.data.layer, warn=lambda _: None)
    return work.saved.readouts[name].values(aligned.read(rows), "log"), aligned.absent


def _measured_in_both(work: Imputation, rows: IntArray) -> tuple[IntArray, IntArray]:
    """Places among `rows`, and rows of the target's file, of cells that have both measured."""
    own = np.full(work.source_file.n_obs, -1, dtype=np.int64)
    own[work.pairs[:, 0]] = work.pairs[:, 1]
    known = np.flatnonzero(own[rows] >= 0)
    return known, own[rows][known]


def _linked(work: Imputation, candidates: Candidates) -> Callable[[Pairs], BoolArray] | None:
    """Whether pairs were links in training; None where the two were not linked."""
    recipes = work.saved.link_recipes
    if (work.source, work.target) in recipes:
        source, target = recipes[work.source, work.target]
    elif (work.target, work.source) in recipes:
        target, source = recipes[work.target, work.source]
    else:
        return None
    joined = (abs(target.aggregation).tocsr()[candidates.columns] @ abs(source.aggregation).tocsr().T).tocsr()

    def linked(pairs: Pairs) -> BoolArray:
        found: BoolArray = np.asarray(joined[pairs.first, pairs.second]).ravel() > 0
        return found

    return linked


def _tabulate(
    candidates: Candidates,
    found: Relations,
    beside: Relations | None,
    linked: Callable[[Pairs], BoolArray] | None,
) -> pd.DataFrame:
    """Lay out with features as numbers, so that columns can be added pair by pair; then name them."""
    pairs, near, labels = found.pairs, candidates.vicinity, candidates.labels
    n_first, n_second = len(candidates.first.names), len(candidates.second.names)
    place = None if candidates.peaks_first else near
    table = relations_table(found, np.arange(n_first), np.arange(n_second), labels=labels, vicinity=place)  # type: ignore[arg-type]
    sides = [table[label].to_numpy(dtype=np.int64) for label in labels]
    row = np.searchsorted(pairs.first * n_second + pairs.second, sides[0] * n_second + sides[1])
    if near is not None and candidates.peaks_first:
        order = np.lexsort((near.gene, near.peak))
        for k, column in enumerate(("chrom", "start", "end")):
            table.insert(2 + k, column, near.places[column].to_numpy()[sides[0]])
        table.insert(5, "distance_to_tss", near.distance[order][row])
    if beside is not None:
        by_group = {one.group: one.correlation for one in beside.sets}
        values = np.full(len(table), np.nan)
        groups = table["group"].to_numpy() if "group" in table else np.full(len(table), found.sets[0].group)
        for group, correlation in by_group.items():
            mine = groups == group
            values[mine] = correlation[row[mine]]
        table[MEASURED] = values
    if linked is not None:
        table[LINKED] = linked(pairs)[row].astype(np.int64)
    for label, side, features in zip(labels, sides, (candidates.first, candidates.second), strict=True):
        table[label] = np.asarray(features.names, dtype=object)[side]
    return table


def _progress(say: Callable[[str], None]) -> Callable[[int, int], None]:
    begun = [time.monotonic()]

    def tell(done: int, n: int) -> None:
        if time.monotonic() - begun[0] > _PATIENCE and done < n:
            begun[0] = time.monotonic()
            say(f"correlating: {done:,} of {n:,} imputed features")

    return tell
