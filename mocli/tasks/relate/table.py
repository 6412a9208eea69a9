"""Relations as a table: one row a pair and set of cells, the strongest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mocli.data.write.outfile import atomic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mocli.data.genome.vicinity import Vicinity
    from mocli.tasks.relate.correlate import Relations
    from mocli.types import IntArray

_NUMBERS = ("correlation", "spearman", "p", "fdr", "z_matched", "p_matched", "fdr_matched")
_BEDPE = ("chrom1", "start1", "end1", "chrom2", "start2", "end2", "name", "score", "strand1", "strand2")


def relations_table(
    relations: Relations,
    first: Sequence[str] | None = None,
    second: Sequence[str] | None = None,
    *,
    labels: tuple[str, str] = ("gene", "peak"),
    vicinity: Vicinity | None = None,
) -> pd.DataFrame:
    """Lay relations out.

    Parameters
    ----------
    first, second
        Names of all features of A and of B; those of `vicinity` where that is given.
    labels
        What the columns of the two features are called: the modalities' names.
    vicinity
        Where the pairs come from; adds chrom, start, end (0-based, half-open) and
        distance_to_tss.

    Returns
    -------
    The two features; the place; `group` where there are groups; n_cells,
    correlation, spearman, p, fdr, z_matched, p_matched, fdr_matched. All cells
    come first, then group by group; within each by |correlation|, the largest
    first, undefined ones last, equal ones in the order of the features.
    """
    pairs = relations.pairs
    names_a = np.asarray(vicinity.genes if vicinity and first is None else first, dtype=object)
    names_b = np.asarray(vicinity.peaks if vicinity and second is None else second, dtype=object)
    parts = []
    for found in relations.sets:
        order = np.argsort(-np.nan_to_num(np.abs(found.correlation), nan=-1.0), kind="stable")
        at = pairs.second[order]
        columns: dict[str, object] = {labels[0]: names_a[pairs.first[order]], labels[1]: names_b[at]}
        if vicinity is not None:
            columns |= {c: vicinity.places[c].to_numpy()[at] for c in ("chrom", "start", "end")}
            columns["distance_to_tss"] = vicinity.distance[order]
        if len(relations.sets) > 1 or relations.left_out:
            columns["group"] = np.full(len(order), found.group, dtype=object)
        columns["n_cells"] = np.full(len(order), found.n_cells, dtype=np.int64)
        columns |= {name: getattr(found, name)[order] for name in _NUMBERS}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def write_tsv(path: Path, table: pd.DataFrame) -> None:
    """Write a table, numbers with 6 significant digits, undefined ones as NA; atomic."""
    with atomic(path) as temporary:
        table.to_csv(
            temporary,
            sep="\t",
            index=False,
            float_format="%.6g",
            na_rep="NA",
            lineterminator="\n",
            encoding="utf-8",
        )


def write_bedpe(path: Path, table: pd.DataFrame, vicinity: Vicinity) -> None:
    """Write the arcs from TSS to peak for genome browsers, in the table's order; atomic.

    The score is the correlation; pairs without one are left out. Of a table with
    groups the rows wanted are to be chosen before.
    """
    gene, peak = (table.columns[k] for k in (0, 1))
    table = table[table["correlation"].notna().to_numpy()]
    at = _place_of(vicinity, table[gene].to_numpy(), table[peak].to_numpy())
    arcs = pd.DataFrame(
        {
            "chrom1": table["chrom"].to_numpy(),
            "start1": vicinity.tss[at],
            "end1": vicinity.tss[at] + 1,
            "chrom2": table["chrom"].to_numpy(),
            "start2": table["start"].to_numpy(),
            "end2": table["end"].to_numpy(),
            "name": (table[gene] + "|" + table[peak]).to_numpy(),
            "score": table["correlation"].to_numpy(),
            "strand1": vicinity.strand[at],
            "strand2": np.full(len(table), ".", dtype=object),
        },
        columns=list(_BEDPE),
    )
    write_tsv(path, arcs.rename(columns={"chrom1": "#chrom1"}))


def _place_of(vicinity: Vicinity, genes: np.ndarray, peaks: np.ndarray) -> IntArray:
    """Places of named pairs in the vicinity."""
    names = (np.asarray(vicinity.genes, dtype=object), np.asarray(vicinity.peaks, dtype=object))
    known = pd.MultiIndex.from_arrays([names[0][vicinity.gene], names[1][vicinity.peak]])
    first = pd.Series(np.arange(len(known)), index=known)
    first = first[~first.index.duplicated()]
    place = first.index.get_indexer(pd.MultiIndex.from_arrays([genes, peaks]))
    if (place < 0).any():
        raise ValueError("the table holds pairs that are not in the vicinity")
    found: IntArray = first.to_numpy()[place]
    return found
