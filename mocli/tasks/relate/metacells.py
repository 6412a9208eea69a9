"""Genes against peaks over metacells (cells averaged with their nearest cells), and two backgrounds.

A shallow cell says little of one gene and less of one peak; an average over its nearest cells says what
cells of its kind do. Two such averages correlate wherever both differ between kinds of cells, so a pair is
compared with backgrounds of both its sides, as Signac compares a gene with peaks elsewhere (Stuart et al.
2021, doi:10.1038/s41592-021-01282-5):

    z_gene = (r - mean of the gene's r with peaks of other chromosomes, as open as the peak) / their deviation
    z_peak = (r - mean of the peak's r with genes of other chromosomes) / their deviation
    z      = (z_gene + z_peak) / 2,    p: its rank among z of genes and peaks of different chromosomes
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from mocli.data.batches import densify
from mocli.nn.neighbors import chunks, drawn_rows, knn, unit_rows
from mocli.tasks.relate.scope import FeaturePairs
from mocli.tasks.trained.latent import SourceCells, View
from mocli.types import CSR, DoubleArray, FloatArray, IntArray

FEWEST_CELLS = 100
"""Fewest cells with both sides measured from which metacells are made."""
N_METACELLS = 3_000
N_NEIGHBORS = 50
LEADING = 20
"""Principal components of expression in which the nearest cells are found."""
N_PANEL, N_GENES = 1_500, 300
"""Peaks and genes drawn for the backgrounds."""
_TENTHS = 10
_FEWEST = 10
BLOCK = 1_000
"""Genes correlated at a time."""


@dataclass(frozen=True, eq=False)
class Metacells:
    """Averages over neighbours.

    `weights`: `(n_metacells, n_cells)`, each row sums to 1.
    """

    weights: CSR

    @classmethod
    def of(cls, expression: CSR, *, seed: int, n_neighbors: int = N_NEIGHBORS) -> Metacells:
        """Average each cell, or 3,000 drawn of more, with those nearest to it by log expression `(n, p)`."""
        n = expression.shape[0]
        cells = SourceCells(expression)
        points = unit_rows(View.fit(expression, standardise=True, seed=seed)(cells)[:, :LEADING])
        centers = drawn_rows(n, N_METACELLS, seed=seed)
        k = int(min(n_neighbors, max(10, n // 10), n))
        nearest = knn(points[centers], points, k)[1]
        rows = np.repeat(np.arange(len(centers)), k)
        weights = np.full(len(rows), 1 / k, dtype=np.float32)
        return cls(sparse.csr_matrix((weights, (rows, nearest.ravel())), shape=(len(centers), n)))

    def average(self, x: CSR) -> FloatArray:
        """Return unit columns `(n_metacells, p)` of averaged values, their roots taken, constant ones 0."""
        mean = np.sqrt(np.maximum(densify(self.weights @ x), 0))
        mean -= mean.mean(0)
        length = np.linalg.norm(mean, axis=0)
        unit: FloatArray = np.divide(mean, length, out=np.zeros_like(mean), where=length > 1e-6)
        return unit.astype(np.float32)


@dataclass(frozen=True, eq=False)
class MetacellScores:
    """Scores of pairs over metacells, `(n_pairs,)` each; NaN where a feature is constant."""

    correlation: DoubleArray
    z_gene: DoubleArray
    z_peak: DoubleArray
    z: DoubleArray
    p: DoubleArray


def score_pairs(
    genes: CSR,
    peaks: CSR,
    pairs: FeaturePairs,
    gene_home: IntArray,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> MetacellScores:
    """Correlate genes and peaks over metacells, and compare the correlations with both backgrounds.

    Args:
        genes, peaks: Depth-normalised values of the same cells, `(n, n_genes)` and `(n, n_peaks)`, not
            logged.
        pairs: By gene, then by peak; `home` gives the chromosome of every peak, None where there are none.
        gene_home: Chromosome of every gene, as `pairs.home`; -1 unknown.
    """
    rng = np.random.default_rng(seed)
    metacells = Metacells.of(_logged(genes), seed=seed)
    home = np.full(peaks.shape[1], -2) if pairs.home is None else pairs.home
    open_share = np.bincount(peaks.indices, minlength=peaks.shape[1]) / max(1, peaks.shape[0])
    able = np.flatnonzero(open_share > 0)
    panel = np.sort(rng.choice(able, min(N_PANEL, len(able)), replace=False))
    edges = np.quantile(open_share[panel], np.linspace(0, 1, _TENTHS + 1)[1:-1])
    tenth, tenth_of_panel = (np.searchsorted(edges, open_share[columns]) for columns in (pairs.second, panel))
    used = np.unique(pairs.first)
    expressed = np.unique(genes.indices)
    drawn = np.sort(rng.choice(expressed, min(N_GENES, len(expressed)), replace=False))
    unit_panel, unit_drawn = metacells.average(peaks[:, panel]), metacells.average(genes[:, drawn])
    n = len(pairs.first)
    r, z_gene = np.full(n, np.nan), np.full(n, np.nan)
    null_gene: list[DoubleArray] = []
    second = np.unique(pairs.second)
    mean_peak, deviation_peak = _of_peaks(metacells, peaks, second, unit_drawn, gene_home[drawn], home)
    mean_panel, deviation_panel = _of_peaks(metacells, peaks, panel, unit_drawn, gene_home[drawn], home)
    done = 0
    for span, unit_genes, unit_peaks, gene_column, place in _blocks(metacells, genes, peaks, pairs):
        first = pairs.first[span]
        r[span] = np.einsum("ij,ij->j", unit_genes[:, gene_column], unit_peaks[:, place])
        against = (unit_genes.T @ unit_panel).astype(np.float64)
        distinct_genes = np.unique(first)
        against[gene_home[distinct_genes][:, None] == home[panel][None]] = np.nan
        mean, deviation = _by_tenth(against, tenth_of_panel)
        z_gene[span] = (r[span] - mean[gene_column, tenth[span]]) / deviation[gene_column, tenth[span]]
        # what pairs of different chromosomes come to, for p
        few = rng.choice(len(distinct_genes), min(len(distinct_genes), 50), replace=False)
        null = (against[few] - mean[few][:, tenth_of_panel]) / deviation[few][:, tenth_of_panel]
        null_gene.append((null + (against[few] - mean_panel) / deviation_panel).ravel() / 2)
        done += len(distinct_genes)
        if progress is not None:
            progress(done, len(used))
    peak_row = np.searchsorted(second, pairs.second)
    z_peak = (r - mean_peak[peak_row]) / deviation_peak[peak_row]
    z = (z_gene + z_peak) / 2
    constant = (np.abs(r) < 1e-12) | ~np.isfinite(z)
    for values in (r, z_gene, z_peak, z):
        values[constant] = np.nan
    return MetacellScores(r, z_gene, z_peak, z, _tail(np.concatenate([np.zeros(0), *null_gene]), z))


def _logged(x: CSR) -> CSR:
    logged = sparse.csr_matrix(x, dtype=np.float32, copy=True)
    logged.data = np.log1p(np.maximum(logged.data, 0))
    return logged


def _of_peaks(
    metacells: Metacells,
    peaks: CSR,
    some_peaks: IntArray,
    unit_genes: FloatArray,
    genes_home: IntArray,
    home: IntArray,
) -> tuple[DoubleArray, DoubleArray]:
    """Mean and deviation of the correlations of some peaks with genes of other chromosomes."""
    mean, deviation = np.empty(len(some_peaks)), np.empty(len(some_peaks))
    for some in chunks(len(some_peaks), 2_000):
        r = (metacells.average(peaks[:, some_peaks[some]]).T @ unit_genes).astype(np.float64)
        r[home[some_peaks[some]][:, None] == genes_home[None]] = np.nan
        mean[some], deviation[some] = _moments(r)
    return mean, deviation


def _moments(r: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """Mean and deviation of every row without its NaN; NaN where fewer than 10 values remain."""
    finite = np.isfinite(r)
    n = finite.sum(1)
    filled = np.where(finite, r, 0)
    mean = filled.sum(1) / np.maximum(n, 1)
    variance = np.square(np.where(finite, r - mean[:, None], 0)).sum(1) / np.maximum(n - 1, 1)
    enough = (n >= _FEWEST) & (variance > 0)
    return np.where(enough, mean, np.nan), np.where(enough, np.sqrt(variance), np.nan)


def _by_tenth(r: DoubleArray, tenth: IntArray) -> tuple[DoubleArray, DoubleArray]:
    """Mean and deviation `(n_genes, 10)` of each gene's correlations with peaks of a tenth of openness."""
    parts = [_moments(r[:, tenth == k]) for k in range(_TENTHS)]
    whole = _moments(r)
    mean, deviation = (
        np.stack([np.where(np.isfinite(part[i]), part[i], whole[i]) for part in parts], axis=1)
        for i in (0, 1)
    )
    return mean, deviation


def _blocks(
    metacells: Metacells, genes: CSR, peaks: CSR, pairs: FeaturePairs
) -> Iterator[tuple[slice, FloatArray, FloatArray, IntArray, IntArray]]:
    """Yield a run of pairs, unit columns of its genes and of its peaks, and which of these each pair has."""
    used = np.unique(pairs.first)
    for some in chunks(len(used), BLOCK):
        some_genes = used[some]
        begin, end = np.searchsorted(pairs.first, [some_genes[0], some_genes[-1] + 1])
        span = slice(int(begin), int(end))
        some_peaks = np.unique(pairs.second[span])
        yield (
            span,
            metacells.average(genes[:, some_genes]),
            metacells.average(peaks[:, some_peaks]),
            np.searchsorted(some_genes, pairs.first[span]),
            np.searchsorted(some_peaks, pairs.second[span]),
        )


def _tail(null: DoubleArray, z: DoubleArray) -> DoubleArray:
    """Share of the null at least as far from 0, never 0."""
    null = np.sort(np.abs(null[np.isfinite(null)]))
    p = (1.0 + len(null) - np.searchsorted(null, np.abs(z), side="left")) / (1.0 + len(null))
    return np.where(np.isfinite(z), p, np.nan)
