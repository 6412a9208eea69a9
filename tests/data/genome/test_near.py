"""Genes and the peaks they reach, against brute force over single bases."""

import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mocli.data.features.intervals import Reach, near_peaks, promoters_hit

GENE = st.tuples(
    st.sampled_from(["chr1", "chr2", "chr3"]), st.integers(0, 300), st.integers(1, 120), st.sampled_from("+-")
)
PEAK = st.tuples(st.sampled_from(["chr1", "chr2", None]), st.integers(0, 400), st.integers(1, 60))


def gene_frame(genes):
    rows = [(c, s, s + n, strand, s if strand == "+" else s + n - 1) for c, s, n, strand in genes]
    return pd.DataFrame(rows, columns=["chrom", "start", "end", "strand", "tss"])


def peak_frame(peaks):
    rows = [(c, s if c else -1, s + n if c else -1) for c, s, n in peaks]
    return pd.DataFrame(rows, columns=["chrom", "start", "end"]).astype({"chrom": object})


def slow(genes, peaks, reach):
    found = {}
    for g, gene in enumerate(genes.itertuples()):
        for p, peak in enumerate(peaks.itertuples()):
            if peak.chrom != gene.chrom:
                continue
            bases = set(range(peak.start, peak.end))
            distance = min(abs(base - gene.tss) for base in bases)
            if reach.mode == "window" and distance <= reach.window:
                found[g, p] = math.exp(-distance / reach.decay)
            elif reach.mode == "promoter" and distance <= reach.promoter:
                found[g, p] = 1.0
            elif reach.mode == "body":
                ahead = -reach.upstream if gene.strand == "+" else 0
                behind = reach.upstream if gene.strand == "-" else 0
                if bases & set(range(gene.start + ahead, gene.end + behind)):
                    found[g, p] = 1.0
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(GENE, max_size=6),
    st.lists(PEAK, min_size=1, max_size=12),
    st.sampled_from(["window", "promoter", "body"]),
    st.integers(0, 80),
)
def test_every_reach_against_single_bases(genes, peaks, mode, bases):
    genes, peaks = gene_frame(genes), peak_frame(peaks)
    reach = Reach(mode, window=bases, decay=30.0, promoter=bases, upstream=bases)
    gene, peak, weight = near_peaks(genes, peaks, reach)
    pairs = list(zip(gene.tolist(), peak.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert gene.tolist() == sorted(gene.tolist())
    assert dict(zip(pairs, weight.tolist(), strict=True)) == pytest.approx(slow(genes, peaks, reach))


@settings(max_examples=40, deadline=None)
@given(st.lists(GENE, max_size=6), st.lists(PEAK, min_size=1, max_size=12), st.integers(-50, 50))
def test_promoters_in_peaks(genes, peaks, shift):
    genes, peaks = gene_frame(genes), peak_frame(peaks)
    moved = [
        any(p.chrom == g.chrom and p.start <= g.tss + shift < p.end for p in peaks.itertuples())
        for g in genes.itertuples()
    ]
    assert promoters_hit(genes, peaks, shift=shift) == sum(moved)


def test_a_long_peak_does_not_hide_a_short_one():
    genes = gene_frame([("chr1", 1000, 10, "+")])
    peaks = peak_frame([("chr1", 0, 5000), ("chr1", 10, 20), ("chr1", 990, 20)])
    gene, peak, weight = near_peaks(genes, peaks, Reach("promoter", promoter=5))
    assert gene.tolist() == [0, 0]
    assert sorted(peak.tolist()) == [0, 2]
    assert weight.tolist() == [1.0, 1.0]
