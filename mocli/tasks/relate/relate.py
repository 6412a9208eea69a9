"""Imputed features against measured ones: the pairs tested, their table, and what is known about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mocli.data.batches import densify
from mocli.data.features.genes import read_genes
from mocli.data.features.index import FeatureIndex, Features, nearest_name
from mocli.data.features.loci import WINDOW, Vicinity, find_vicinity, has_places
from mocli.errors import InputError, UsageError
from mocli.tasks.infer.predictor import link_sides
from mocli.tasks.infer.translation import Translation
from mocli.tasks.relate.correlate import (
    FEWEST_CELLS,
    Imputed,
    Relations,
    all_pairs,
    correlate,
    genomic_pairs,
    relate,
    strongest_pairs,
)
from mocli.tasks.relate.promoters import Figures, promoter_controls, promoter_enrichment
from mocli.tasks.relate.scope import FeaturePairs
from mocli.tasks.run.frame import Tell, progress
from mocli.types import CSR, BoolArray, FloatArray, IntArray, ModalityKind, StrArray

MOST_PAIRS = 2_000_000
"""All pairs of features without positions are tested up to this many; of more, the strongest."""
TOP = 10

_GENES = {ModalityKind.RNA: "gene", ModalityKind.PROT: "protein", ModalityKind.CYTO: "protein"}


@dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs to be tested.

    Attributes:
        first: The chosen imputed features; `columns` are their positions in the modality.
        vicinity: Genes and the peaks around them, None where features have no genomic positions.
        top: How many pairs of every feature are tested where there are no positions and too many pairs.
    """

    first: Features
    second: Features
    columns: IntArray
    vicinity: Vicinity | None = None
    top: int = TOP

    @property
    def labels(self) -> tuple[str, str]:
        """The names of the two sides in a table."""
        if self.vicinity is None:
            return self.first.modality, self.second.modality
        return _GENES.get(self.first.kind, "gene"), "peak"

    def pairs(self, measured: CSR, imputed: Imputed) -> FeaturePairs:
        """Return the pairs, by first, then by second feature.

        `measured`, `imputed`: as `relate` takes them; used only where there are too many pairs.
        """
        vicinity = self.vicinity
        if vicinity is None:
            n_first, n_second = len(self.first.names), len(self.second.names)
            if n_first * n_second <= MOST_PAIRS:
                return all_pairs(n_first, n_second)
            return strongest_pairs(measured, imputed, n_first, top=self.top)
        return genomic_pairs(vicinity)

    def summary(self) -> str:
        """Say in a line which pairs are tested."""
        vicinity = self.vicinity
        if vicinity is not None:
            return (
                f"{len(vicinity.gene):,} pairs to test: {len(np.unique(vicinity.gene)):,} {self.labels[0]}s "
                f"and {len(np.unique(vicinity.peak)):,} peaks near them"
            )
        n = len(self.first.names) * len(self.second.names)
        sides = " x ".join(f"{len(f.names):,} {f.modality}" for f in (self.first, self.second))
        if n <= MOST_PAIRS:
            return f"{n:,} pairs to test: {sides} features"
        return f"the {self.top} strongest pairs of every feature are tested, of {n:,}: {sides} features"


def find_candidates(
    first: Features,
    second: Features,
    columns: IntArray,
    *,
    gtf: Path | None,
    window: int | None,
    top: int,
    tell: Tell,
) -> Candidates:
    """Pair features that lie near each other where a gene table is given, else all.

    Args:
        first, second: Features of the imputed and of the measured modality.
        columns: Features of `first` wanted.
        window: Bases around the TSS; None for 100,000.

    Raises:
        UsageError: A window or gene table for features without genomic positions.
        InputError: As `read_genes` and `find_vicinity` raise it.
    """
    chosen = Features(
        first.modality,
        first.kind,
        tuple(first.names[j] for j in columns),
        {name: tuple(values[j] for j in columns) for name, values in first.aliases.items()},
    )
    if gtf is None and window is not None:
        raise UsageError(
            "--window needs --gtf: it is measured from transcription start sites, which are read from a "
            "gene table",
            field="--window",
            found=f"{window:,}, no gene table",
            hint="give --gtf FILE (GTF, GFF3, BED or a table), or leave --window out",
        )
    if window is not None and window < 0:
        raise UsageError("--window cannot be negative", field="--window", found=str(window))
    if gtf is None:
        candidates = Candidates(chosen, second, columns, top=top)
        tell.say(candidates.summary())
        return candidates
    with_places = [has_places(f) for f in (first, second)]
    if sum(with_places) != 1 or with_places[0]:
        raise UsageError(
            "--gtf and --window pair genes with peaks, "
            + ("and both modalities are peaks" if all(with_places) else "and no feature has coordinates"),
            field="--gtf",
            found="; ".join(f"{f.modality} ({f.kind}): {', '.join(f.names[:2])}" for f in (first, second)),
            expected="names such as chr1:1000-1500 on one side",
            hint="leave out --gtf and --window to test pairs wherever they lie, or give --var-key, the "
            "column of var that holds such names",
        )
    table = read_genes(gtf)
    vicinity = find_vicinity(chosen, second, table, window=WINDOW if window is None else window)
    tell.say(f"{len(table.frame):,} genes from {table.path}")
    for note in (*table.notes, *vicinity.notes):
        if note.startswith("warning: "):
            tell.warn(note.removeprefix("warning: "))
        else:
            tell.say(note)
    candidates = Candidates(chosen, second, columns, vicinity, top=top)
    if vicinity.n_unplaced_genes:
        tell.warn(
            f"{vicinity.n_unplaced_genes:,} of {len(chosen.names):,} {candidates.labels[0]}s are not in "
            f"{table.path} and not tested: {_some(vicinity.unplaced_genes, vicinity.n_unplaced_genes)}"
        )
    tell.say(candidates.summary())
    return candidates


def choose_genes(features: Features, wanted: Sequence[str], *, warn: Callable[[str], None]) -> IntArray:
    """Return the positions of the features asked for, in the modality's order; of all if none is asked for.

    Raises `InputError`: the modality has none of them.
    """
    if not wanted:
        return np.arange(len(features.names))
    match = FeatureIndex(features).match(wanted)
    lost = (*match.missing, *match.ambiguous)
    places = sorted({p for positions in match.positions for p in positions})
    if not places:
        near = nearest_name(lost[0], features.names)
        raise InputError(
            f"none of the {len(wanted):,} genes of --genes is in '{features.modality}'",
            field="--genes",
            found=_some(lost[:5], len(lost)),
            expected=", ".join(features.names[:5]),
            hint=None if near is None else f"did you mean '{near}'?",
        )
    if lost:
        warn(
            f"{len(lost):,} of the {len(wanted):,} genes of --genes are not in '{features.modality}': "
            + ", ".join(_with_nearest(name, features.names) for name in lost[:5])
            + (", ..." if len(lost) > 5 else "")
        )
    return np.array(places, dtype=np.int64)


def _with_nearest(name: str, names: Sequence[str]) -> str:
    near = nearest_name(name, names)
    return name if near is None else f"{name} (did you mean {near}?)"


def _some(names: Sequence[str], n: int) -> str:
    return ", ".join(names) + (", ..." if n > len(names) else "")


MEASURED = "correlation_measured"
LINKED = "linked"
_NUMBERS = ("correlation", "spearman", "p", "fdr", "z_matched", "p_matched", "fdr_matched")


@dataclass(frozen=True, eq=False)
class Related:
    """Pairs of features and how strongly they go together.

    Attributes:
        table: As `relations_table` gives it; `correlation_measured` of the measured values of both, where
            cells have both; `linked` is 1 for pairs of the link table that the model was trained with, where
            there is one between the two.
        left_out: Groups of too few cells.
        n_measured: Cells that have both sides measured.
        absent, n_absent: Measured features of the pairs that the input lacks, and the pairs that these are
            in.
        enrichment, enrichment_measured: Of promoters, None where features have no genomic positions, or no
            cell has both.
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
    translation: Translation,
    candidates: Candidates,
    rows: IntArray,
    *,
    groups: StrArray | None = None,
    n_permutations: int = 20,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> Related:
    """Correlate imputed features of the target with measured ones of the source.

    Both are on the scale `log`, normalised by depth, so that features do not correlate through depth alone.

    Args:
        rows: Cells of the source.
        groups: `(n_rows,)` labels of the cells, see `relate`.

    Raises:
        InputError: The model holds no readout of the source.
    """
    source, target = translation.source, translation.target
    if source not in translation.saved.readouts:
        raise InputError(
            f"the model cannot predict values of '{source}'", hint="train it again with this version of mocli"
        )
    x, absent = translation.measured(source, rows)

    predict = translation.of_rows(rows)

    def imputed(columns: IntArray) -> FloatArray:
        return predict("log", candidates.columns[columns])

    pairs = candidates.pairs(x, imputed)
    relations = relate(
        x,
        imputed,
        pairs,
        groups=groups,
        n_permutations=n_permutations,
        seed=seed,
        progress=progress(say, "correlating", "imputed features"),
    )
    vicinity = candidates.vicinity
    controls = None if vicinity is None else promoter_controls(vicinity, seed=seed)
    partners = translation.partners()[rows]
    both = np.flatnonzero(partners >= 0)
    beside = None
    if len(both) >= FEWEST_CELLS:
        y = translation.measured(target, partners[both])[0].tocsc()

        def measured(columns: IntArray) -> FloatArray:
            return densify(y[:, candidates.columns[columns]])

        of_both = None if groups is None else groups[both]
        beside = relate(x[both], measured, pairs, groups=of_both, n_permutations=0, n_matched=0)
    table = _tabulate(candidates, relations, beside, _linked(translation, candidates))
    enrichment = enrichment_measured = None
    if controls is not None:
        enrichment = promoter_enrichment(table, correlate(x, imputed, controls))
        if beside is not None:
            swapped = table.assign(correlation=table[MEASURED])
            enrichment_measured = promoter_enrichment(swapped, correlate(x[both], measured, controls))
    lacking = np.isin(pairs.second, absent)
    return Related(
        candidates,
        table,
        relations.left_out,
        pairs.n_compared,
        0 if beside is None else len(both),
        enrichment,
        enrichment_measured,
        tuple(candidates.second.names[j] for j in np.unique(pairs.second[lacking])),
        int(lacking.sum()),
    )


def _linked(translation: Translation, candidates: Candidates) -> Callable[[FeaturePairs], BoolArray] | None:
    """Say whether pairs were links in training; None where the two were not linked."""
    sides = link_sides(translation.saved, translation.source, translation.target)
    if sides is None:
        return None
    source, target = sides
    joined = (abs(target.aggregation).tocsr()[candidates.columns] @ abs(source.aggregation).tocsr().T).tocsr()
    return lambda pairs: np.asarray(joined[pairs.first, pairs.second]).ravel() > 0


def _tabulate(
    candidates: Candidates,
    relations: Relations,
    beside: Relations | None,
    linked: Callable[[FeaturePairs], BoolArray] | None,
) -> pd.DataFrame:
    """Build the table with features as numbers, so that columns can be added pair by pair; then name them."""
    pairs, vicinity, labels = relations.pairs, candidates.vicinity, candidates.labels
    n_first, n_second = len(candidates.first.names), len(candidates.second.names)
    table = relations_table(
        relations, np.arange(n_first), np.arange(n_second), labels=labels, vicinity=vicinity
    )
    sides = [table[label].to_numpy(dtype=np.int64) for label in labels]
    row = np.searchsorted(pairs.first * n_second + pairs.second, sides[0] * n_second + sides[1])
    if beside is not None:
        by_group = {one.group: one.correlation for one in beside.sets}
        values = np.full(len(table), np.nan)
        groups = (
            table["group"].to_numpy() if "group" in table else np.full(len(table), relations.sets[0].group)
        )
        for group, correlation in by_group.items():
            of_group = groups == group
            values[of_group] = correlation[row[of_group]]
        table[MEASURED] = values
    if linked is not None:
        table[LINKED] = linked(pairs)[row].astype(np.int64)
    for label, side, features in zip(labels, sides, (candidates.first, candidates.second), strict=True):
        table[label] = np.asarray(features.names, dtype=object)[side]
    return table


def relations_table(
    relations: Relations,
    first: Sequence[str] | IntArray | None = None,
    second: Sequence[str] | IntArray | None = None,
    *,
    labels: tuple[str, str] = ("gene", "peak"),
    vicinity: Vicinity | None = None,
) -> pd.DataFrame:
    """Build the table of relations.

    Args:
        first, second: Names of all features of A and of B; those of `vicinity` where that is given.
        labels: What the columns of the two features are called: the modalities' names.
        vicinity: Where the pairs come from; adds chrom, start, end (0-based, half-open) and distance_to_tss.

    Returns:
        The two features; the genomic position; `group` where there are groups; n_cells, correlation,
        spearman, p, fdr, z_matched, p_matched, fdr_matched. All cells come first, then group by group; within
        each by |correlation|, the largest first, undefined ones last, equal ones in the order of the
        features.
    """
    pairs = relations.pairs
    names_a = np.asarray(vicinity.genes if vicinity and first is None else first, dtype=object)
    names_b = np.asarray(vicinity.peaks if vicinity and second is None else second, dtype=object)
    parts = []
    for relation_set in relations.sets:
        order = np.argsort(-np.nan_to_num(np.abs(relation_set.correlation), nan=-1.0), kind="stable")
        second_of_pair = pairs.second[order]
        columns: dict[str, object] = {
            labels[0]: names_a[pairs.first[order]],
            labels[1]: names_b[second_of_pair],
        }
        if vicinity is not None:
            columns |= {c: vicinity.places[c].to_numpy()[second_of_pair] for c in ("chrom", "start", "end")}
            columns["distance_to_tss"] = vicinity.distance[order]
        if len(relations.sets) > 1 or relations.left_out:
            columns["group"] = np.full(len(order), relation_set.group, dtype=object)
        columns["n_cells"] = np.full(len(order), relation_set.n_cells, dtype=np.int64)
        columns |= {name: getattr(relation_set, name)[order] for name in _NUMBERS}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)
