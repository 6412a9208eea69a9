"""Where features lie in the genome, and which peaks lie around which transcription starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from mocli.data.features.genes import BY_CASE, GeneTable, builds_of, check_species, fit_of
from mocli.data.features.index import NO_INTERVALS, FeatureIndex, Features, Miss, misses
from mocli.data.features.intervals import Reach, near_peaks, parse_intervals
from mocli.data.features.proteins import link_genes
from mocli.errors import InputError, some
from mocli.types import DoubleArray, IntArray, ModalityKind

PROTEINS = frozenset({ModalityKind.PROT, ModalityKind.CYTO})
_SEX = frozenset({"chrX", "chrY"})

ALMOST_NONE = 0.02
"""Least share of the genes (of the data, or of the table if it has fewer) that must be found."""


class Loci(NamedTuple):
    """Genes in a table.

    Attributes:
        row, feature, weight: `(n,)` rows of the table, positions of the features, weights.
        by_case: Rows found without regard to case only.
    """

    row: IntArray
    feature: IntArray
    weight: DoubleArray
    notes: tuple[str, ...]
    misses: tuple[Miss, ...]
    by_case: int = 0


def intervals_of(features: Features) -> pd.DataFrame:
    """Read features as intervals, from their names or the first column of `var` that holds intervals.

    Returns:
        See `parse_intervals`; `chrom` is None where a feature is no interval.
    """
    for column in (features.names, *features.aliases.values()):
        places = parse_intervals(column)
        if 2 * places["chrom"].notna().sum() > len(places):
            return places
    return parse_intervals(features.names)


def has_places(features: Features) -> bool:
    """Say whether most features are genomic intervals; genes and proteins never are."""
    if features.kind in NO_INTERVALS:
        return False
    return 2 * int(intervals_of(features)["chrom"].notna().sum()) > len(features.names)


def table_of(genes: Features) -> GeneTable | None:
    """Return a gene table of the gene positions in a column of `var`, as 10x writes them, or None.

    The column has no strand, and in files of 10x it spans the transcription starts alone.
    """
    for column, values in genes.aliases.items():
        places = parse_intervals(values)
        placed = places["chrom"].notna().to_numpy()
        if 2 * placed.sum() > len(places):
            frame = places[placed].assign(
                gene=np.array(genes.names, dtype=object)[placed], gene_id="", strand="+"
            )
            frame = frame.assign(tss=frame["start"]).reset_index(drop=True)
            return GeneTable(f"var['{column}'] of {genes.modality}", frame)
    return None


def gene_loci(genes: Features, table: GeneTable) -> Loci:
    """Find genes in a table by id, else by name.

    Raises `InputError`: hardly any gene is found.
    """
    index = FeatureIndex(genes)
    rows: list[tuple[int, int, bool]] = []
    by_case = 0
    for row, (name, identity) in enumerate(zip(table.frame["gene"], table.frame["gene_id"], strict=True)):
        position, how = index.find(identity) if identity else (-1, "")
        by_id = position >= 0
        if not by_id:
            position, how = index.find(name)
        if position >= 0:
            rows.append((row, position, by_id))
            by_case += how == "case"
    hits = pd.DataFrame(rows, columns=["row", "feature", "by_id"])
    hits, notes = _one_place(hits, table, genes)
    n = hits["feature"].nunique()
    fewest = min(len(genes.names), table.frame["gene"].nunique())
    if 0 < n < ALMOST_NONE * fewest:
        raise no_gene(genes, table, n)
    if by_case > BY_CASE * max(1, len(rows)):
        notes = (
            *notes,
            f"warning: {by_case:,} genes were found without regard to case only: is {table.path} of another "
            f"species than these genes? Links would mean nothing ({by_case / len(rows):.0%} of those found; "
            "none is expected)",
        )
    elif n and n < 0.2 * len(genes.names):
        notes = (
            *notes,
            f"warning: only {n:,} of {len(genes.names):,} genes are in {table.path}, which names "
            f"{table.frame['gene'].nunique():,}: is it of another species, or does it use other ids?",
        )
    has_place = set(hits["feature"].tolist())
    absent = [name for k, name in enumerate(genes.names) if k not in has_place]
    table_genes = tuple(dict.fromkeys(table.frame["gene"]))
    failed = misses(genes.modality, absent, why="not in the gene table", among=table_genes) if n else ()
    row, feature = (hits[c].to_numpy(dtype=np.int64) for c in ("row", "feature"))
    return Loci(row, feature, np.ones(len(row)), notes, failed, by_case)


def _one_place(hits: pd.DataFrame, table: GeneTable, genes: Features) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Leave out genes found by a name that occurs on several chromosomes (the sex chromosomes share some)."""
    chroms = table.frame["chrom"].to_numpy()[hits["row"].to_numpy(dtype=np.int64)]
    where = hits.assign(chrom=["chrX/Y" if c in _SEX else c for c in chroms])
    exact = set(where.loc[where["by_id"].astype(bool), "feature"])
    several = where.groupby("feature")["chrom"].nunique()
    torn = sorted(set(several.index[several > 1]) - exact)
    # where the id says which locus is meant, others of that name are not
    keep = ~hits["feature"].isin(torn) & (hits["by_id"].astype(bool) | ~hits["feature"].isin(exact))
    if not torn:
        return hits[keep], ()
    shown = some((genes.names[k] for k in torn), 3)
    return hits[keep], (f"{len(torn):,} names occur on several chromosomes and are left out: {shown}",)


def protein_loci(proteins: Features, table: GeneTable) -> Loci:
    """Find proteins by their genes."""
    symbols = tuple(dict.fromkeys(table.frame["gene"]))
    proposal = link_genes(proteins, FeatureIndex(Features("the gene table", ModalityKind.RNA, symbols)))
    rows_of = table.frame.groupby("gene", sort=False).indices
    rows = [rows_of[symbols[gene]] for gene in proposal.target]
    count = np.array([len(r) for r in rows], dtype=np.int64)
    row = np.concatenate([*rows, np.zeros(0, dtype=np.int64)]).astype(np.int64)
    return Loci(
        row,
        np.repeat(proposal.source, count),
        np.repeat(proposal.weight, count),
        proposal.notes,
        proposal.misses,
    )


def doubts(table: GeneTable, places: pd.DataFrame, peaks: Features, loci: Loci) -> tuple[str, ...]:
    """Return signs of another genome build, and a note on peaks that are not intervals.

    Raises `InputError`: another species is almost certain.
    """
    notes = []
    unplaced = int(places["chrom"].isna().sum())
    if unplaced:
        notes.append(f"{peaks.modality}: {unplaced:,} features are not intervals and are left out")
    fit = fit_of(table, places)
    check_species(fit, by_case=loci.by_case, n_genes=len(loci.row))
    of_peaks, of_table = builds_of(places), builds_of(table.frame)
    if of_peaks and of_table and not set(of_peaks) & set(of_table):
        notes.append(
            f"warning: {table.path} is of another genome build than {peaks.modality}: by the ends of "
            f"chromosomes of {' or '.join(of_table)}, and the peaks of {' or '.join(of_peaks)}; give the "
            "gene table of the build of the peaks"
        )
    elif fit.figures:
        figures = "; ".join(fit.figures)
        notes.append(f"warning: {figures}: is {table.path} of another genome build or species?")
    return tuple(notes)


def no_gene(genes: Features, table: GeneTable, n: int = 0) -> InputError:
    """Return the error for genes of which none, or hardly any, is in the table."""
    of_table, of_data = (
        ", ".join(map(repr, names[:3])) for names in (list(table.frame["gene"]), genes.names)
    )
    return InputError(
        f"only {n:,} of {len(genes.names):,} genes of '{genes.modality}' are in the gene table"
        if n
        else f"no gene of '{genes.modality}' is in the gene table",
        file=table.path,
        found=f"{of_table} in the table, {of_data} in the data",
        hint="does one side have symbols and the other ids, or is the species another? --var-key names the "
        "column of var with the names",
    )


def no_peak(loci: pd.DataFrame, places: pd.DataFrame, table: GeneTable, peaks: Features) -> InputError:
    """Return the error for genes that reach no peak."""
    of_table, of_data = (list(dict.fromkeys(frame["chrom"].dropna())) for frame in (loci, places))
    shared = set(of_table) & set(of_data)
    names = f"{', '.join(of_table[:3])} in the table, {', '.join(of_data[:3])} in the data"
    return InputError(
        "no peak lies near a gene" if shared else "genes and peaks share no chromosome",
        file=table.path,
        field=peaks.modality,
        found=None if shared else names,
        hint="is the gene table of another genome build or species?",
    )


WINDOW = 100_000


@dataclass(frozen=True, eq=False)
class Vicinity:
    """Genes and the peaks around their TSS, one entry a pair, by gene, then by peak.

    Attributes:
        gene, peak: `(n_pairs,)` positions among the features of the two modalities.
        distance: `(n_pairs,)` bases from the TSS to the peak's nearest base: negative upstream, positive
            downstream (as the gene is read), 0 where the peak covers the TSS. Of a gene with several loci the
            nearest TSS counts.
        strand, body: `(n_pairs,)`, and `(n_pairs, 2)` for the gene's first base and the one after its last,
            of that locus.
        genes, peaks: Names of all features.
        places: Of all peaks: `chrom` (None where a feature is no interval), `start`, `end`.
        n_unplaced_genes, n_unplaced_peaks: Features without a position: not in the gene table, or not an
            interval.
        unplaced_genes: The first few of them.
        notes: For the log; a doubt begins with `warning:`.
    """

    gene: IntArray
    peak: IntArray
    distance: IntArray
    strand: np.ndarray
    body: IntArray
    genes: tuple[str, ...]
    peaks: tuple[str, ...]
    places: pd.DataFrame
    n_unplaced_genes: int
    n_unplaced_peaks: int
    unplaced_genes: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def tss(self) -> IntArray:
        """Base where transcription starts, `(n_pairs,)`."""
        return np.where(self.strand == "-", self.body[:, 1] - 1, self.body[:, 0])

    @property
    def chrom_code(self) -> IntArray:
        """Chromosome of every peak as a number, `(n_peaks,)`, -1 for nowhere."""
        codes, _ = pd.factorize(self.places["chrom"], sort=True)
        return codes.astype(np.int64)


def find_vicinity(genes: Features, peaks: Features, table: GeneTable, *, window: int = WINDOW) -> Vicinity:
    """Pair genes, or proteins by their genes, with the peaks that have a base within `window` of the TSS.

    A peak whose nearest base is exactly `window` bases from the TSS is within. Genes
    are found as `link_peaks` finds them.

    Raises `InputError` if no gene is in the table or almost none, no chromosome is in both, no peak is within
    the window, or names and genomic positions both say that the table is of another species.
    """
    places = intervals_of(peaks)
    loci_of = protein_loci if genes.kind in PROTEINS else gene_loci
    found_loci = loci_of(genes, table)
    row, feature, notes = found_loci.row, found_loci.feature, found_loci.notes
    if not len(row):
        raise no_gene(genes, table)
    loci = table.frame.iloc[row].reset_index(drop=True)
    locus, peak, _ = near_peaks(loci, places, Reach("window", window=window))
    notes += doubts(table, places, peaks, found_loci)
    if not len(locus):
        raise no_peak(loci, places, table, peaks)
    tss, strand = loci["tss"].to_numpy()[locus], loci["strand"].to_numpy()[locus]
    distance = signed_distance(tss, strand, *(places[c].to_numpy()[peak] for c in ("start", "end")))
    gene = feature[locus]
    order = np.lexsort((np.abs(distance), peak, gene))
    key = np.stack([gene[order], peak[order]])
    order = order[np.append(True, (key[:, 1:] != key[:, :-1]).any(axis=0))]
    placed = set(feature.tolist())
    unplaced = [name for k, name in enumerate(genes.names) if k not in placed]
    return Vicinity(
        gene[order],
        peak[order],
        distance[order],
        strand[order],
        loci[["start", "end"]].to_numpy()[locus[order]],
        genes.names,
        peaks.names,
        places,
        len(unplaced),
        int(places["chrom"].isna().sum()),
        tuple(unplaced[:5]),
        notes,
    )


def signed_distance(tss: IntArray, strand: np.ndarray, start: IntArray, end: IntArray) -> IntArray:
    """Bases from each TSS to the nearest base of `[start, end)`, negative where that lies upstream."""
    right = np.maximum(start - tss, 0)
    left = np.maximum(tss - (end - 1), 0)
    along = np.where(right >= left, right, -left)
    return np.where(strand == "-", -along, along)
