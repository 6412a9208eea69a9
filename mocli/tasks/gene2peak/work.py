"""`mocli gene2peak` by silencing genes in a model: request, work and table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mocli.data.batches import densify
from mocli.data.features.genes import read_genes
from mocli.errors import InputError
from mocli.metrics.correlation import false_discovery_rate
from mocli.tasks.gene2peak.cells import CellGroups, SilencedCells
from mocli.tasks.gene2peak.changes import Original, Step, Way, changes, push, step_length
from mocli.tasks.gene2peak.options import Gene2PeakOptions
from mocli.tasks.gene2peak.peaksets import (
    Closing,
    PeakSet,
    SetsCompared,
    compare_classes,
    compare_sets,
    match_sets,
    pairs_of,
    read_classes,
    read_peak_sets,
)
from mocli.tasks.gene2peak.truth import combine, precision_recall, promoter_precision, read_truth
from mocli.tasks.gene2peak.units import PeakPanel, Silenced, Units, choose_units, collect
from mocli.tasks.relate.correlate import all_pairs, genomic_pairs, relate
from mocli.tasks.relate.metacells import FEWEST_CELLS, MetacellScores, score_pairs
from mocli.tasks.relate.promoters import promoter_controls
from mocli.tasks.relate.relate import Candidates, choose_genes, find_candidates
from mocli.tasks.relate.scope import ALL, FeaturePairs
from mocli.tasks.run.frame import Tell
from mocli.types import CSR, DoubleArray, IntArray

TOP = 20
"""Peaks that are kept of every gene where distances are not known."""
FEWEST_BOTH = 20


@dataclass(frozen=True, eq=False)
class SilencingResult:
    """What silencing found.

    Attributes:
        table: One line for each gene, peak and group of cells.
        groups: `all`, then the groups of cells; `left_out` are those in which no gene is expressed in enough
            cells.
        peak_sets: Sets of peaks, and classes of these; None where none was asked for.
        precision: How well known pairs are found, score by score; and which pairs these are.
        permuted: p of genes at the peaks around other genes, over all cells: uniform if the null is right.
        too_few, absent: Genes that are expressed in too few cells; those that the model knows and the input
            lacks.
        length: Median length of a step in the latent.
    """

    candidates: Candidates
    options: Gene2PeakOptions
    way: Way
    table: pd.DataFrame
    groups: tuple[str, ...]
    left_out: tuple[str, ...]
    peak_sets: SetsCompared | None
    precision: dict[str, list[dict[str, object]]]
    permuted: DoubleArray
    too_few: tuple[str, ...]
    absent: tuple[str, ...]
    length: float


def silence(
    cells: SilencedCells, options: Gene2PeakOptions, way: Way, *, seed: int, tell: Tell
) -> SilencingResult:
    """Silence genes, and compare the changes at peaks with a null distribution.

    Raises:
        InputError: No gene asked for is expressed in enough cells; a file that does not fit.
        UsageError: A window is given, but peaks have no positions.
    """
    expressed = _expressed(cells)
    columns = choose_genes(cells.genes, options.genes, warn=tell.warn)
    lacking = cells.absent[columns]
    enough = (expressed[0][columns] >= options.min_cells) & ~lacking
    absent = tuple(cells.genes.names[j] for j in columns[lacking])
    too_few = tuple(cells.genes.names[j] for j in columns[~enough & ~lacking])
    if not enough.any():
        raise InputError(
            f"no gene asked for is expressed in {options.min_cells:,} cells",
            field="--genes",
            found=", ".join(
                f"{cells.genes.names[j]}: "
                + ("not in the input" if cells.absent[j] else f"{expressed[0][j]:,} cells")
                for j in columns[:5]
            ),
            hint="few cells give a noisy estimate; lower --min-cells to test the genes all the same",
        )
    for genes, why in (
        (absent, "that the model knows are not in the input"),
        (too_few, f"are expressed in fewer than {options.min_cells:,} cells"),
    ):
        if genes:
            more = ", ..." if len(genes) > 5 else ""
            tell.warn(f"{len(genes):,} genes {why} and left out: {', '.join(genes[:5])}{more}")
    design = _design(cells, options, columns[enough], expressed, seed=seed, tell=tell)
    return _run(cells, options, way, design, (too_few, absent), seed, tell)


def _expressed(cells: SilencedCells) -> tuple[IntArray, DoubleArray]:
    """Cells that express every gene, and its mean count in them, `(n_genes,)` each; 0 where not measured."""
    n = np.asarray((cells.counts > 0).sum(axis=0), dtype=np.int64).ravel()
    total = np.asarray(cells.counts.sum(axis=0), dtype=np.float64).ravel()
    # what stands for a gene that the input lacks is no expression
    n[cells.absent] = total[cells.absent] = 0
    return n, total / np.maximum(n, 1)


@dataclass(frozen=True, eq=False)
class _Design:
    """What is silenced, and at which peaks the changes are looked at.

    Attributes:
        columns: Genes asked for, by their columns in the model.
        unit_of: The unit of every gene asked for.
        controls: Promoters of other genes; None where features have no positions.
        home: Chromosomes of all genes as numbers, as those of the panel's peaks.
    """

    columns: IntArray
    candidates: Candidates
    groups: CellGroups
    units: Units
    unit_of: IntArray
    original: Original
    panel: PeakPanel
    pairs: FeaturePairs
    controls: FeaturePairs | None
    home: IntArray
    rng: np.random.Generator


def _design(
    cells: SilencedCells,
    options: Gene2PeakOptions,
    columns: IntArray,
    expressed: tuple[IntArray, DoubleArray],
    *,
    seed: int,
    tell: Tell,
) -> _Design:
    candidates = find_candidates(
        cells.genes, cells.peaks, columns, gtf=options.gtf, window=options.window, top=TOP, tell=tell
    )
    rng = np.random.default_rng(seed)
    vicinity = candidates.vicinity
    home, nearest, chrom = _homes(cells, candidates, columns, options.gtf)
    units = choose_units(
        columns, *expressed, home, together=options.together, min_cells=options.min_cells, rng=rng
    )
    everyone = np.flatnonzero(np.diff(cells.counts.indptr) > 0)
    original = Original(cells.placed, cells.atac, everyone)
    panel = PeakPanel.draw(original.mean(everyone), nearest, chrom, rng)
    pairs = all_pairs(len(columns), len(cells.peaks.names)) if vicinity is None else genomic_pairs(vicinity)
    return _Design(
        columns,
        candidates,
        cells.groups(options.group_key),
        units,
        np.zeros(len(columns), np.int64) if options.together else np.arange(len(columns)),
        original,
        panel,
        pairs,
        None if vicinity is None else promoter_controls(vicinity, seed=seed),
        home,
        rng,
    )


def _homes(
    cells: SilencedCells, candidates: Candidates, columns: IntArray, gtf: Path | None
) -> tuple[IntArray, IntArray | None, IntArray]:
    """Chromosomes of genes and of peaks as numbers, and the distance of peaks to the nearest TSS."""
    vicinity, n_genes, n_peaks = candidates.vicinity, len(cells.genes.names), len(cells.peaks.names)
    if vicinity is None or gtf is None:
        return np.full(n_genes, -2, np.int64), None, np.full(n_peaks, -1, np.int64)
    table = read_genes(gtf).frame
    chroms = sorted(set(vicinity.places["chrom"].dropna()) | set(table["chrom"]))
    number = {c: k for k, c in enumerate(chroms)}
    chrom = np.array([number.get(c, -1) for c in vicinity.places["chrom"]], dtype=np.int64)
    by_name = {n.casefold(): number[c] for n, c in zip(table["gene"], table["chrom"], strict=True)}
    by_id = {n.casefold(): number[c] for n, c in zip(table["gene_id"], table["chrom"], strict=True) if n}
    chrom_of_gene = by_name | by_id
    home = np.array([chrom_of_gene.get(str(n).casefold(), -2) for n in cells.genes.names], dtype=np.int64)
    home[columns[vicinity.gene]] = chrom[vicinity.peak]  # found by an alias
    nearest = np.full(n_peaks, np.iinfo(np.int64).max // 4)
    middle = ((vicinity.places["start"] + vicinity.places["end"]) // 2).to_numpy()
    for c, k in number.items():
        tss = np.sort(table["tss"].to_numpy()[(table["chrom"] == c).to_numpy()])
        peaks_there = np.flatnonzero(chrom == k)
        if len(tss) and len(peaks_there):
            following = np.searchsorted(tss, middle[peaks_there])
            to_left = np.abs(middle[peaks_there] - tss[np.maximum(following - 1, 0)])
            to_right = np.abs(tss[np.minimum(following, len(tss) - 1)] - middle[peaks_there])
            nearest[peaks_there] = np.minimum(to_left, to_right)
    return home, nearest, chrom


def _run(
    cells: SilencedCells,
    options: Gene2PeakOptions,
    way: Way,
    design: _Design,
    left_out_genes: tuple[tuple[str, ...], tuple[str, ...]],
    seed: int,
    tell: Tell,
) -> SilencingResult:
    """Silence, compare, lay out."""
    vicinity, controls, units, groups = (
        design.candidates.vicinity,
        design.controls,
        design.units,
        design.groups,
    )
    truth = None
    if options.truth is not None and vicinity is not None:
        truth = read_truth(options.truth, vicinity)
    sets = _peak_sets(cells, options, design, tell.warn)
    none = np.zeros(0, np.int64)
    stretches = {
        "pairs": (design.unit_of[design.pairs.first], design.pairs.second),
        "permuted": _permuted(design, together=options.together),
        "controls": (none, none) if controls is None else (design.unit_of[controls.first], controls.second),
        "peak sets": pairs_of(sets),
    }
    ends = np.cumsum([0, *(len(unit) for unit, _ in stretches.values())])
    span = {name: slice(int(a), int(b)) for name, (a, b) in zip(stretches, pairwise(ends), strict=True)}
    closing = Closing(sets, groups.codes, len(groups.names))
    raised, step = options.direction == "raise", Step(options.step)
    tell.say(
        f"{'raising' if raised else 'silencing'} {'a set of ' if options.together else ''}"
        f"{len(design.columns):,} genes, and {len(units.columns) - units.n_asked:,} expressed alike to "
        "compare them with"
    )
    pushes = push(cells.placed, cells.rna, cells.counts, units.columns, way=way, raised=raised)
    n_groups = len(groups.names)
    unit, peak = (np.concatenate(parts) for parts in zip(*stretches.values(), strict=True))
    silenced = collect(
        changes(
            design.original,
            pushes,
            step=step,
            groups=np.where(groups.codes < 0, n_groups, groups.codes),
            n_groups=n_groups + 1,
            look=closing.look if sets else None,
        ),
        len(units.columns),
        design.panel,
        (unit, peak),
        n_groups=n_groups,
        min_cells=options.min_cells,
        say=tell.say,
    )

    def score(group: int, name: str) -> tuple[DoubleArray, DoubleArray]:
        null = silenced.null(group, design.panel, units)
        return null.score(*stretches[name], silenced.relative(group)[span[name]], options.alternative)

    correlations, at_controls = _correlations(cells, design)
    # large where the peak goes with the gene
    change = silenced.relative(0) if raised else -silenced.relative(0)
    at_pairs = change[span["pairs"]], change[span["controls"]]
    unknown = np.full(len(at_pairs[1]), np.nan)
    scores = {"silencing": at_pairs, "silencing, by size": (np.abs(at_pairs[0]), np.abs(at_pairs[1]))}
    scores |= {name: (by_group[0], at_controls.get(name, unknown)) for name, by_group in correlations.items()}
    metacells = _metacells(cells, design, seed, tell)
    if metacells:
        scores["metacells"] = metacells["pairs"].z, metacells["controls"].z
    combined = None
    if vicinity is not None and controls is not None:
        weighed = {name: scores[name] for name in ("silencing", "metacells") if name in scores}
        first, second = (design.home[design.columns[p.first]] for p in (design.pairs, controls))
        combined = combine(*_sides(weighed), vicinity.distance, first, second)
        scores["combined"] = combined.score, combined.at_controls
        weights = ", ".join(f"{name} {weight:.2f}" for name, weight in combined.weights.items())
        tell.say(f"scores weigh {weights} ({'by promoters' if combined.learnt else 'as usual'})")
    table, left_out = _table(cells, design, silenced, span["pairs"], score, correlations)
    if combined is not None:
        genes, peaks = (np.asarray(f.names) for f in (design.candidates.first, design.candidates.second))
        names = genes[design.pairs.first], peaks[design.pairs.second]
        table = with_columns(table, names, metacells.get("pairs"), combined.score)
    compared = None
    if options.peak_sets is not None:
        by_set = compare_sets(sets, silenced, span["peak sets"], closing, (ALL, *groups.names))
        compared = SetsCompared(by_set, None)
        if options.peak_set_classes is not None:
            classes = read_classes(options.peak_set_classes, {one.name: one for one in sets}, tell.warn)
            compared = SetsCompared(by_set, compare_classes(by_set, classes))
    precision = {}
    if truth is not None:
        assert vicinity is not None
        ranked = {**_sides(scores)[0], "nearness": -np.abs(vicinity.distance)}
        precision["the known pairs"] = precision_recall(truth, ranked, design.pairs.first)
    if vicinity is not None and controls is not None:
        precision |= promoter_precision(vicinity.distance, *_sides(scores))
    return SilencingResult(
        design.candidates,
        options,
        way,
        table,
        (ALL, *groups.names),
        left_out,
        compared,
        precision,
        score(0, "permuted")[1],
        *left_out_genes,
        step_length(cells.placed, pushes, step),
    )


def _sides(scores: Mapping[Any, tuple[Any, Any]]) -> tuple[dict[str, DoubleArray], dict[str, DoubleArray]]:
    """Scores of the pairs, and of the controls."""
    return {name: at for name, (at, _) in scores.items()}, {name: at for name, (_, at) in scores.items()}


def _measured_in_both(cells: SilencedCells, fewest: int, *, logged: bool) -> tuple[CSR, CSR, IntArray] | None:
    """Values of genes and of peaks in the cells that have both, and which these are; None if too few."""
    if cells.atac not in cells.query.aligned or not {cells.rna, cells.atac} <= set(cells.saved.readouts):
        return None
    (x, gene_row), (y, peak_row) = (cells.measured(name, logged=logged) for name in (cells.rna, cells.atac))
    both = np.flatnonzero((gene_row >= 0) & (peak_row >= 0))
    return None if len(both) < fewest else (x[gene_row[both]], y[peak_row[both]], both)


def _metacells(cells: SilencedCells, design: _Design, seed: int, tell: Tell) -> dict[str, MetacellScores]:
    """Score pairs and controls over metacells; nothing where too few cells were measured in both."""
    controls = design.controls
    measured = None if controls is None else _measured_in_both(cells, FEWEST_CELLS, logged=False)
    if controls is None or measured is None:
        return {}
    x, y, both = measured
    tell.say(f"correlating over metacells of {len(both):,} cells measured in both")
    scored = {}
    for name, pairs in (("pairs", design.pairs), ("controls", controls)):
        moved = FeaturePairs(design.columns[pairs.first], pairs.second, home=design.panel.chrom)
        scored[name] = score_pairs(x, y, moved, design.home, seed=seed)
    return scored


def with_columns(
    table: pd.DataFrame,
    names: tuple[np.ndarray, np.ndarray],
    metacells: MetacellScores | None,
    score: DoubleArray,
) -> pd.DataFrame:
    """Add what metacells say of pairs over all cells, and the score by which these are then sorted.

    `names`: genes and peaks of the pairs, `(n_pairs,)` each.
    """
    columns = {"score": score}
    if metacells is not None:
        columns = {
            "metacell_correlation": metacells.correlation,
            "z_metacells": metacells.z,
            "p_metacells": metacells.p,
            "fdr_metacells": false_discovery_rate(metacells.p),
            **columns,
        }
    whole = (table["group"] == ALL).to_numpy() if "group" in table else np.ones(len(table), bool)
    index = pd.MultiIndex.from_arrays(names)
    row = index.get_indexer(pd.MultiIndex.from_frame(table.loc[whole].iloc[:, :2]))
    table = table.copy()
    for name, values in columns.items():
        table[name] = np.nan
        table.loc[whole, name] = values[row]
    order = np.argsort(-np.nan_to_num(score[row], nan=-np.inf), kind="stable")
    return pd.concat([table[whole].iloc[order], table[~whole]], ignore_index=True)


def _peak_sets(
    cells: SilencedCells, options: Gene2PeakOptions, design: _Design, warn: Callable[[str], None]
) -> list[PeakSet]:
    if options.peak_sets is None:
        return []
    sets = read_peak_sets(options.peak_sets, cells.peaks, warn)
    unit_of = {cells.genes.names[j]: int(k) for j, k in zip(design.columns, design.unit_of, strict=True)}
    return match_sets(sets, unit_of, design.units, design.panel, design.rng, warn)


def _permuted(design: _Design, *, together: bool) -> tuple[IntArray, IntArray]:
    """Every pair with the gene exchanged for another one, of another chromosome and alike."""
    none = np.zeros(0, np.int64)
    if design.candidates.vicinity is None or len(design.columns) < 2 or together:
        return none, none
    unit = design.rng.permutation(len(design.columns))[design.pairs.first]
    home = np.array([h[0] for h in design.units.homes])[unit]
    far = home != design.panel.chrom[design.pairs.second]
    return unit[far].astype(np.int64), design.pairs.second[far]


def _correlations(
    cells: SilencedCells, design: _Design
) -> tuple[dict[str, dict[int, DoubleArray]], dict[str, DoubleArray]]:
    """Spearman's and Pearson's correlation of measured values, by group; and of the controls."""
    names, controls = design.groups.names, design.controls
    measured_cells = _measured_in_both(cells, FEWEST_BOTH, logged=True)
    if measured_cells is None:
        return {}, {}
    x, y, both = measured_cells[0].tocsc(), measured_cells[1].tocsr(), measured_cells[2]

    def measured(columns: IntArray) -> np.ndarray:
        return densify(x[:, design.columns[columns]])

    label = np.array([*names, None], dtype=object)[design.groups.codes[both]] if names else None
    sets = relate(y, measured, design.pairs, groups=label, n_permutations=0, n_matched=0).sets
    where = {ALL: 0, **{name: k + 1 for k, name in enumerate(names)}}
    by_group = {
        "spearman": {where[one.group]: one.spearman for one in sets},
        "pearson": {where[one.group]: one.correlation for one in sets},
    }
    if controls is None or not len(controls.first):
        return by_group, {}
    one = relate(y, measured, controls, n_permutations=0, n_matched=0).sets[0]
    return by_group, {"spearman": one.spearman, "pearson": one.correlation}


def _table(
    cells: SilencedCells,
    design: _Design,
    silenced: Silenced,
    span: slice,
    score: Callable[[int, str], tuple[DoubleArray, DoubleArray]],
    correlations: dict[str, dict[int, DoubleArray]],
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    vicinity, pairs, unit = design.candidates.vicinity, design.pairs, design.unit_of[design.pairs.first]
    genes = np.asarray(design.candidates.first.names, dtype=object)
    peaks = np.asarray(cells.peaks.names, dtype=object)
    parts, left_out = [], []
    for g, group in enumerate((ALL, *design.groups.names)):
        delta, relative = silenced.delta[g, span], silenced.relative(g)[span]
        if g and not np.isfinite(delta).any():
            left_out.append(group)
            continue
        z, p = score(g, "pairs")
        keep = np.isfinite(delta)
        fdr = false_discovery_rate(p)
        if vicinity is None:
            strength = np.where(keep, np.abs(z), -1.0).reshape(len(design.columns), -1)
            top = np.argsort(-strength, axis=1, kind="stable")[:, :TOP]
            chosen = np.zeros(strength.shape, bool)
            np.put_along_axis(chosen, top, values=True, axis=1)
            keep &= chosen.ravel()
        order = np.flatnonzero(keep)
        order = order[np.lexsort((-np.abs(np.nan_to_num(z[order])), np.nan_to_num(p[order], nan=2.0)))]
        second = pairs.second[order]
        columns: dict[str, object] = {"gene": genes[pairs.first[order]], "peak": peaks[second]}
        if vicinity is not None:
            columns |= {c: vicinity.places[c].to_numpy()[second] for c in ("chrom", "start", "end")}
            columns["distance_to_tss"] = vicinity.distance[order]
        columns |= {
            "group": np.full(len(order), group, dtype=object),
            "n_cells": silenced.n_cells[g, unit[order]],
            "delta": delta[order],
            "change": relative[order],
            "z": z[order],
            "p": p[order],
            "fdr": fdr[order],
        }
        for name, by_group in correlations.items():
            columns[name] = by_group[g][order] if g in by_group else np.full(len(order), np.nan)
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True), tuple(left_out)
