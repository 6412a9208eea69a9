"""`mocli gene2peak` by silencing genes in a model: what is asked, done and put into a table."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mocli.data.batches import densify
from mocli.data.genome.genes import read_genes
from mocli.errors import InputError
from mocli.metrics.null import false_discovery_rate
from mocli.tasks.gene2peak.changes import Original, Step, Way
from mocli.tasks.gene2peak.null import PeakPanel
from mocli.tasks.gene2peak.peaksets import Closing, compare_sets, match_sets, pairs_of, read_peak_sets
from mocli.tasks.gene2peak.truth import precision_recall, promoter_precision, read_truth
from mocli.tasks.gene2peak.units import Silenced, Units, choose_units, silence
from mocli.tasks.relate.candidates import choose_genes, find_candidates
from mocli.tasks.relate.correlate import Pairs, relate
from mocli.tasks.relate.promoters import promoter_controls
from mocli.tasks.relate.scope import ALL

if TYPE_CHECKING:
    from pathlib import Path

    from mocli.tasks.gene2peak.cells import Cells
    from mocli.tasks.relate.candidates import Candidates
    from mocli.tasks.run.run import Run
    from mocli.types import DoubleArray, IntArray

TOP = 20
"""Peaks of every gene that are kept where none is nearer than others."""
FEWEST_BOTH = 20


@dataclass(frozen=True)
class SilencingOptions:
    """What is asked beside cells and genes.

    Attributes
    ----------
    raised
        Whether genes are raised instead.
    together
        Whether all genes fall silent at once.
    min_cells
        Cells that must express a gene, in all and in a group.
    """

    way: Way
    step: Step
    raised: bool
    together: bool
    min_cells: int
    alternative: str
    genes: tuple[str, ...]
    gtf: Path | None
    window: int | None
    group_key: str | None
    peak_sets: Path | None
    truth: Path | None


@dataclass(frozen=True, eq=False)
class Found:
    """What silencing found.

    Attributes
    ----------
    table
        One line a gene, a peak and a group of cells.
    peak_sets
        One line a set of peaks and a group; None where none was asked for.
    precision
        How well known pairs are found, score by score; and which pairs these are.
    permuted
        p of genes at the peaks around other genes, over all cells: uniform if the null is right.
    too_few, absent
        Genes that are expressed in too few cells; those that the model knows and the input lacks.
    """

    candidates: Candidates
    options: SilencingOptions
    table: pd.DataFrame
    groups: tuple[str, ...]
    left_out: tuple[str, ...]
    peak_sets: pd.DataFrame | None
    precision: dict[str, list[dict[str, object]]]
    permuted: DoubleArray
    too_few: tuple[str, ...]
    absent: tuple[str, ...]
    n_compared: int
    length: float


def silence_genes(run: Run, cells: Cells, asked: SilencingOptions, *, seed: int) -> Found:
    """Silence genes, and hold what changes at peaks against what chance gives.

    Raises
    ------
    InputError
        No gene asked for is expressed in enough cells; a file that does not fit.
    UsageError
        A window around genes where peaks have no places.
    """
    expressed = _expressed(cells)
    columns = choose_genes(cells.genes, asked.genes, warn=run.warn)
    lacking = cells.absent[columns]
    enough = (expressed[0][columns] >= asked.min_cells) & ~lacking
    absent = tuple(cells.genes.names[j] for j in columns[lacking])
    too_few = tuple(cells.genes.names[j] for j in columns[~enough & ~lacking])
    if not enough.any():
        raise InputError(
            f"no gene asked for is expressed in {asked.min_cells:,} cells",
            field="--genes",
            found=", ".join(
                f"{cells.genes.names[j]}: "
                + ("not in the input" if cells.absent[j] else f"{expressed[0][j]:,} cells")
                for j in columns[:5]
            ),
            hint="what few cells say is noise; --min-cells N takes less",
        )
    if absent:
        run.warn(
            f"{len(absent):,} genes that the model knows are not in the input and left out: "
            + ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        )  # fmt: skip
    if len(too_few):
        run.warn(
            f"{len(too_few):,} genes are expressed in fewer than {asked.min_cells:,} cells and left out: "
            + ", ".join(too_few[:5]) + (", ..." if len(too_few) > 5 else "")
        )  # fmt: skip
    columns = columns[enough]
    candidates = find_candidates(
        cells.genes, cells.peaks, columns, gtf=asked.gtf, window=asked.window, top=TOP, say=run.say,
        warn=run.warn,
    )  # fmt: skip
    return _Work(run, cells, asked, seed, columns, candidates, expressed, too_few, absent).run_all()


def _expressed(cells: Cells) -> tuple[IntArray, DoubleArray]:
    """Cells that express every gene, and its mean count in them, `(n_genes,)` each; 0 where not measured."""
    n = np.asarray((cells.counts > 0).sum(axis=0), dtype=np.int64).ravel()
    total = np.asarray(cells.counts.sum(axis=0), dtype=np.float64).ravel()
    # what stands for a gene that the input lacks is no expression
    n[cells.absent] = total[cells.absent] = 0
    return n, total / np.maximum(n, 1)


class _Work:
    """One run, from pairs to the table."""

    def __init__(
        self,
        run: Run,
        cells: Cells,
        asked: SilencingOptions,
        seed: int,
        columns: IntArray,
        candidates: Candidates,
        expressed: tuple[IntArray, DoubleArray],
        too_few: tuple[str, ...],
        absent: tuple[str, ...],
    ) -> None:
        self.run, self.cells, self.asked, self.seed = run, cells, asked, seed
        self.columns, self.candidates, self.too_few, self.absent = columns, candidates, too_few, absent
        self.rng = np.random.default_rng(seed)
        self.codes, self.names = cells.groups(asked.group_key)
        near = candidates.vicinity
        home, nearest, chrom = self._homes()
        self.units: Units = choose_units(
            columns, *expressed, home, together=asked.together, min_cells=asked.min_cells, rng=self.rng
        )
        # the unit of every gene asked for
        self.unit_of = np.zeros(len(columns), np.int64) if asked.together else np.arange(len(columns))
        everyone = np.flatnonzero(np.diff(cells.counts.indptr) > 0)
        self.original = Original(cells.placed, cells.atac, everyone)
        self.panel = PeakPanel.draw(self.original.mean(everyone), nearest, chrom, self.rng)
        if near is not None:
            self.pairs = Pairs(near.gene, near.peak, home=near.chrom_code)
        else:
            n = len(cells.peaks.names)
            first, second = np.divmod(np.arange(len(columns) * n, dtype=np.int64), n)
            self.pairs = Pairs(first, second)

    def _homes(self) -> tuple[IntArray, IntArray | None, IntArray]:
        """Chromosomes of genes and of peaks as numbers, and the distance of peaks to the nearest TSS."""
        near, n_genes, n_peaks = (
            self.candidates.vicinity,
            len(self.cells.genes.names),
            len(self.cells.peaks.names),
        )
        if near is None or self.asked.gtf is None:
            return np.full(n_genes, -2, np.int64), None, np.full(n_peaks, -1, np.int64)
        table = read_genes(self.asked.gtf).frame
        chroms = sorted(set(near.places["chrom"].dropna()) | set(table["chrom"]))
        number = {c: k for k, c in enumerate(chroms)}
        chrom = np.array([number.get(c, -1) for c in near.places["chrom"]], dtype=np.int64)
        by_name = {n.casefold(): number[c] for n, c in zip(table["gene"], table["chrom"], strict=True)}
        by_id = {n.casefold(): number[c] for n, c in zip(table["gene_id"], table["chrom"], strict=True) if n}
        known = by_name | by_id
        home = np.array([known.get(str(n).casefold(), -2) for n in self.cells.genes.names], dtype=np.int64)
        home[self.columns[near.gene]] = chrom[near.peak]  # found by an alias
        nearest = np.full(n_peaks, np.iinfo(np.int64).max // 4)
        middle = ((near.places["start"] + near.places["end"]) // 2).to_numpy()
        for c, k in number.items():
            tss = np.sort(table["tss"].to_numpy()[(table["chrom"] == c).to_numpy()])
            mine = np.flatnonzero(chrom == k)
            if len(tss) and len(mine):
                at = np.searchsorted(tss, middle[mine])
                left = np.abs(middle[mine] - tss[np.maximum(at - 1, 0)])
                right = np.abs(tss[np.minimum(at, len(tss) - 1)] - middle[mine])
                nearest[mine] = np.minimum(left, right)
        return home, nearest, chrom

    def run_all(self) -> Found:
        """Silence, compare, lay out."""
        run, cells, asked = self.run, self.cells, self.asked
        near = self.candidates.vicinity
        truth = read_truth(asked.truth, near) if asked.truth is not None and near is not None else None
        sets = self._sets()
        controls = None if near is None else promoter_controls(near, seed=self.seed)
        permuted = self._permuted()
        stretches = [
            (self.unit_of[self.pairs.first], self.pairs.second),
            permuted,
            (np.zeros(0, np.int64),) * 2
            if controls is None
            else (self.unit_of[controls.first], controls.second),
            pairs_of(sets),
        ]
        ends = np.cumsum([0, *(len(unit) for unit, _ in stretches)])
        spans = [slice(int(a), int(b)) for a, b in pairwise(ends)]
        closing = Closing(sets, self.codes, len(self.names))
        n_more = len(self.units.columns) - self.units.n_asked
        run.say(
            f"{'raising' if asked.raised else 'silencing'} "
            f"{'a set of ' if asked.together else ''}{len(self.columns):,} genes, and {n_more:,} "
            "expressed alike to compare them with"
        )
        silenced = silence(
            cells.placed,
            self.units,
            cells.counts,
            self.panel,
            self.original,
            rna=cells.rna,
            atac=cells.atac,
            pairs=(np.concatenate([u for u, _ in stretches]), np.concatenate([p for _, p in stretches])),
            groups=self.codes,
            n_groups=len(self.names),
            min_cells=asked.min_cells,
            way=asked.way,
            step=asked.step,
            raised=asked.raised,
            say=run.say,
            look=closing.look if sets else None,
        )
        correlations, at_controls = self._correlations(controls)
        table, left_out = self._table(silenced, spans[0], correlations)
        _, p = self._score(silenced, 0, permuted, spans[1])
        compared = None
        if asked.peak_sets is not None:
            compared = compare_sets(sets, silenced, spans[3], closing, (ALL, *self.names))
        precision = {}
        change = self._signed(silenced.relative(0))
        if truth is not None:
            assert near is not None
            precision["the known pairs"] = precision_recall(
                truth, {
                    "silencing": change[spans[0]], "silencing, by size": np.abs(change[spans[0]]),
                    **{k: v[0] for k, v in correlations.items()}, "nearness": -np.abs(near.distance),
                }, self.pairs.first,
            )  # fmt: skip
        if near is not None and controls is not None:
            precision |= promoter_precision(
                near.distance, change[spans[0]], change[spans[2]], correlations, at_controls
            )
        return Found(
            self.candidates, asked, table, (ALL, *self.names), left_out, compared, precision, p,
            self.too_few, self.absent, n_more, silenced.length,
        )  # fmt: skip

    def _signed(self, relative: DoubleArray) -> DoubleArray:
        """Large where the peak goes with the gene."""
        return relative if self.asked.raised else -relative

    def _sets(self) -> list:  # type: ignore[type-arg]
        if self.asked.peak_sets is None:
            return []
        sets = read_peak_sets(self.asked.peak_sets, self.cells.peaks, self.run.warn)
        unit_of = {self.cells.genes.names[j]: int(k) for j, k in zip(self.columns, self.unit_of, strict=True)}
        return match_sets(sets, unit_of, self.units, self.panel, self.rng, self.run.warn)

    def _permuted(self) -> tuple[IntArray, IntArray]:
        """Every pair with the gene exchanged for another one, of another chromosome and alike."""
        none = np.zeros(0, np.int64)
        if self.candidates.vicinity is None or len(self.columns) < 2 or self.asked.together:
            return none, none
        unit = self.rng.permutation(len(self.columns))[self.pairs.first]
        home = np.array([h[0] for h in self.units.homes])[unit]
        far = home != self.panel.chrom[self.pairs.second]
        return unit[far].astype(np.int64), self.pairs.second[far]

    def _score(
        self, silenced: Silenced, group: int, pairs: tuple[IntArray, IntArray], span: slice
    ) -> tuple[DoubleArray, DoubleArray]:
        null = silenced.null(group, self.panel, self.units)
        return null.score(*pairs, silenced.relative(group)[span], self.asked.alternative)

    def _correlations(
        self, controls: Pairs | None
    ) -> tuple[dict[str, dict[int, DoubleArray]], dict[str, DoubleArray]]:
        """Spearman's and Pearson's correlation of measured values, by group; and of the controls."""
        cells = self.cells
        found: dict[str, dict[int, DoubleArray]] = {"spearman": {}, "pearson": {}}
        aligned = cells.query.aligned
        if (
            cells.atac not in aligned
            or cells.rna not in cells.saved.readouts
            or cells.atac not in cells.saved.readouts
        ):
            return {}, {}
        (x, gene_row), (y, peak_row) = cells.measured(cells.rna), cells.measured(cells.atac)
        both = np.flatnonzero((gene_row >= 0) & (peak_row >= 0))
        if len(both) < FEWEST_BOTH:
            return {}, {}
        x, y = x[gene_row[both]].tocsc(), y[peak_row[both]].tocsr()

        def measured(columns: IntArray) -> np.ndarray:
            return densify(x[:, self.columns[columns]])

        label = None
        if self.names:
            text = np.array([*self.names, None], dtype=object)
            label = text[self.codes[both]]
        sets = relate(y, measured, self.pairs, groups=label, n_permutations=0, n_matched=0).sets
        where = {ALL: 0, **{name: k + 1 for k, name in enumerate(self.names)}}
        for one in sets:
            found["spearman"][where[one.group]] = one.spearman
            found["pearson"][where[one.group]] = one.correlation
        at_controls = {}
        if controls is not None and len(controls.first):
            one = relate(y, measured, controls, n_permutations=0, n_matched=0).sets[0]
            at_controls = {"spearman": one.spearman, "pearson": one.correlation}
        return found, at_controls

    def _table(
        self, silenced: Silenced, span: slice, correlations: dict[str, dict[int, DoubleArray]]
    ) -> tuple[pd.DataFrame, tuple[str, ...]]:
        near, unit = self.candidates.vicinity, self.unit_of[self.pairs.first]
        genes = np.asarray(self.candidates.first.names, dtype=object)
        peaks = np.asarray(self.cells.peaks.names, dtype=object)
        parts, left_out = [], []
        for g, group in enumerate((ALL, *self.names)):
            delta, relative = silenced.delta[g, span], silenced.relative(g)[span]
            if g and not np.isfinite(delta).any():
                left_out.append(group)
                continue
            z, p = self._score(silenced, g, (unit, self.pairs.second), span)
            keep = np.isfinite(delta)
            fdr = false_discovery_rate(p)
            if near is None:
                strength = np.where(keep, np.abs(z), -1.0).reshape(len(self.columns), -1)
                top = np.argsort(-strength, axis=1, kind="stable")[:, :TOP]
                chosen = np.zeros(strength.shape, bool)
                np.put_along_axis(chosen, top, values=True, axis=1)
                keep &= chosen.ravel()
            at = np.flatnonzero(keep)
            at = at[np.lexsort((-np.abs(np.nan_to_num(z[at])), np.nan_to_num(p[at], nan=2.0)))]
            columns: dict[str, object] = {
                "gene": genes[self.pairs.first[at]],
                "peak": peaks[self.pairs.second[at]],
            }
            if near is not None:
                second = self.pairs.second[at]
                columns |= {c: near.places[c].to_numpy()[second] for c in ("chrom", "start", "end")}
                columns["distance_to_tss"] = near.distance[at]
            columns |= {
                "group": np.full(len(at), group, dtype=object),
                "n_cells": silenced.n_cells[g, unit[at]],
                "delta": delta[at],
                "change": relative[at],
                "z": z[at],
                "p": p[at],
                "fdr": fdr[at],
            }
            for name, by_group in correlations.items():
                columns[name] = by_group[g][at] if g in by_group else np.full(len(at), np.nan)
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True), tuple(left_out)
