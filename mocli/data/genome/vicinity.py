"""Which peaks lie around which transcription starts, and how far up- or downstream."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mocli.data.features.index import Features
from mocli.data.genome.genes import GeneTable
from mocli.data.genome.loci import PROTEINS, doubts, gene_loci, intervals_of, no_gene, no_peak, protein_loci
from mocli.data.genome.near import Reach, near_peaks
from mocli.types import IntArray

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
