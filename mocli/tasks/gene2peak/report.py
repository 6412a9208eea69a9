"""What a run reports of silenced genes: figures, tables, pictures along the genome, files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mocli.data.features.loci import Vicinity
from mocli.data.write.outfile import write_tsv
from mocli.report.featureplots import MOST_GROUPS, Locus, distance_plot, locus_plot
from mocli.report.figures import Better, Entry, column_table, figure, plural, spoken
from mocli.report.figures import table as rows_table
from mocli.report.html import Drawn
from mocli.tasks.gene2peak.changes import Step, Way
from mocli.tasks.gene2peak.options import Gene2PeakOptions
from mocli.tasks.gene2peak.truth import CHANCE, PROMOTERS
from mocli.tasks.gene2peak.work import SilencingResult
from mocli.tasks.relate.report import SHOWN, over_all, share_passing, write_pairs
from mocli.tasks.relate.scope import ALL
from mocli.tasks.run.run import Run
from mocli.types import CSR, DoubleArray, IntArray, StrArray

AREAS = "silencing_auprc"
"""Figures of every score; a table shows them."""

_FDR = 0.1

Precision = Mapping[str, Sequence[Mapping[str, object]]]
"""As `precision_recall` and `promoter_precision` return it, keyed by what counts as a true pair."""

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
_GUESSING = ("guessing", "pairs in random order; the share of true pairs")
_NO_P = "gene or peak is constant in these cells, or too few of other chromosomes can be compared with"

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
    """Describe the route by which the changes were found."""
    return f"{_WAYS[way]}; step: {_STEPS[Step(options.step)]}"


def hold_against(run: Run, precision: Precision, ours: Sequence[str]) -> None:
    """Put how well promoters, or known pairs, are found first in the report, beside simple ways and chance.

    `ours`: scores that a run may have, the best first; the first that is there stands for it.
    """
    for name, rows in precision.items():
        by = {str(r["score"]): r["auprc"] for r in rows if isinstance(r["auprc"], float)}
        leading = next((score for score in ours if score in by), None)
        if leading is None:
            continue

        n_pairs = next((int(str(r["n_pairs"])) for r in rows), None)

        def entry(score: str, by: Mapping[str, float] = by, name: str = name, n: int | None = n_pairs) -> Any:
            return figure(
                by[score],
                f"Area under the precision-recall curve, {name}",
                f"Pairs sorted by {score}; guessing gives {by.get(CHANCE, 0.0):.3f}.",
                better="higher",
                bounds=(0.0, 1.0),
                n=n,
            )

        key = f"auprc[{name}]"
        run.report.metrics = {key: entry(leading), **run.report.metrics}
        for score, title in {**_SIMPLE, CHANCE: _GUESSING}.items():
            if score in by:
                baseline = run.report.baselines.setdefault(
                    score, {"title": title[0], "definition": title[1], "metrics": {}}
                )
                baseline["metrics"][key] = entry(score)


def conclude(run: Run, fdr: DoubleArray, precision: Precision, our_score: str, *, way: str) -> None:
    """Conclude how many pairs pass, and whether a score finds true pairs better than the simple ways.

    `fdr`: of all pairs tested, NaN where there is no p value; `way`: how pairs were scored, in words.
    """
    with_p = np.isfinite(fdr)
    sentence = f"{way}: {int((fdr[with_p] < _FDR).sum()):,} of {int(with_p.sum()):,} pairs pass 10 % FDR"
    if not with_p.all():
        n = int((~with_p).sum())
        sentence += f" ({n:,} more {'has' if n == 1 else 'have'} no p value: {_NO_P})"
    for name, rows in precision.items():
        by = {str(r["score"]): r["auprc"] if isinstance(r["auprc"], float) else 0.0 for r in rows}
        simple = [score for score in _SIMPLE if score in by]
        if our_score not in by or not simple:
            continue
        best = max(simple, key=lambda score: by[score])
        verb = "better" if by[our_score] > by[best] else "no better"
        what = our_score if our_score == "metacells" else f"{our_score} scores"
        sentence += (
            f"; {what} find {name} {verb} than {_SIMPLE[best][0]} (AUPRC {by[our_score]:.3f}, {by[best]:.3f})"
        )
        if max(by[our_score], by[best]) <= by.get(CHANCE, 0.0):
            sentence += f", and neither better than chance ({by[CHANCE]:.3f})"
    run.say(sentence)
    run.report.conclude(sentence)
    if not (fdr[with_p] < _FDR).any():
        run.report.advice = (
            "No pair stands out from chance, so that the order of the table is a hint at most. "
            "More cells would help, another threshold would not."
        )


def precision_tables(precision: Precision) -> dict[str, Entry]:
    """Return a table of scores for each set of true pairs, by the table's key.

    Each gene has one promoter that is its own: only known pairs have a figure by gene.
    """
    tables = {}
    for name, rows in precision.items():
        columns = {"score": "score", "auprc": "AUPRC"}
        what = (
            "the gene's own peaks within 2,000 bases of its TSS against those of genes on other "
            "chromosomes, at the same distance from their TSS"
        )
        if name != PROMOTERS:
            columns |= {"auprc_by_gene": "AUPRC by gene", "n_genes": "genes"}
            what = "over all pairs, and the mean over genes"
        tables[f"precision_{name.replace(' ', '_')}"] = rows_table(
            f"How well the scores find {name}",
            f"Area under the precision-recall curve: {what}.",
            list(columns.values()),
            [[row[key] for key in columns] for row in rows],
        )
    return tables


def report_silencing(run: Run, result: SilencingResult) -> None:
    """Put figures, warnings and tables into the report and the log."""
    options, table = result.options, over_all(result.table)
    run.report.metrics |= _figures(result, table)
    run.say(f"route: {route_words(options, result.way)}; median length of a step {result.length:.3g}")
    for key, entry in run.report.metrics.items():
        told = key.startswith("silencing_") and not key.startswith(AREAS)
        if told and entry.get("value") is not None:
            run.say(spoken(key, entry))
    if result.left_out:
        run.warn(
            f"no gene is expressed in {options.min_cells:,} cells of any of these groups: "
            + ", ".join(result.left_out)
        )
    what = _done(options)
    run.report.tables["silencing"] = column_table(
        f"Genes {what} and the peaks that change",
        f"Route: {route_words(options, result.way)}. By score, over all cells that express the gene. delta "
        f"is the sum over these cells of the decoded share of the peak, {what} less original; change is "
        "delta over the original; z compares it with peaks of other chromosomes that are as open and as near "
        "to a gene; spearman and pearson are of measured values, for comparison. score weighs the change and "
        "z_metacells, the correlation of measured values over metacells held against other genes and peaks, "
        "as promoters of other chromosomes suggest.",
        table,
        most=SHOWN,
    )
    if result.too_few:
        run.report.tables["genes_left_out"] = rows_table(
            f"Genes expressed in fewer than {options.min_cells:,} cells, left out",
            "Few cells give only a noisy estimate of a gene.",
            ["gene"],
            [[name] for name in result.too_few[:SHOWN]],
        )
    if result.absent:
        run.report.tables["genes_absent"] = rows_table(
            "Genes that the model knows and the input lacks, left out",
            "They were not measured, which is not the same as not expressed.",
            ["gene"],
            [[name] for name in result.absent[:SHOWN]],
        )
    ours = ("combined", "metacells", "silencing")
    hold_against(run, result.precision, ours)
    scored = {str(row["score"]) for rows in result.precision.values() for row in rows}
    fdr = table["fdr"].to_numpy(dtype=np.float64)
    leading = next((score for score in ours if score in scored), ours[-1])
    both = ", weighed together with correlation over metacells" if leading == "combined" else ""
    conclude(run, fdr, result.precision, leading, way=f"genes {what} in a model{both}")
    run.report.tables |= precision_tables(result.precision)
    if result.peak_sets is not None:
        run.report.tables["peak_sets"] = column_table(
            "Sets of peaks when their factor changes",
            "change is the mean over the set's peaks, t and p compare it with that of random peaks as open "
            "and as near to genes (Welch). Peaks of one cell type move together, which t ignores: effect "
            "is the difference over the random peaks' spread, p_matched its rank among those of genes "
            "expressed alike, on the same peaks: strict, as others of the same cell types move these too.",
            result.peak_sets.table,
        )
    if result.peak_sets is not None and result.peak_sets.classes is not None:
        run.report.tables["peak_set_classes"] = column_table(
            "Classes of factors against each other",
            "Welch's two-sided t-test over factors (n each, not their cells): of the share of a cell's peaks "
            "that close, and of the effect compared with random peaks, which allows for effects on any peak.",
            result.peak_sets.classes,
        )


def _figures(result: SilencingResult, table: pd.DataFrame) -> dict[str, Any]:
    def entry(
        value: float | None, title: str, text: str, better: Better | None = None, n: int | None = None
    ) -> Any:
        return figure(value, title, text, better=better, bounds=(0.0, None if n is None else 1.0), n=n)

    figures = {
        "silencing_tested": entry(len(table), "Pairs tested", "Pairs of a gene and a peak."),
        "silencing_genes": entry(table["gene"].nunique(), "Genes tested", "Genes in a tested pair."),
        "silencing_fdr10": share_passing(
            table["fdr"], _FDR, "matched peaks of other chromosomes, matched genes"
        ),
    }
    p = result.permuted[np.isfinite(result.permuted)]
    if len(p):
        figures["silencing_permuted_p5"] = entry(
            float((p <= 0.05).mean()), "Permuted genes with p up to 5%",
            "Share of pairs whose gene was exchanged for one of another chromosome; 0.05 if p is right.",
            n=len(p),
        )  # fmt: skip
    for name, rows in result.precision.items():
        for row in rows:
            key = f"{AREAS}[{name}; {row['score']}]"
            value: Any = row["auprc"]
            figures[key] = entry(
                value, f"Area under the precision-recall curve, {name}; {row['score']}",
                "All pairs together; the score 'chance' is the share of true pairs.", "higher",
                int(str(row["n_pairs"])),
            )  # fmt: skip
    return figures


def _links(result: SilencingResult) -> pd.Series:
    """Return how strongly each gene and peak are linked: the score, or the change in the direction meant."""
    sign = 1 if result.options.direction == "raise" else -1
    return result.table.get("score", sign * result.table["change"])


def write_silencing(run: Run, result: SilencingResult) -> None:
    """Write the table, arcs and peak sets."""
    groups = len(result.groups) - 1
    within = f" and within {groups} groups" if groups else ""
    what = (
        f"{len(over_all(result.table)):,} pairs of a gene and a peak, with what changes when the gene is "
        f"{_done(result.options)}, over all cells{within}"
    )
    write_pairs(run, result.table, what, result.candidates.vicinity, _links(result))
    if result.peak_sets is not None:
        path = next(path for path in run.paths.beside if path.suffix == ".tsv")
        write_tsv(path, result.peak_sets.table)
        run.add_output(path, "sets of peaks when their factor changes, against random peaks")


def draw_silencing(result: SilencingResult, openness: Mapping[str, DoubleArray]) -> list[Drawn]:
    """Return one picture for each gene, along the genome; the best genes come first.

    `openness`: means of all peaks by group, as `mean_by_group` gives them.
    """
    vicinity, table = result.candidates.vicinity, result.table
    if vicinity is None or not len(table):
        return []
    sign = 1 if result.options.direction == "raise" else -1
    over = over_all(table)
    drawn = [
        Drawn(
            distance_plot(
                over["distance_to_tss"].to_numpy(), 100 * sign * over["change"].to_numpy(),
                label="link, % of the peak",
            ),
            "Change and distance",
            f"One point a pair, over all cells: {'rise' if sign > 0 else 'fall'} of the peak.",
        )
    ]  # fmt: skip
    linked = table.assign(link=_links(result))
    return drawn + draw_tracks(vicinity, linked, openness, link="link", changed=True)


PICTURED = 12
"""Genes of which the report has a picture."""


def mean_by_group(peaks: CSR, labels: StrArray | None) -> dict[str, DoubleArray]:
    """Return the mean of each peak `(n_peaks,)` over all cells, and over those of the largest groups.

    Args:
        peaks: `(n, n_peaks)`, at one depth.
        labels: `(n,)`, None or not a number where unknown.
    """
    groups = {ALL: np.arange(peaks.shape[0])}
    if labels is not None:
        text = pd.Series(labels).map(str, na_action="ignore")
        for name in text.value_counts().index[: MOST_GROUPS - 1]:
            groups[str(name)] = np.flatnonzero((text == name).to_numpy())
    return {name: np.asarray(peaks[rows].mean(0), np.float64).ravel() for name, rows in groups.items()}


def locus_of(near: Vicinity, gene: str) -> tuple[Locus, IntArray]:
    """Return where a gene and its peaks lie, and the peaks, in the order of their places."""
    pairs = np.flatnonzero(np.asarray(near.genes, dtype=object)[near.gene] == gene)
    start, end = (
        near.places[c].to_numpy(dtype=np.int64, na_value=-1)[near.peak[pairs]] for c in ("start", "end")
    )
    order = np.argsort(start, kind="stable")
    nearest = pairs[np.argmin(np.abs(near.distance[pairs]))]
    low, high = near.body[nearest]
    locus = Locus(
        chrom=str(near.places["chrom"].iloc[near.peak[nearest]]),
        start=start[order],
        end=end[order],
        tss=int(near.tss[nearest]),
        strand=str(near.strand[nearest]),
        body=(int(low), int(high)),
    )
    return locus, near.peak[pairs[order]]


def draw_tracks(
    near: Vicinity,
    table: pd.DataFrame,
    openness: Mapping[str, DoubleArray],
    *,
    link: str,
    changed: bool = False,
) -> list[Drawn]:
    """Return a picture of each of the first genes of a table.

    Args:
        table: One line a gene, a peak and a group of cells; the best pairs over all cells come first.
        openness: Means of all peaks by group, as `mean_by_group` gives them.
        link: Column that says how strongly a gene and a peak are linked.
        changed: Whether `change` of the table is drawn, too.
    """
    drawn = []
    for gene in list(dict.fromkeys(over_all(table)["gene"]))[:PICTURED]:
        locus, peaks = locus_of(near, gene)
        of_gene = table[(table["gene"] == gene).to_numpy()].set_index("peak")
        others = of_gene[of_gene["group"] != ALL].groupby("group")["n_cells"].first()
        groups = [ALL, *map(str, others.sort_values(ascending=False).index)] if changed else [*openness]
        names = np.asarray(near.peaks, dtype=object)[peaks]
        rows = {
            name: of_gene[(of_gene["group"] == name).to_numpy()].reindex(names) for name in [ALL, *groups]
        }
        picture = locus_plot(
            locus,
            rows[ALL][link].to_numpy(np.float64),
            changes={name: rows[name]["change"].to_numpy(np.float64) for name in groups} if changed else None,
            openness={name: openness[name][peaks] for name in groups if name in openness},
        )
        fdr = rows[ALL]["fdr"].fillna(2).to_numpy()
        best = int(fdr.argmin())
        caption = (
            f"{plural(len(peaks), 'peak')} within reach; the smallest FDR is {fdr[best]:.2g}, of "
            f"{names[best]} ({rows[ALL]['distance_to_tss'].iloc[best] / 1000:+.1f} kb). The higher an arc, "
            "the stronger the link; blue ones go the other way. Groups by number of cells."
        )
        drawn.append(Drawn(picture, gene, caption))
    return drawn
