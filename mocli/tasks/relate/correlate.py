"""Which features of two modalities go together: imputed features of A against measured features of B.

`relate` is called once the candidates are known:

    pairs = genomic_pairs(find_vicinity(genes, peaks, table))      # genes and the peaks around them
    pairs = all_pairs(n_a, n_b)                                    # a moderate number
    pairs = strongest_pairs(measured, imputed, n_a, top=10)        # of very many
    relations = relate(measured, imputed, pairs, groups=cell_types)
    table = relations_table(relations, ...)                        # relate.py

`imputed` is asked for columns of A, some hundred at a time, so that neither the
imputed matrix nor all correlations ever stand in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
from scipy import sparse

from mocli.data.features.loci import Vicinity
from mocli.errors import InputError
from mocli.metrics.correlation import empirical_p, false_discovery_rate, outlier_p, unit_dense, unit_sparse
from mocli.tasks.relate.scope import ALL, FeaturePairs, Scope
from mocli.types import CSR, DoubleArray, FloatArray, IntArray

Imputed: TypeAlias = "Callable[[IntArray], FloatArray]"
Progress: TypeAlias = "Callable[[int, int], None]"

FEWEST_CELLS = 20  # of a group
_BLOCK_VALUES = 8_000_000  # of one block of imputed columns, and of the measured ones beside it
_WIDEST = 512


@dataclass(frozen=True, eq=False)
class Correlations:
    """Correlations over one set of cells, `(n_pairs,)` each in the order of the pairs.

    Attributes:
        group: `all`, or the group whose cells these are.
        correlation, spearman: Pearson's and Spearman's; NaN where a feature is constant.
        p, fdr: Of the permutation null.
        z_matched, p_matched, fdr_matched: Of the matched null. See `relate`.
    """

    group: str
    n_cells: int
    correlation: DoubleArray
    spearman: DoubleArray
    p: DoubleArray
    fdr: DoubleArray
    z_matched: DoubleArray
    p_matched: DoubleArray
    fdr_matched: DoubleArray


@dataclass(frozen=True, eq=False)
class Relations:
    """What `relate` found.

    Attributes:
        sets: All cells first, then each group by name.
        left_out: Groups of fewer than 20 cells.
    """

    pairs: FeaturePairs
    sets: tuple[Correlations, ...]
    left_out: tuple[str, ...] = ()


def all_pairs(n_first: int, n_second: int) -> FeaturePairs:
    """Every feature of A with every feature of B."""
    first, second = np.divmod(np.arange(n_first * n_second, dtype=np.int64), max(1, n_second))
    return FeaturePairs(first, second)


def genomic_pairs(vicinity: Vicinity) -> FeaturePairs:
    """Genes with the peaks around them."""
    return FeaturePairs(vicinity.gene, vicinity.peak, home=vicinity.chrom_code)


def strongest_pairs(measured: CSR, imputed: Imputed, n_first: int, *, top: int) -> FeaturePairs:
    """Return the pairs that are among the `top` by |Pearson's r| for either of their features.

    At most `top * (n_first + p_B)` pairs, by first, then by second feature; of
    equal correlations the earlier feature is kept.
    """
    n, n_second = measured.shape
    rows = unit_sparse(sparse.csc_matrix(measured))
    of_first: list[tuple[IntArray, IntArray]] = []
    best = np.full((n_second, top), -1.0)
    owner = np.full((n_second, top), -1, dtype=np.int64)
    for columns, values in _blocks(np.arange(n_first), imputed, n, beside=n_second):
        strength = np.nan_to_num(np.abs(rows.times(unit_dense(values))), nan=-1.0)
        place = np.argsort(-strength, axis=0, kind="stable")[:top]
        strong = np.take_along_axis(strength, place, axis=0) >= 0
        of_first.append((np.broadcast_to(columns, place.shape)[strong], place[strong]))
        best = np.concatenate([best, strength], axis=1)
        owner = np.concatenate([owner, np.broadcast_to(columns, strength.shape)], axis=1)
        place = np.argsort(-best, axis=1, kind="stable")[:, :top]
        best, owner = (np.take_along_axis(v, place, axis=1) for v in (best, owner))
    among_best = (owner >= 0) & (best >= 0)
    second, _ = np.nonzero(among_best)
    candidates = [*of_first, (owner[among_best], second)]
    keys = np.concatenate([first * n_second + second for first, second in candidates])
    first, second = np.divmod(np.unique(keys).astype(np.int64), n_second)
    return FeaturePairs(first, second, n_compared=n_first * n_second)


def relate(
    measured: CSR,
    imputed: Imputed,
    pairs: FeaturePairs,
    *,
    groups: Sequence[object] | np.ndarray | None = None,
    n_permutations: int = 20,
    n_matched: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> Relations:
    """Correlate imputed features with measured ones over cells, and compare with two null distributions.

    *Permutation null* (`p`): the cells of the imputed side are permuted, the same `n_permutations` times
    for all features; the correlations of the candidates under every permutation, times sqrt(n - 1), are
    pooled over pairs (of random features of A, above 2,000,000 values), and p = (1 + #{null |r| >= |r|}) /
    (1 + #null). A small p says only that both features differ between cells, as most do that differ between
    cell types.

    *Matched null* (`z_matched`, `p_matched`): the same imputed feature against
    features of B that are unrelated to it but detected in as many cells.
    `n_matched` features are drawn from every decile of the fraction of cells with
    signal, up to 2,000 where there are few features of A. Where B has homes
    (peaks), those on the chromosomes of the first feature's candidates are left
    out; else its candidates are. z is r less the mean of the first feature's
    correlations with the drawn features of the second one's decile, over their
    standard deviation (none below 10 features). So a gene that follows the cell
    types, and with it half of all peaks, has a wide null of its own. The tails of
    that null are not normal, hence p_matched is empirical: every drawn feature is
    standardised in the same way by the others of its decile and gene, and these z
    are pooled over genes, decile by decile (of random genes, above 4,000,000
    values); p_matched = (1 + #{null |z| >= |z|}) / (1 + #null).

    Where B has no homes and the candidates are more than half of all pairs, or
    were selected by `strongest_pairs`, the features left over would be too few, or
    chosen to be weak, and a pool that holds the candidates themselves could never
    call any of them rare. There z leaves out the second feature only, and p_matched
    is that of a studentised residual (`outlier_p`): does this feature stand out
    from all others of its decile, if their correlations are about normal?

    Both FDR are Benjamini and Hochberg's within one set of cells; pairs that
    `strongest_pairs` dropped count as tests.

    Args:
        measured: CSR `(n, p_B)`, counts or transformed (or dense); a cell has signal where it is not 0, so
            that values without zeros are not matched for detection.
        imputed: Given columns of A `(k,)`, their values `(n, k)` in that order, cells as in `measured`. Asked
            for each column once.
        groups: `(n,)` labels, missing ones in no group: everything is repeated within the cells of each.
        n_permutations, n_matched: 0 leaves the null, and its p, out.
        progress: Called with the features of A done and their number.

    Raises:
        InputError: An imputed value is not finite.
    """
    measured = sparse.csr_matrix(measured)  # the same arrays, if it is one
    sets, left_out = _cells(measured.shape[0], groups)
    first, start, length = _runs(pairs)
    pool = [
        Scope(
            measured,
            rows,
            pairs,
            name=name,
            features=(first, start, length),
            n_permutations=n_permutations,
            n_matched=n_matched,
            rng=np.random.default_rng([seed, k]),
        )
        for k, (name, rows) in enumerate(sets)
    ]
    used = np.unique(pairs.second)
    columns = measured[:, used].tocsc()
    local = np.searchsorted(used, pairs.second)
    # neighbours in B share blocks, so that a block needs few columns of B
    order = np.argsort(local[start], kind="stable") if len(first) else first
    stored = np.add.reduceat(np.diff(columns.indptr)[local], start)[order] if len(first) else first
    at_once = columns.nnz <= _BLOCK_VALUES or 4 * len(local) > len(first) * len(used)
    done = 0
    for chosen, values in _blocks(
        order, lambda k: imputed(first[k]), measured.shape[0], stored=None if at_once else stored
    ):
        entries = np.concatenate([np.arange(start[k], start[k] + length[k]) for k in chosen])
        union = np.arange(len(used)) if at_once else np.unique(local[entries])
        of_union = columns if at_once else columns[:, union]
        for scope in pool:
            scope.add(chosen, values, union, of_union, np.searchsorted(union, local[entries]), entries)
        done += len(chosen)
        if progress is not None:
            progress(done, len(first))
    return Relations(pairs, tuple(_conclude(scope, pairs) for scope in pool), left_out)


def correlate(measured: CSR, imputed: Imputed, pairs: FeaturePairs) -> DoubleArray:
    """Pearson's correlations of pairs, `(n_pairs,)`, without significance."""
    return relate(measured, imputed, pairs, n_permutations=0, n_matched=0).sets[0].correlation


def _runs(pairs: FeaturePairs) -> tuple[IntArray, IntArray, IntArray]:
    """First features, and where the run of pairs of each begins and how long it is."""
    if (np.diff(pairs.first) < 0).any():
        raise ValueError("pairs must be sorted by their first feature")
    first, start, length = np.unique(pairs.first, return_index=True, return_counts=True)
    return first.astype(np.int64), start.astype(np.int64), length.astype(np.int64)


def _cells(
    n: int, groups: Sequence[object] | np.ndarray | None
) -> tuple[list[tuple[str, IntArray | None]], tuple[str, ...]]:
    """Return the sets of cells to correlate over, and the groups that are too small."""
    sets: list[tuple[str, IntArray | None]] = [(ALL, None)]
    left_out: list[str] = []
    if groups is not None:
        if len(groups) != n:
            raise ValueError(f"{len(groups)} groups for {n} cells")
        text = pd.Series(np.asarray(groups, dtype=object)).map(str, na_action="ignore")
        codes, labels = pd.factorize(text, sort=True)
        for code, label in enumerate(labels):
            rows = np.flatnonzero(codes == code)
            if len(rows) < FEWEST_CELLS:
                left_out.append(label)
            else:
                sets.append((label, rows))
    return sets, tuple(left_out)


def _blocks(
    features: IntArray, imputed: Imputed, n: int, *, beside: int = 0, stored: IntArray | None = None
) -> Iterator[tuple[IntArray, FloatArray]]:
    """Yield features and their imputed values `(n, k)`, as many at a time as fit into the planned memory.

    Args:
        beside: Values that stand beside each feature's own n.
        stored: Measured values that each feature of A brings with it.
    """
    width = int(np.clip(_BLOCK_VALUES // max(1, n, beside), 16, _WIDEST))
    begin = 0
    while begin < len(features):
        chosen = features[begin : begin + width]
        if stored is not None:
            fitting = np.cumsum(stored[begin : begin + width]) <= _BLOCK_VALUES
            chosen = chosen[: max(1, int(fitting.sum()))]
        begin += len(chosen)
        values = np.asarray(imputed(chosen))
        if values.shape != (n, len(chosen)):
            raise ValueError(f"imputed values of shape {values.shape}, expected {(n, len(chosen))}")
        if not np.isfinite(values).all():
            raise InputError(
                "some imputed values are not finite",
                found=f"{int((~np.isfinite(values)).sum()):,} of {values.size:,} values",
                hint="the model may not have converged; check its losses in the report",
            )
        yield chosen, values


def _conclude(scope: Scope, pairs: FeaturePairs) -> Correlations:
    scaled = scope.correlation * np.sqrt(max(1, scope.n_cells - 1))
    p = empirical_p(scope.permuted(), scaled)
    if scope.outlier:
        p_matched = outlier_p(scope.z, scope.n_matched)
    else:
        p_matched = np.full(len(p), np.nan)
        bins = scope.bins_of(pairs.second)
        for k in np.unique(bins):
            p_matched[bins == k] = empirical_p(scope.matched(int(k)), scope.z[bins == k])
    return Correlations(
        scope.name,
        scope.n_cells,
        scope.correlation,
        scope.spearman,
        p,
        false_discovery_rate(p, pairs.n_compared),
        scope.z,
        p_matched,
        false_discovery_rate(p_matched, pairs.n_compared),
    )
