"""Which pairs of an imputed and a measured feature are correlated: genes and peaks near them, or all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mocli.data.features.index import FeatureIndex, Features, nearest_names
from mocli.data.genome.genes import read_genes
from mocli.data.genome.loci import has_places
from mocli.data.genome.vicinity import WINDOW, Vicinity, find_vicinity
from mocli.errors import InputError, UsageError
from mocli.tasks.relate.correlate import Imputed, all_pairs, genomic_pairs, strongest_pairs
from mocli.tasks.relate.scope import FeaturePairs
from mocli.tasks.run.frame import Tell
from mocli.types import CSR, IntArray, ModalityKind

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
        nearest = nearest_names(lost[0], features.names)
        raise InputError(
            f"none of the {len(wanted):,} genes of --genes is in '{features.modality}'",
            field="--genes",
            found=_some(lost[:5], len(lost)),
            expected=", ".join(features.names[:5]),
            hint=f"did you mean '{nearest[0]}'?" if nearest else None,
        )
    if lost:
        warn(
            f"{len(lost):,} of the {len(wanted):,} genes of --genes are not in '{features.modality}': "
            + ", ".join(_with_nearest(name, features.names) for name in lost[:5])
            + (", ..." if len(lost) > 5 else "")
        )
    return np.array(places, dtype=np.int64)


def _with_nearest(name: str, names: Sequence[str]) -> str:
    nearest = nearest_names(name, names)
    return f"{name} (did you mean {nearest[0]}?)" if nearest else name


def _some(names: Sequence[str], n: int) -> str:
    return ", ".join(names) + (", ..." if n > len(names) else "")
