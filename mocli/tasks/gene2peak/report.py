"""What a run says of silenced genes: figures, tables, pictures along the genome, files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mocli.data.write.tsv import write_tsv
from mocli.report.figures import Better, Entry, column_table, figure
from mocli.report.figures import table as rows_table
from mocli.report.html import Drawn
from mocli.tasks.gene2peak.changes import Step, Way
from mocli.tasks.gene2peak.options import Gene2PeakOptions
from mocli.tasks.gene2peak.truth import PROMOTERS
from mocli.tasks.gene2peak.work import SilencingResult
from mocli.tasks.relate.report import SHOWN, over_all, write_bedpe
from mocli.tasks.relate.scope import ALL
from mocli.tasks.run.run import Run

PICTURED = 12
"""Genes of which the report has a picture."""
PEAK_SETS = ".peaksets.tsv"
_FDR = 0.1

Precision = Mapping[str, Sequence[Mapping[str, object]]]
"""As `precision_recall` and `promoter_precision` give it, by which pairs are true."""

MATCHED = "matched"
_SIMPLE = {
    "spearman": ("Spearman correlation", "measured values of single cells, normalised by depth, ranked"),
    "pearson": ("Pearson correlation", "measured values of single cells, normalised by depth, logged"),
    MATCHED: (
        "Pearson, matched peaks",
        "Pearson correlation of single cells, less its mean with peaks of other chromosomes that are as "
        "open, over their deviation (as Signac does: Stuart et al. 2021)",
    ),
    "nearness": ("nearness", "the closer a peak lies to the transcription start site, the better"),
}

_WAYS = {
    Way.LATENT: "the gradient of the gene's likelihood at its new count, through the decoder",
    Way.INPUT: "cells encoded again with the gene's new count, and decoded",
}
_STEPS = {
    Step.ADAM: "one step of Adam, 0.01 in each dimension, with the authors' weight decay",
    Step.SIGN: "0.01 times the sign of the gradient in each dimension",
    Step.NORM: "along the gradient, 0.01 times the root of the number of dimensions",
}


def _done(options: Gene2PeakOptions) -> str:
    return "raised" if options.direction == "raise" else "silenced"


def route_words(options: Gene2PeakOptions, way: Way) -> str:
    """Say by which route the changes were found."""
    return f"{_WAYS[way]}; step: {_STEPS[Step(options.step)]}"


def hold_against(run: Run, precision: Precision, ours: Sequence[str]) -> None:
    """Put how well promoters, or known pairs, are found first into the report, beside the simple ways.

    Parameters
    ----------
    ours
        Scores that a run may have, the best first; the first that is there stands for it.
    """
    for name, rows in precision.items():
        by = {str(r["score"]): r["auprc"] for r in rows if isinstance(r["auprc"], float)}
        own = next((score for score in ours if score in by), None)
        if own is None:
            continue

        def entry(score: str, by: Mapping[str, float] = by, name: str = name) -> Any:
            return figure(
                by[score],
                f"Area under precision and recall, {name}",
                f"Pairs sorted by {score}; guessing gives {by.get('chance', 0.0):.3f}.",
                better="higher",
                bounds=(0.0, 1.0),
            )

        key = f"auprc[{name}]"
        run.report.metrics = {key: entry(own), **run.report.metrics}
        for score, title in _SIMPLE.items():
            if score in by:
                baseline = run.report.baselines.setdefault(
                    score, {"title": title[0], "definition": title[1], "metrics": {}}
                )
                baseline["metrics"][key] = entry(score)


def conclude(run: Run, n_passing: int, n_tested: int, precision: Precision, own: str) -> None:
    """Say how many pairs pass, and whether a score finds true pairs better than the simple ways."""
    said = f"{n_passing:,} of {n_tested:,} pairs pass 10 % FDR"
    for name, rows in precision.items():
        by = {str(r["score"]): r["auprc"] if isinstance(r["auprc"], float) else 0.0 for r in rows}
        simple = [score for score in _SIMPLE if score in by]
        if own not in by or not simple:
            continue
        best = max(simple, key=lambda score: by[score])
        verb = "better" if by[own] > by[best] else "no better"
        what = own if own == "metacells" else f"{own} scores"
        said += f"; {what} find {name} {verb} than {_SIMPLE[best][0]} (AUPRC {by[own]:.3f}, {by[best]:.3f})"
    run.say(said)
    run.report.conclude(said)


def precision_tables(precision: Precision) -> dict[str, Entry]:
    """Return a table of scores for each set of true pairs, by the table's key.

    Each gene has one promoter that is its own: only known pairs have a figure by gene.
    """
    tables = {}
    for name, rows in precision.items():
        columns = {"score": "score", "auprc": "AUPRC"}
        told = (
            "the gene's own peaks within 2,000 bases of its TSS against those of genes on other "
            "chromosomes, at the same distance from their TSS"
        )
        if name != PROMOTERS:
            columns |= {"auprc_by_gene": "AUPRC by gene", "n_genes": "genes"}
            told = "over all pairs, and the mean over genes"
        tables[f"precision_{name.replace(' ', '_')}"] = rows_table(
            f"How well {name} are found",
            f"Area under the precision-recall curve: {told}.",
            list(columns.values()),
            [[row[key] for key in columns] for row in rows],
        )
    return tables


def report_silencing(run: Run, found: SilencingResult) -> None:
    """Put figures, warnings and tables into the report and the log."""
    options, table = found.options, over_all(found.table)
    run.report.metrics |= _figures(found, table)
    run.say(f"route: {route_words(options, found.way)}; median length of a step {found.length:.3g}")
    for key, entry in run.report.metrics.items():
        if key.startswith("silencing_") and entry.get("value") is not None:
            run.say(f"  {key} {entry['value']:.4g}")
    if found.left_out:
        run.warn(
            f"no gene is expressed in {options.min_cells:,} cells of these groups: "
            + ", ".join(found.left_out)
        )
    top = table.head(SHOWN)
    shown = "all" if len(top) == len(table) else f"the first {len(top):,} of {len(table):,}"
    what = _done(options)
    run.report.tables["silencing"] = column_table(
        f"Genes {what} and the peaks that change ({shown})",
        f"Route: {route_words(options, found.way)}. By score, over all cells that express the gene. delta is "
        f"the sum over these cells of the decoded share of the peak, {what} less original; change is delta "
        "over the original; z holds it against peaks of other chromosomes that are as open and as near to a "
        "gene; spearman and pearson are of measured values, for comparison. score weighs the change and "
        "z_metacells, the correlation of measured values over metacells held against other genes and peaks, "
        "as promoters of other chromosomes suggest.",
        top,
    )  # fmt: skip
    if found.too_few:
        run.report.tables["genes_left_out"] = rows_table(
            f"Genes expressed in fewer than {options.min_cells:,} cells, left out",
            "What few cells say of a gene is noise.",
            ["gene"],
            [[name] for name in found.too_few[:SHOWN]],
        )
    if found.absent:
        run.report.tables["genes_absent"] = rows_table(
            "Genes that the model knows and the input lacks, left out",
            "They were not measured, which is not the same as not expressed.",
            ["gene"],
            [[name] for name in found.absent[:SHOWN]],
        )
    ours = ("combined", "metacells", "silencing")
    hold_against(run, found.precision, ours)
    scored = {str(row["score"]) for rows in found.precision.values() for row in rows}
    fdr = table["fdr"].to_numpy(dtype=np.float64)
    own = next((score for score in ours if score in scored), ours[-1])
    conclude(run, int((fdr[np.isfinite(fdr)] < _FDR).sum()), len(table), found.precision, own)
    run.report.tables |= precision_tables(found.precision)
    if found.peak_sets is not None:
        run.report.tables["peak_sets"] = column_table(
            "Sets of peaks when their factor changes",
            "change is the mean over the set's peaks, t and p compare it with that of random peaks as open "
            "and as near to genes (Welch). Peaks of one cell type move together, which t does not know: "
            "effect is the difference over the random peaks' spread, p_matched its rank among those of genes "
            "expressed alike, on the same peaks: strict, as others of the same cell types move these too.",
            found.peak_sets.table,
        )
    if found.peak_sets is not None and found.peak_sets.classes is not None:
        run.report.tables["peak_set_classes"] = column_table(
            "Classes of factors against each other",
            "Welch's two-sided t-test over factors (n each, not their cells): of the share of a cell's peaks "
            "that close, and of the effect beside random peaks, which knows what any peak does.",
            found.peak_sets.classes,
        )


def _figures(found: SilencingResult, table: pd.DataFrame) -> dict[str, Any]:
    def entry(
        value: float | None, title: str, text: str, better: Better | None = None, n: int | None = None
    ) -> Any:
        return figure(value, title, text, better=better, bounds=(0.0, None if n is None else 1.0), n=n)

    fdr = table["fdr"].to_numpy(dtype=np.float64)
    fdr = fdr[np.isfinite(fdr)]
    figures = {
        "silencing_tested": entry(len(table), "Pairs tested", "Pairs of a gene and a peak."),
        "silencing_genes": entry(table["gene"].nunique(), "Genes tested", "Genes in a tested pair."),
        "silencing_fdr10": entry(
            float((fdr < _FDR).mean()) if len(fdr) else None, "Pairs of FDR below 10%",
            "Share of the pairs tested; null: matched peaks of other chromosomes, matched genes.", n=len(fdr),
        ),
    }  # fmt: skip
    p = found.permuted[np.isfinite(found.permuted)]
    if len(p):
        figures["silencing_permuted_p5"] = entry(
            float((p <= 0.05).mean()), "Permuted genes with p up to 5%",
            "Share of pairs whose gene was exchanged for one of another chromosome; 0.05 if p is right.",
            n=len(p),
        )  # fmt: skip
    for name, rows in found.precision.items():
        for row in rows:
            key = f"silencing_auprc[{name}; {row['score']}]"
            value: Any = row["auprc"]
            figures[key] = entry(
                value, f"Area under precision and recall, {name}: {row['score']}",
                "All pairs together; the score 'chance' is the share of true pairs.", "higher", len(table),
            )  # fmt: skip
    return figures


def write_silencing(run: Run, found: SilencingResult, *, bedpe: Path | None, peak_sets: Path | None) -> None:
    """Write the table, arcs and peak sets."""
    write_tsv(run.paths.output, found.table)
    groups = len(found.groups) - 1
    within = f" and within {groups} groups" if groups else ""
    table = over_all(found.table)
    run.add_output(
        run.paths.output,
        f"{len(table):,} pairs of a gene and a peak, with what changes when the gene is "
        f"{_done(found.options)}, over all cells{within}",
        first=True,
    )
    if bedpe is not None:
        assert found.candidates.vicinity is not None
        score = 1 if found.options.direction == "raise" else -1
        write_bedpe(
            bedpe,
            table.assign(correlation=table.get("score", score * table["change"])),
            found.candidates.vicinity,
        )
        run.add_output(
            bedpe, "the same over all cells as arcs for genome browsers; the score rises with the link"
        )
    if peak_sets is not None and found.peak_sets is not None:
        write_tsv(peak_sets, found.peak_sets.table)
        run.add_output(peak_sets, "sets of peaks when their factor changes, against random peaks")


def draw_silencing(found: SilencingResult) -> list[Drawn]:
    """Return a picture a gene, along the genome; the genes of smallest p first."""
    from mocli.report import featureplots as pictures
    from mocli.report import html
    from mocli.report.featureplots import locus_plot

    near, table = found.candidates.vicinity, found.table
    if near is None or not len(table):
        return []
    sign = 1 if found.options.direction == "raise" else -1
    over = over_all(table)
    drawn = [
        html.Drawn(
            pictures.distance_plot(
                over["distance_to_tss"].to_numpy(), 100 * sign * over["change"].to_numpy(),
                label="link, % of the peak",
            ),
            "Change and distance",
            f"One point a pair, over all cells: {'rise' if sign > 0 else 'fall'} of the peak.",
        )
    ]  # fmt: skip
    names = np.asarray(near.genes, dtype=object)
    of_pair = names[near.gene]
    genes = list(dict.fromkeys(over["gene"]))
    for gene in genes[:PICTURED]:
        mine = table[(table["gene"] == gene).to_numpy()]
        first = mine[(mine["group"] == ALL).to_numpy()].sort_values("start")
        changes = {}
        for group, part in mine.groupby("group", sort=False):
            changes[str(group)] = part.set_index("peak")["change"].reindex(first["peak"]).to_numpy()
        largest = mine[mine["group"] != ALL].groupby("group")["n_cells"].first().sort_values(ascending=False)
        shown = {name: changes[name] for name in [ALL, *map(str, largest.index)]}
        tss = int(near.tss[np.flatnonzero(of_pair == gene)[0]])
        picture = locus_plot(
            first["start"].to_numpy(), first["end"].to_numpy(), tss, str(first["chrom"].iloc[0]), shown
        )
        best = first.loc[first["fdr"].fillna(2).idxmin()]
        drawn.append(
            html.Drawn(
                picture, f"{gene}",
                f"{len(first):,} peaks within reach; the smallest FDR is {best['fdr']:.2g}, of "
                f"{best['peak']} ({best['distance_to_tss'] / 1000:+.1f} kb). Groups by number of cells.",
            )
        )  # fmt: skip
    return drawn
