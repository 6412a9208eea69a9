"""Peaks around transcription starts: the window's borders and the sign, by brute force over bases."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mocli.data.features.genes import GeneTable, read_genes
from mocli.data.features.index import Features
from mocli.data.features.loci import find_vicinity
from mocli.errors import InputError
from mocli.types import ModalityKind


def gene_table(loci):
    """From (gene, chrom, start, end, strand)."""
    frame = pd.DataFrame(loci, columns=["gene", "chrom", "start", "end", "strand"])
    frame.insert(1, "gene_id", "")
    forward = frame["strand"] == "+"
    frame["tss"] = np.where(forward, frame["start"], frame["end"] - 1)
    return GeneTable("genes.tsv", frame)


def rna(*names):
    return Features("rna", ModalityKind.RNA, names)


def atac(*names):
    return Features("atac", ModalityKind.ATAC, names)


def entries(v):
    columns = (v.gene.tolist(), v.peak.tolist(), v.distance.tolist())
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize("strand", "+-")
def test_borders_of_the_window_on_both_strands(strand):
    # the TSS is base 10,000 either way
    locus = ("G", "chr1", 10_000, 12_000, "+") if strand == "+" else ("G", "chr1", 8_000, 10_001, "-")
    peaks = {
        "chr1:8900-9000": None,  # nearest base 8,999: 1,001 away
        "chr1:8900-9001": -1000,  # nearest base 9,000
        "chr1:9999-10000": -1,
        "chr1:10000-10001": 0,
        "chr1:9000-11000": 0,
        "chr1:10001-10002": 1,
        "chr1:11000-11001": 1000,
        "chr1:11001-11002": None,
        "chr2:10000-10001": None,
    }
    v = find_vicinity(rna("G"), atac(*peaks), gene_table([locus]), window=1000)
    sign = 1 if strand == "+" else -1
    assert {v.peaks[p]: d for _, p, d in entries(v)} == {
        peak: sign * d for peak, d in peaks.items() if d is not None
    }
    assert set(v.tss) == {10_000}
    assert set(v.strand) == {strand}


LOCUS = st.tuples(
    st.sampled_from("ABC"),
    st.sampled_from(["chr1", "chr2"]),
    st.integers(0, 300),
    st.integers(1, 90),
    st.sampled_from("+-"),
)
PEAK = st.tuples(st.sampled_from(["chr1", "chr2"]), st.integers(0, 400), st.integers(1, 60))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(LOCUS, min_size=1, max_size=5, unique_by=lambda locus: locus[0]),
    st.lists(PEAK, min_size=1, max_size=10, unique=True),
    st.integers(0, 80),
)
def test_against_single_bases(loci, peaks, window):
    table = gene_table([(g, c, s, s + n, strand) for g, c, s, n, strand in loci])
    names = [f"{c}:{s}-{s + n}" for c, s, n in peaks]
    expected = []
    for g, (_, chrom, start, length, strand) in enumerate(loci):
        tss, way = (start, 1) if strand == "+" else (start + length - 1, -1)
        for p, (where, begin, size) in enumerate(peaks):
            nearest = min((base - tss for base in range(begin, begin + size)), key=abs)
            if where == chrom and abs(nearest) <= window:
                expected.append((g, p, way * nearest))
    features = rna(*(locus[0] for locus in loci))
    if not expected:
        with pytest.raises(InputError):
            find_vicinity(features, atac(*names), table, window=window)
    else:
        assert entries(find_vicinity(features, atac(*names), table, window=window)) == expected


def test_the_nearest_locus_counts_and_what_has_no_place_is_counted():
    table = gene_table([("G", "chr1", 1000, 2000, "+"), ("G", "chr1", 1500, 1701, "-")])
    peaks = atac("chr1:1650-1660", "spike-in", "1_1005_1010", "X:5-9")
    v = find_vicinity(rna("absent", "G"), peaks, table, window=1000)
    assert entries(v) == [(1, 0, 41), (1, 2, 5)]
    assert v.strand.tolist() == ["-", "+"]
    assert (v.n_unplaced_genes, v.unplaced_genes, v.n_unplaced_peaks) == (1, ("absent",), 1)
    assert any("not intervals" in note for note in v.notes)
    assert v.chrom_code.tolist() == [0, -1, 0, 1]


def test_proteins_stand_where_their_genes_do():
    table = gene_table([("CD8A", "chr2", 1000, 2000, "-"), ("CD4", "chr12", 1000, 2000, "+")])
    proteins = Features("adt", ModalityKind.PROT, ("CD4", "CD8a"))
    v = find_vicinity(proteins, atac("chr2:2010-2020", "chr12:900-950"), table, window=100)
    assert entries(v) == [(0, 1, -51), (1, 0, -11)]


def test_genes_of_a_file(tmp_path):
    (tmp_path / "genes.bed").write_text("chr1\t100\t200\tA\t0\t+\nchr1\t100\t200\tB\t0\t-\n")
    v = find_vicinity(rna("A", "B"), atac("chr1-90-95"), read_genes(tmp_path / "genes.bed"), window=200)
    assert entries(v) == [(0, 0, -6), (1, 0, 105)]


def test_no_gene_and_no_peak_are_errors():
    table = gene_table([("G", "chr1", 100, 200, "+")])
    with pytest.raises(InputError, match="no gene of 'rna'"):
        find_vicinity(rna("H"), atac("chr1:1-2"), table)
    with pytest.raises(InputError, match="share no chromosome"):
        find_vicinity(rna("G"), atac("chr7:1-2"), table)
