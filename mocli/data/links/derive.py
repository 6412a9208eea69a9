"""Links made from the data: features of the same name, and genes with the peaks near them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mocli.data.features.index import FALLBACKS, ColumnMatch, FeatureIndex, Features
from mocli.data.features.proposal import Miss, Proposal, misses
from mocli.data.genome.genes import GeneTable
from mocli.data.genome.loci import PROTEINS, doubts, gene_loci, intervals_of, no_gene, no_peak, protein_loci
from mocli.data.genome.near import Reach, near_peaks
from mocli.errors import InputError


def link_names(a: FeatureIndex, b: FeatureIndex) -> Proposal:
    """Link features of the same name; names are matched as those of a link table are.

    The names of the one are looked up in the other: in the direction in which
    more are found, since only the side looked into may answer by another column
    of `var`. Features of the smaller modality without a partner are misses.
    """
    forward, backward = b.match(a.features.names), a.match(b.features.names)
    if backward.n_found > forward.n_found:
        return _links(b, a, backward).swapped()
    return _links(a, b, forward)


def _links(asking: FeatureIndex, searched: FeatureIndex, match: ColumnMatch) -> Proposal:
    pairs = [(k, position) for k, positions in enumerate(match.positions) for position in positions]
    # a name that repeats means the first feature of that name on both sides
    seen = {name: k for k, name in reversed(list(enumerate(asking.features.names)))}
    pairs = [(k, p) for k, p in pairs if seen[asking.features.names[k]] == k]
    source = np.array([k for k, _ in pairs], dtype=np.int64)
    target = np.array([p for _, p in pairs], dtype=np.int64)
    notes = []
    for how, hits in match.fallbacks.items():
        name, feature = hits[0]
        notes.append(f"{len(hits):,} names found {FALLBACKS[how]}, e.g. '{name}' is '{feature}'")
    small, large, linked = (
        (asking, searched, source)
        if len(asking.features.names) <= len(searched.features.names)
        else (searched, asking, target)
    )
    has_link = set(linked.tolist())
    absent = [name for k, name in enumerate(small.features.names) if k not in has_link] if len(linked) else []
    failed = misses(
        small.features.modality,
        absent,
        why=f"not in {large.features.modality}",
        among=large.features.names,
    )
    return Proposal(source, target, np.ones(len(source)), failed, tuple(notes))


def link_peaks(genes: Features, peaks: Features, table: GeneTable, reach: Reach) -> Proposal:
    """Link genes, or proteins by their genes, to the peaks they reach.

    Parameters
    ----------
    genes
        RNA, or proteins.
    table
        Where the genes lie. A gene is found by its id, else by its name; a name that occurs on several
        chromosomes is left out.

    Returns
    -------
    `genes` as source, `peaks` as target. A peak that a gene reaches from several
    loci has the largest weight.

    Raises
    ------
    InputError
        If no feature is an interval, if hardly any gene has a position, if genes and peaks share no
        chromosome, if no peak is reached, or if names and positions both say that the table is of another
        species.
    """
    places = intervals_of(peaks)
    if places["chrom"].isna().all():
        raise InputError(
            f"the features of '{peaks.modality}' are not genomic intervals",
            found=", ".join(map(repr, peaks.names[:3])),
            expected="names such as chr1:1000-1500",
            hint="name the column of var that holds such names with --var-key",
        )
    is_protein = genes.kind in PROTEINS
    loci_found = protein_loci(genes, table) if is_protein else gene_loci(genes, table)
    row, feature, weight, notes, failed, _ = loci_found
    if not len(row):
        raise no_gene(genes, table)
    loci = table.frame.iloc[row].reset_index(drop=True)
    locus, peak, closeness = near_peaks(loci, places, reach)
    notes += doubts(table, places, peaks, loci_found)
    if not len(locus):
        raise no_peak(loci, places, table, peaks)
    links = pd.DataFrame({"source": feature[locus], "target": peak, "weight": weight[locus] * closeness})
    links = links.groupby(["source", "target"], as_index=False)["weight"].max()
    without = sorted(set(feature.tolist()) - set(links["source"].tolist()))
    failed += tuple(Miss(genes.modality, genes.names[k], "no peak within reach") for k in without)
    return Proposal(
        links["source"].to_numpy(dtype=np.int64),
        links["target"].to_numpy(dtype=np.int64),
        links["weight"].to_numpy(dtype=np.float64),
        failed,
        notes,
    )
