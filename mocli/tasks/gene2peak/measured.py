"""`mocli gene2peak --method metacells`: genes and peaks measured in the same cells, without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mocli.data.batches import densify
from mocli.data.features.index import features_of
from mocli.data.files.contents import choose_layer
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import find_column
from mocli.data.transforms.transform import median_total, row_sums, scale_rows
from mocli.errors import InputError, MocliError, UsageError
from mocli.metrics.correlation import false_discovery_rate
from mocli.report.figures import column_table, figure
from mocli.tasks.gene2peak.cells import choose_modalities
from mocli.tasks.gene2peak.options import Gene2PeakOptions
from mocli.tasks.gene2peak.report import (
    MATCHED,
    conclude,
    draw_tracks,
    hold_against,
    mean_by_group,
    precision_tables,
)
from mocli.tasks.gene2peak.truth import precision_recall, promoter_precision, read_truth
from mocli.tasks.infer.translation import shared_cells
from mocli.tasks.prepare.footprint import LIBRARIES, Footprint, tell_memory
from mocli.tasks.prepare.pairing import relate_files
from mocli.tasks.relate.correlate import genomic_pairs, relate
from mocli.tasks.relate.metacells import BLOCK, FEWEST_CELLS, N_METACELLS, score_pairs
from mocli.tasks.relate.promoters import promoter_controls
from mocli.tasks.relate.relate import Candidates, choose_genes, find_candidates
from mocli.tasks.relate.report import SHOWN, over_all, share_passing, tell_left_out, write_pairs
from mocli.tasks.relate.scope import ALL, FeaturePairs
from mocli.tasks.run.frame import Tell, progress
from mocli.tasks.run.request import Request
from mocli.tasks.run.run import Run
from mocli.tasks.trained.record import record_files
from mocli.types import CSR, DoubleArray, IntArray, Pairing, StrArray

FDR = 0.1
COPIES = 3
"""Of averages over metacells, while they are standardised."""


@dataclass(frozen=True, eq=False)
class MeasuredCells:
    """Cells in which genes and peaks were measured.

    Attributes:
        genes, peaks: Values at one depth, not logged, `(n, n_genes)` and `(n, n_peaks)`.
        group: Label of each cell, None without groups.
    """

    genes: CSR
    peaks: CSR
    candidates: Candidates
    group: StrArray | None
    files: tuple[ModalityFile, ...]


def take_measured(
    request: Request, options: Gene2PeakOptions, files: Sequence[ModalityFile], tell: Tell
) -> MeasuredCells:
    """Choose genes and the peaks near them, and read the cells that have both.

    Raises:
        UsageError: No gene table, or modalities that do not fit.
        InputError: Fewer than 100 cells have both measured.
    """
    rna, atac = choose_modalities({f.name: f.kind for f in files}, options.source, options.target)
    by_name = {f.name: f for f in files}
    if options.gtf is None:
        raise UsageError(
            "peaks are tested around transcription start sites, which are read from a gene table",
            field="--gtf",
            hint="give --gtf FILE: GTF, GFF3, BED, or a table with chrom, start, end, strand, gene",
        )
    genes, peaks = features_of([by_name[rna], by_name[atac]], var_key=request.data.var_key)
    columns = choose_genes(genes, options.genes, warn=tell.warn)
    candidates = find_candidates(
        genes, peaks, columns, gtf=options.gtf, window=options.window, top=0, tell=tell
    )
    rows = _measured_in_both(request, files, rna, atac)
    if len(rows) < FEWEST_CELLS:
        raise InputError(
            "--method metacells needs cells in which genes and peaks were measured",
            found=f"{len(rows):,} such cells",
            expected=f"at least {FEWEST_CELLS}",
            hint="--method correlation imputes expression where cells were measured apart",
        )
    group = None
    if options.group_key is not None:
        column = find_column(files, options.group_key, option="--group-key")
        labels = column[rna] if column[rna] is not None else column[atac]
        assert labels is not None
        side = 0 if column[rna] is not None else 1
        group = labels.astype(object).to_numpy()[rows[:, side]]
    x = at_one_depth(by_name[rna], request.data.layer, rows[:, 0])
    y = at_one_depth(by_name[atac], request.data.layer, rows[:, 1])
    tell.say(f"{len(rows):,} cells with {rna} and {atac} measured")
    return MeasuredCells(x, y, candidates, group, (by_name[rna], by_name[atac]))


def by_default(
    request: Request, options: Gene2PeakOptions, opened: Callable[[], Sequence[ModalityFile]]
) -> bool:
    """Whether pairs are scored over metacells though no method was named.

    They are where genes and peaks were measured in the same cells and nothing given speaks of a model: one
    takes 250 times as long on SNARE-seq, and what it adds was seen on the demo alone.
    """
    wants_model = (
        options.from_model is not None or request.train.given() or set(options.of_silencing) - {"--truth"}
    )
    if options.method != "auto" or wants_model or options.gtf is None:
        return False
    try:
        files = opened()
        rna, atac = choose_modalities({f.name: f.kind for f in files}, options.source, options.target)
        return len(_measured_in_both(request, files, rna, atac)) >= FEWEST_CELLS
    except MocliError:
        return False  # the run says so, with the field that it names


def _measured_in_both(request: Request, files: Sequence[ModalityFile], rna: str, atac: str) -> IntArray:
    """Return rows of the cells with both measured, `(n, 2)`; none where cells are not told to be the same."""
    by_name = {f.name: f for f in files}
    relation = relate_files(files, request.data.pairing)
    rows = shared_cells(files, relation, request.data.pair_key, by_name[rna], by_name[atac])
    return rows[:0] if relation.pairing is Pairing.UNPAIRED and request.data.pair_key is None else rows


def foretold(cells: MeasuredCells) -> Footprint:
    """Estimate what correlating over metacells will need: averages of the genes and peaks of a block."""
    vicinity = cells.candidates.vicinity
    assert vicinity is not None
    n_genes, n_peaks = (len(np.unique(feature)) for feature in (vicinity.gene, vicinity.peak))
    at_once = min(1.0, BLOCK / max(1, n_genes))
    n_metacells = min(cells.genes.shape[0], N_METACELLS)
    averages = 4.0 * n_metacells * at_once * (n_genes + n_peaks)
    stored = 8.0 * (cells.genes.nnz + cells.peaks.nnz)
    # as they are, and as logs by row and by column
    return Footprint(int(LIBRARIES + 3 * stored), {"genes and peaks are correlated": int(COPIES * averages)})


def at_one_depth(file: ModalityFile, layers: Mapping[str, str], rows: IntArray) -> CSR:
    """Return values of some cells scaled to their median total."""
    layer = choose_layer(file, layers.get(file.name), wants_counts=False)
    x = file.read(layer.layer, rows=rows)
    totals = row_sums(x.data, x.indptr)
    scale_rows(x, np.divide(median_total(x), totals, out=np.ones_like(totals), where=totals > 0))
    return x


def relate_measured(
    run: Run, request: Request, options: Gene2PeakOptions, files: Sequence[ModalityFile]
) -> None:
    """Correlate genes and peaks over metacells, compare with backgrounds, and write the table."""
    with run.timed("load"):
        cells = take_measured(request, options, files, run)
        record_files(run, cells.files)
        tell_memory(run, foretold(cells))
    vicinity, seed = cells.candidates.vicinity, request.run.seed
    assert vicinity is not None
    columns, home = cells.candidates.columns, vicinity.chrom_code
    pairs, controls = (
        FeaturePairs(columns[p.first], p.second, home=home)
        for p in (genomic_pairs(vicinity), promoter_controls(vicinity, seed=seed))
    )
    gene_home = np.full(cells.genes.shape[1], -1, dtype=np.int64)
    gene_home[pairs.first] = home[pairs.second]
    groups: list[tuple[str, IntArray]] = [(ALL, np.arange(cells.genes.shape[0]))]
    if cells.group is not None:
        text = pd.Series(cells.group).map(str, na_action="ignore")
        groups += [(k, np.flatnonzero((text == k).to_numpy())) for k in sorted(text.dropna().unique())]
    parts, left_out = [], []
    precision: dict[str, list[dict[str, object]]] = {}
    with run.timed("relate"):
        for name, rows in groups:
            if len(rows) < FEWEST_CELLS:
                left_out.append(name)
                continue
            x, y = cells.genes[rows], cells.peaks[rows]
            tell = progress(run.say, "correlating over metacells", "genes")
            scores = score_pairs(x, y, pairs, gene_home, seed=seed, progress=tell)
            simple = _single_cells(x, y, pairs, seed=seed)
            order = np.argsort(-np.nan_to_num(scores.z, nan=-np.inf), kind="stable")
            values = {
                "gene": np.asarray(vicinity.genes, dtype=object)[vicinity.gene],
                "peak": np.asarray(vicinity.peaks, dtype=object)[pairs.second],
                **{c: vicinity.places[c].to_numpy()[pairs.second] for c in ("chrom", "start", "end")},
                "distance_to_tss": vicinity.distance,
                "group": np.full(len(order), name, dtype=object),
                "n_cells": np.full(len(order), len(rows)),
                "metacell_correlation": scores.correlation,
                "z_gene": scores.z_gene,
                "z_peak": scores.z_peak,
                "score": scores.z,
                "p": scores.p,
                "fdr": false_discovery_rate(scores.p),
                "spearman": simple["spearman"],
                "pearson": simple["pearson"],
            }
            parts.append(pd.DataFrame(values).iloc[order])
            if name == ALL:
                at_controls = score_pairs(x, y, controls, gene_home, seed=seed)
                other = _single_cells(x, y, controls, seed=seed)
                precision = promoter_precision(
                    vicinity.distance,
                    {"metacells": scores.z, **simple},
                    {"metacells": at_controls.z, **other},
                )
                if options.truth is not None:
                    precision["the known pairs"] = precision_recall(
                        read_truth(options.truth, vicinity),
                        {"metacells": scores.z, **simple, "nearness": -np.abs(vicinity.distance)},
                        pairs.first,
                    )
    result = pd.concat(parts, ignore_index=True)
    tell_left_out(run, result, left_out, FEWEST_CELLS)
    _report(run, result, precision)
    with run.timed("write"):
        what = f"{len(over_all(result)):,} pairs of a gene and a peak, scored over metacells"
        write_pairs(run, result, what, vicinity, result["score"])
        openness = mean_by_group(cells.peaks, cells.group)
        run.finish(lambda: {"drawn": draw_tracks(vicinity, result, openness, link="score")})


def _single_cells(x: CSR, y: CSR, pairs: FeaturePairs, *, seed: int) -> dict[str, DoubleArray]:
    """Score pairs over single cells by simple ways, on log values; `report` describes them."""
    logged = [m.copy() for m in (x, y)]
    for m in logged:
        m.data = np.log1p(np.maximum(m.data, 0))
    by_column = logged[0].tocsc()
    correlations = relate(
        logged[1], lambda columns: densify(by_column[:, columns]), pairs, n_permutations=0, seed=seed
    ).sets[0]
    return {
        "spearman": correlations.spearman,
        "pearson": correlations.correlation,
        MATCHED: correlations.z_matched,
    }


def _report(run: Run, result: pd.DataFrame, precision: dict[str, list[dict[str, object]]]) -> None:
    tested = over_all(result)
    fdr = tested["fdr"].to_numpy(dtype=np.float64)
    run.report.metrics |= {
        "metacells_tested": figure(len(tested), "Pairs tested", "Pairs of a gene and a peak of its window."),
        "metacells_fdr10": share_passing(fdr, FDR, "genes and peaks of different chromosomes"),
    }
    hold_against(run, precision, ("metacells",))
    run.report.tables |= precision_tables(precision)
    run.report.tables["pairs"] = column_table(
        "Pairs of genes and peaks, the best first",
        "score is the mean of z_gene and z_peak: the correlation over metacells compared with the gene's "
        "correlations with equally open peaks of other chromosomes, and with the peak's correlations with "
        "genes of other chromosomes. p is its rank among such scores of genes and peaks on different "
        "chromosomes. spearman and pearson are over single cells, for comparison.",
        tested,
        most=SHOWN,
    )
    conclude(
        run, fdr, precision, "metacells", way="genes and peaks correlated over metacells, without a model"
    )
