"""`mocli links build`: propose links from names of features, and of genes with the peaks near them."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mocli.data.features.genes import GeneTable, read_genes
from mocli.data.features.index import (
    FALLBACKS,
    ColumnMatch,
    FeatureIndex,
    Features,
    Miss,
    Proposal,
    features_of,
    misses,
)
from mocli.data.features.intervals import USES, Reach, near_peaks
from mocli.data.features.loci import (
    PROTEINS,
    doubts,
    gene_loci,
    has_places,
    intervals_of,
    no_gene,
    no_peak,
    protein_loci,
    table_of,
)
from mocli.data.features.proteins import link_genes, link_panels
from mocli.data.files.inputs import open_inputs
from mocli.data.write.outfile import atomic, check_writable
from mocli.errors import InputError, UsageError
from mocli.parsing import one_of
from mocli.types import ModalityKind

PEAK_MODES = tuple(USES)
MODES = ("auto", "antigen", *PEAK_MODES, "names")
_DEFAULT_REACH: Mapping[str, float] = {}
_PROTEINS = frozenset({ModalityKind.PROT, ModalityKind.CYTO})


@dataclass(frozen=True, eq=False)
class Links:
    """A proposed link table.

    Attributes:
        mode: How the links were found, one of `MODES` other than `auto`.
        source, target: The two modalities, in the order of the inputs.
        proposal: The links by positions of features, and features without one.
    """

    mode: str
    source: Features
    target: Features
    proposal: Proposal

    @property
    def misses(self) -> tuple[Miss, ...]:
        """Features that should have a link and have none."""
        return self.proposal.misses

    def summary(self) -> str:
        """Say how many features of each side are linked."""
        sides = ((self.source, self.proposal.source), (self.target, self.proposal.target))
        linked = [f"{len(np.unique(i)):,} of {len(f.names):,} {f.modality} features" for f, i in sides]
        return f"{len(self.proposal.weight):,} links ({self.mode}): {linked[0]} <-> {linked[1]}"

    def to_tsv(self) -> str:
        """Return the table in the canonical form: the modalities and the weight, one link a line."""
        text = io.StringIO()
        writer = csv.writer(text, delimiter="\t", lineterminator="\n")
        writer.writerow((self.source.modality, self.target.modality, "weight"))
        proposal = self.proposal
        writer.writerows(
            (self.source.names[i], self.target.names[j], f"{w:.4g}")
            for i, j, w in zip(proposal.source, proposal.target, proposal.weight, strict=True)
        )
        return text.getvalue()


def build_links(
    inputs: Sequence[str],
    *,
    output: Path | None = None,
    force: bool = False,
    mode: str = "auto",
    genes: str | Path | None = None,
    reach: Mapping[str, float] = _DEFAULT_REACH,
    var_key: str | None = None,
) -> Links:
    """Propose links between the features of two modalities.

    Args:
        inputs: As on the command line; together two modalities.
        output: File to write, compressed where it ends in `.gz`; None writes nothing.
        mode: `antigen`: proteins to the genes of their antigens, or to the proteins of another panel.
            `promoter`, `body`, `window`: genes (or proteins, by their genes) to peaks, see `Reach`. `names`:
            features of the same name. `auto` chooses by what the modalities measure.
        genes: Gene positions, for peaks: GTF, GFF3, BED or a table.
        reach: How far a gene reaches for peaks: `window`, `decay`, `promoter`, `upstream` in bases, where
            other than the defaults of `Reach`.
        var_key: Column of `var` with the names to use.

    Raises:
        UsageError: Not two modalities; peaks without `genes`, or `genes` without peaks; a mode that does not
            fit what is measured, a reach that does not fit the mode; an output that exists.
        InputError: Inputs or gene table cannot be read, or nothing is linked.
        EnvironmentProblem: The folder cannot be written to, or the disk is full.
    """
    files = open_inputs(inputs)
    if output is not None:
        read = [path for f in files for path in f.paths] + ([Path(genes)] if genes is not None else [])
        check_writable(output, force=force, inputs=read)
    if len(files) != 2:
        names = ", ".join(f.name for f in files)
        raise UsageError(
            f"links join two modalities, but the inputs hold {len(files)}",
            field="INPUT",
            found=names,
            hint=f"choose two: {files[0].path}::{files[0].name} {files[-1].path}::..."
            if len(files) > 2
            else "add the file of the other modality",
        )
    a, b = features_of(files, var_key=var_key)
    mode = _choose(one_of(mode, MODES, "--mode"), a, b, with_genes=genes is not None)
    _check_reach(reach, mode)
    if mode in PEAK_MODES:
        bases: dict[str, Any] = dict(reach)
        proposal = _with_peaks(a, b, genes, Reach(mode, **bases))
    elif mode == "antigen":
        proposal = _with_antigens(a, b)
    else:
        proposal = link_names(FeatureIndex(a), FeatureIndex(b))
    links = Links(mode, a, b, proposal)
    if not len(proposal.weight):
        raise _nothing(links)
    if output is not None:
        _write(links, output)
    return links


def _write(links: Links, path: Path) -> None:
    data = links.to_tsv().encode()
    with atomic(path) as temporary:
        # no date inside: the same links are the same bytes
        temporary.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def _choose(mode: str, a: Features, b: Features, *, with_genes: bool) -> str:
    """Choose by what is measured, or check that the mode asked for fits it."""
    proteins = [f for f in (a, b) if f.kind in _PROTEINS]
    n_places = has_places(a) + has_places(b)
    if mode == "auto" and n_places == 1:
        mode = "body"
    elif mode == "auto":
        others = [f for f in (a, b) if f not in proteins]
        fits = len(proteins) == 2 or (proteins and others[0].kind in {ModalityKind.RNA, ModalityKind.ATAC})
        mode = "antigen" if fits else "names"
    kinds = f"{a.modality} ({a.kind}) and {b.modality} ({b.kind})"
    if mode in PEAK_MODES and n_places != 1:
        raise UsageError(
            f"--mode {mode} links genes to peaks",
            field="--mode",
            found=kinds + ("" if n_places else ", but neither modality has genomic intervals"),
        )
    if (
        mode in PEAK_MODES
        and not with_genes
        and all(table_of(f) is None for f in (a, b) if not has_places(f))
    ):
        raise UsageError(
            "genes are linked to peaks by their positions",
            field="--gtf",
            found=f"{kinds}, no gene table",
            hint="give --gtf FILE: GTF, GFF3, BED, or a TSV with chrom, start, end, strand, gene",
        )
    if mode == "antigen" and not proteins:
        raise UsageError(
            "--mode antigen needs a modality of proteins",
            field="--mode",
            found=kinds,
            hint="name it so: prot=FILE",
        )
    if with_genes and mode not in PEAK_MODES:
        raise UsageError(f"--mode {mode} does not use --gtf", field="--gtf", found=kinds)
    return mode


def _check_reach(reach: Mapping[str, float], mode: str) -> None:
    used = USES.get(mode, ())
    for name in reach:
        if name not in used:
            fitting = next(m for m, names in USES.items() if name in names)
            raise UsageError(
                f"--{name} has no effect in --mode {mode}",
                field=f"--{name}",
                found=f"--mode {mode}",
                hint=f"add --mode {fitting}, or leave it out",
            )


def _with_peaks(a: Features, b: Features, genes: str | Path | None, reach: Reach) -> Proposal:
    swap = has_places(a)
    table = table_of(b if swap else a) if genes is None else read_genes(genes)
    assert table is not None  # checked with the mode
    proposal = link_peaks(*((b, a) if swap else (a, b)), table, reach)
    notes = (f"{len(table.frame):,} genes from {table.path}", *table.notes, *proposal.notes)
    if genes is None:
        notes += (
            "without --gtf, gene positions are those in the data, without strands; a gene table also "
            "gives gene bodies",
        )
    proposal = replace(proposal, notes=notes)
    return proposal.swapped() if swap else proposal


def _with_antigens(a: Features, b: Features) -> Proposal:
    if a.kind in _PROTEINS and b.kind in _PROTEINS:
        return link_panels(a, b)
    if a.kind in _PROTEINS:
        return link_genes(a, FeatureIndex(b))
    return link_genes(b, FeatureIndex(a)).swapped()


def _nothing(links: Links) -> InputError:
    examples = "; ".join(f"{f.modality}: {', '.join(f.names[:3])}" for f in (links.source, links.target))
    hints = {
        "names": "the features have no names in common; if one modality is proteins, name it: prot=FILE",
        "antigen": "if genes are named by ids, give the column of var with the symbols: --var-key COLUMN",
    }
    why = f"{links.misses[0].why}: {links.misses[0]}" if links.misses else None
    return InputError(
        f"no link was found (--mode {links.mode})",
        found=f"{examples}; {why}" if why else examples,
        hint=hints.get(links.mode),
    )


def say_links(links: Links, *, log: Callable[[str], None], limit: int | None = 20) -> None:
    """Log what was linked, what was assumed, and the features without a link.

    `limit`: how many features without a link to name for each reason; None for all.
    """
    for note in links.proposal.notes:
        log(note)
    log(links.summary())
    groups: dict[tuple[str, str], list[Miss]] = {}
    for miss in links.misses:
        groups.setdefault((miss.modality, miss.why), []).append(miss)
    for (modality, why), group in groups.items():
        shown = ", ".join(map(str, group[:limit]))
        more = f" and {len(group) - limit:,} more" if limit is not None and len(group) > limit else ""
        log(f"{modality}: {len(group):,} features are not linked, {why}: {shown}{more}")


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
    # a name that repeats means the first feature of that name on both sides
    first = [k for k, name in enumerate(asking.features.names) if asking.find(name)[0] == k]
    pairs = [(k, position) for k in first for position in match.positions[k]]
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
        small.features.modality, absent, why=f"not in {large.features.modality}", among=large.features.names
    )
    return Proposal(source, target, np.ones(len(source)), failed, tuple(notes))


def link_peaks(genes: Features, peaks: Features, table: GeneTable, reach: Reach) -> Proposal:
    """Link genes, or proteins by their genes, to the peaks they reach.

    Args:
        genes: RNA, or proteins.
        table: Where the genes lie. A gene is found by its id, else by its name; a name that occurs on several
            chromosomes is left out.

    Returns:
        `genes` as source, `peaks` as target. A peak that a gene reaches from several loci has the largest
        weight.

    Raises:
        InputError: If no feature is an interval, if hardly any gene has a position, if genes and peaks share
            no chromosome, if no peak is reached, or if names and positions both say that the table is of
            another species.
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
