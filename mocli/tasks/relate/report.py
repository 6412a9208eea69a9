"""What a run reports of feature relations: figures, the strongest pairs, featureplots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mocli.data.features.loci import Vicinity
from mocli.data.write.outfile import write_tsv
from mocli.errors import some
from mocli.report import featureplots
from mocli.report.figures import Entry, column_table, figure, spoken
from mocli.report.html import Drawn
from mocli.tasks.relate.correlate import FEWEST_CELLS
from mocli.tasks.relate.promoters import Figures
from mocli.tasks.relate.relate import LINKED, MEASURED, Related
from mocli.tasks.relate.scope import ALL
from mocli.tasks.run.run import Run
from mocli.types import DoubleArray, IntArray

MOST_NAMED = 8
"""Most groups named in a warning."""

SHOWN = 200
"""Pairs in the report's table."""
_BEDPE = ("chrom1", "start1", "end1", "chrom2", "start2", "end2", "name", "score", "strand1", "strand2")
_FDR = 0.05
_MOST_LINKED = 0.5  # share of linked pairs from which the reader is told that the model knew them

_NULLS = {
    "fdr": (
        "permuted",
        "cells permuted on one side; most features that differ between cell types differ from this null",
    ),
    "fdr_matched": (
        "matched",
        "the same imputed feature against features elsewhere that are detected in as many cells",
    ),
}
_STRONGEST = "among the strongest tenth"
_RIVALS = {"matched": "matched promoters of other genes", "distal": "distal peaks of the window"}
_TITLES = {
    f"promoter_vs_{key}_{figure}": title
    for key, rivals in _RIVALS.items()
    for figure, title in (
        ("odds_ratio", f"Promoter peaks against {rivals}: odds ratio of being {_STRONGEST}"),
        ("p", f"Promoter peaks against {rivals}: p of Fisher's exact test"),
        ("n_a", f"Pairs of promoter peaks, against {rivals}"),
        ("n_b", f"Pairs of {rivals}"),
        ("top_a", f"Pairs of promoter peaks {_STRONGEST}, against {rivals}"),
        ("top_b", f"Pairs of {rivals} {_STRONGEST}"),
    )
}


def over_all(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of a relation table over all cells."""
    return table[(table["group"] == ALL).to_numpy()] if "group" in table else table


def tell_left_out(run: Run, table: pd.DataFrame, left_out: Sequence[str], fewest: int) -> None:
    """Warn of groups that a relation table lacks because they have fewer cells than `fewest`."""
    if not left_out:
        return
    tested = set(table["group"]) - {ALL} if "group" in table else set()
    which = some(left_out, MOST_NAMED) if tested else f"all {len(left_out):,} of them"
    run.warn(f"groups of fewer than {fewest} cells are not tested: {which}")


def report_relations(run: Run, related: Related, direction: str) -> None:
    """Put figures, warnings and the strongest pairs into the report and the log.

    `direction`: `atac->rna`.
    """
    table = over_all(related.table)
    run.report.metrics |= _counts(related, table, direction)
    if related.enrichment is not None:
        run.report.metrics |= _enrichment(related.enrichment, len(table), direction)
    if related.enrichment_measured is not None:
        run.report.baselines["measured"] = {
            "title": "measured values of both",
            "definition": f"the same pairs, correlated over the {related.n_measured:,} cells in which both "
            "sides were measured, which unpaired experiments do not have",
            "metrics": _enrichment(related.enrichment_measured, len(table), direction),
        }
    for key, entry in run.report.metrics.items():
        if key.endswith(f"[{direction}]") and entry.get("value") is not None and _is_told(key):
            run.say(spoken(key, entry))
    tell_left_out(run, related.table, related.left_out, FEWEST_CELLS)
    second = related.candidates.labels[1]
    if related.n_absent:
        run.warn(
            f"{len(related.absent):,} {second} features that the model knows are not in the input, so that "
            f"{related.n_absent:,} of {len(table):,} pairs have no correlation: "
            + ", ".join(related.absent[:5]) + (", ..." if len(related.absent) > 5 else "")
        )  # fmt: skip
    constant = n_constant(related, table)
    if constant:
        run.warn(
            f"{constant:,} of {len(table):,} pairs have no correlation: one of the features is the same in "
            "all cells"
        )
    if LINKED in table and table[LINKED].mean() > _MOST_LINKED:
        run.say(
            f"{table[LINKED].mean():.0%} of the pairs tested are links that the model was trained with: "
            "what it finds among them is partly what it was given"
        )
    _conclude(run, related, table)
    _tabulate(run, table, related)


def _conclude(run: Run, related: Related, table: pd.DataFrame) -> None:
    """Say how many pairs stand out, and whether promoters do, beside measured values of both."""
    fdr = table["fdr_matched"].to_numpy(dtype=np.float64)
    tested = int(np.isfinite(fdr).sum())
    said = f"{int((fdr < _FDR).sum()):,} of {tested:,} pairs pass {_FDR:.0%} FDR against matched features"
    odds, p = (_promoters(related.enrichment, of) for of in ("odds_ratio", "p"))
    if odds is not None and p is not None:
        beside = _promoters(related.enrichment_measured, "odds_ratio")
        told = "" if beside is None else f"; by measured values of both {beside:.2g}"
        said += (
            f"; a gene's own promoter peaks are {_STRONGEST} with odds of {odds:.2g}, p {p:.2g} "
            f"(1 is chance{told})"
        )
    run.say(said)
    run.report.conclude(f"{said}.")


def _promoters(figures: Figures | None, of: str) -> float | None:
    """Return a figure of promoter peaks against matched ones."""
    value = (figures or {}).get(f"promoter_vs_matched_{of}", {}).get("value")
    return value if isinstance(value, float) else None


def n_constant(related: Related, table: pd.DataFrame) -> int:
    """Pairs over all cells without a correlation although both features are in the input."""
    return int(table["correlation"].isna().sum()) - related.n_absent


def _is_told(key: str) -> bool:
    return key.startswith(("promoter", "relations_fdr")) and not key.split("[")[0].endswith(
        ("_n_a", "_n_b", "_top_a", "_top_b")
    )


def _counts(related: Related, table: pd.DataFrame, direction: str) -> dict[str, Any]:
    candidates = related.candidates
    vicinity = candidates.vicinity
    labels = candidates.labels
    counts = {"relations_tested": (len(table), "Pairs tested", "Pairs of an imputed and a measured feature.")}
    if related.n_compared is not None:
        counts["relations_compared"] = (
            related.n_compared, "Pairs compared",
            "All pairs, of which the strongest of every feature were tested.",
        )  # fmt: skip
    for label in labels:
        counts[f"{label}s_tested"] = (
            int(table[label].nunique()), f"Features tested, {label}",
            f"Features of the side '{label}' in a tested pair.",
        )  # fmt: skip
    counts[f"{labels[1]}s_absent"] = (
        len(related.absent), f"Features absent, {labels[1]}",
        f"Features of the side '{labels[1]}' in a pair that the model knows and the input lacks.",
    )  # fmt: skip
    counts["pairs_absent"] = (
        related.n_absent,
        "Pairs with an absent feature",
        "Pairs without a correlation.",
    )
    counts["pairs_constant"] = (
        n_constant(related, table), "Pairs with a constant feature",
        "Pairs without a correlation, as one of their features is the same in all cells.",
    )  # fmt: skip
    if vicinity is not None:
        counts["genes_unplaced"] = (
            vicinity.n_unplaced_genes,
            "Genes without a position",
            "Genes, or proteins, not in the gene table.",
        )
        counts["peaks_unplaced"] = (
            vicinity.n_unplaced_peaks,
            "Peaks without a position",
            "Features that are not a genomic interval.",
        )
    entries = {f"{name}[{direction}]": figure(*entry) for name, entry in counts.items()}
    for column, (name, null) in _NULLS.items():
        key = f"relations_fdr5_{name}[{direction}]"
        entries[key] = share_passing(table[column], _FDR, null, f", {name} null")
    both = table[[MEASURED, "correlation"]].dropna() if MEASURED in table else table.iloc[:0]
    if len(both) > 2 and both.std().min() > 0:
        entries[f"relations_agreement[{direction}]"] = figure(
            float(np.corrcoef(both[MEASURED], both["correlation"])[0, 1]),
            "Agreement with measured pairs",
            "Pearson correlation, over pairs, of the correlation of imputed with measured values and "
            f"that of measured values of both in {related.n_measured:,} cells.",
            better="higher",
            bounds=(-1.0, 1.0),
            n=len(both),
        )
    if LINKED in table and len(table):
        entries[f"relations_linked[{direction}]"] = figure(
            float(table[LINKED].mean()),
            "Pairs that were links in training",
            "Share of the pairs tested that the link table of the training holds.",
            bounds=(0.0, 1.0),
            n=len(table),
        )
    return entries


def _enrichment(figures: Figures, n: int, direction: str) -> dict[str, Entry]:
    entries = {}
    for name, of_figure in figures.items():
        value = of_figure["value"]
        assert not isinstance(value, str)
        title = _TITLES.get(name, name.replace("_", " "))
        ratio = name.endswith("_odds_ratio")
        entries[f"{name}[{direction}]"] = figure(
            value,
            title,
            str(of_figure["definition"]),
            "Above 1 if a gene's own promoter peaks are among the strongest more often; 1 is chance."
            if ratio
            else "",
            better="higher" if ratio else None,
            bounds=(0.0, 1.0 if name.endswith("_p") else None),
            n=n,
        )
    return entries


def _tabulate(run: Run, table: pd.DataFrame, related: Related) -> None:
    run.report.tables["relations"] = column_table(
        f"Pairs of {' and '.join(related.candidates.labels)}, the strongest first",
        "Sorted by the size of the correlation over all cells. A small matched FDR says that the pair "
        "stands out from the feature's correlations elsewhere; a small plain FDR says only that both "
        "differ between cells.",
        table[table["correlation"].notna().to_numpy()],
        most=SHOWN,
    )


def draw_relations(related: Related) -> list[Drawn]:
    """Return the pictures: correlation over distance, and each feature's strongest partner."""
    table = over_all(related.table)
    first, second = related.candidates.labels
    correlation = table["correlation"].to_numpy()
    small = table["fdr_matched"].to_numpy() < _FDR
    drawn = []
    if "distance_to_tss" in table:
        drawn.append(
            Drawn(
                featureplots.distance_plot(table["distance_to_tss"].to_numpy(), correlation),
                "Correlation and distance",
                f"One point a pair: the imputed {first} against the measured {second}, over all cells.",
            )
        )
    else:
        drawn.append(
            Drawn(
                featureplots.correlation_histogram(correlation, small),
                "Correlation of all pairs",
                f"Imputed {first} against measured {second} features, over all cells.",
            )
        )
    # sorted by size, so that the first row of a feature is its strongest
    best = ~table[first].duplicated().to_numpy() & np.isfinite(correlation)
    lines = table[best]
    far = lines["distance_to_tss"].to_numpy() if "distance_to_tss" in lines else None
    texts = [f"{a}, {b}" for a, b in zip(lines[first], lines[second], strict=True)]
    if far is not None:
        texts = [f"{t} ({d / 1000:+.1f} kb)" for t, d in zip(texts, far, strict=True)]
    drawn.append(
        Drawn(
            featureplots.strongest_partners(texts, correlation[best], small[best]),
            f"The strongest {second} of each {first}",
            f"Of {len(lines):,} {first} features those with the strongest partner.",
        )
    )
    return drawn


def summarise(related: Related) -> str:
    """Describe the table on disk, for the report's list of outputs."""
    first, second = related.candidates.labels
    groups = related.table["group"].nunique() - 1 if "group" in related.table else 0
    within = f" and within {groups} groups" if groups else ""
    return (
        f"{len(over_all(related.table)):,} relations of imputed {first} and measured {second} features, "
        f"over all cells{within}"
    )


def share_passing(fdr: ArrayLike, limit: float, null: str, which: str = "") -> Entry:
    """Return the share of pairs whose FDR is below a limit, among those with a p value."""
    values: DoubleArray = np.asarray(fdr, dtype=np.float64)
    values = values[np.isfinite(values)]
    return figure(
        float((values < limit).mean()) if len(values) else None,
        f"Share of pairs with an FDR below {limit:.0%}{which}",
        f"Of the pairs with a p value; null: {null}.",
        bounds=(0.0, 1.0),
        n=len(values),
    )


def write_pairs(
    run: Run, table: pd.DataFrame, what: str, vicinity: Vicinity | None, strength: pd.Series
) -> None:
    """Write a table of pairs, and where asked for those over all cells as arcs for genome browsers.

    `strength`: what scores the arc of each row.
    """
    write_tsv(run.paths.output, table)
    run.add_output(run.paths.output, what, first=True)
    for path in run.paths.beside:
        if path.suffix == ".bedpe":
            assert vicinity is not None
            write_bedpe(path, over_all(table.assign(correlation=strength)), vicinity)
            run.add_output(path, "the same over all cells as arcs; the score rises with the link")


def write_bedpe(path: Path, table: pd.DataFrame, vicinity: Vicinity) -> None:
    """Write the arcs from TSS to peak for genome browsers, in the table's order; atomic.

    The score is the correlation; pairs without one are left out. If the table has groups, pass only the
    rows wanted.
    """
    gene, peak = (table.columns[k] for k in (0, 1))
    table = table[table["correlation"].notna().to_numpy()]
    places = _place_of(vicinity, table[gene].to_numpy(), table[peak].to_numpy())
    arcs = pd.DataFrame(
        {
            "chrom1": table["chrom"].to_numpy(),
            "start1": vicinity.tss[places],
            "end1": vicinity.tss[places] + 1,
            "chrom2": table["chrom"].to_numpy(),
            "start2": table["start"].to_numpy(),
            "end2": table["end"].to_numpy(),
            "name": (table[gene] + "|" + table[peak]).to_numpy(),
            "score": table["correlation"].to_numpy(),
            "strand1": vicinity.strand[places],
            "strand2": np.full(len(table), ".", dtype=object),
        },
        columns=list(_BEDPE),
    )
    write_tsv(path, arcs.rename(columns={"chrom1": "#chrom1"}))


def _place_of(vicinity: Vicinity, genes: np.ndarray, peaks: np.ndarray) -> IntArray:
    """Positions of named pairs in the vicinity."""
    names = (np.asarray(vicinity.genes, dtype=object), np.asarray(vicinity.peaks, dtype=object))
    named = pd.MultiIndex.from_arrays([names[0][vicinity.gene], names[1][vicinity.peak]])
    first = pd.Series(np.arange(len(named)), index=named)
    first = first[~first.index.duplicated()]
    place = first.index.get_indexer(pd.MultiIndex.from_arrays([genes, peaks]))
    if (place < 0).any():
        raise ValueError("the table holds pairs that are not in the vicinity")
    return first.to_numpy()[place]
