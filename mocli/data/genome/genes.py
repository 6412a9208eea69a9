"""Gene positions: GTF, GFF3, BED or a table with a header becomes one frame.

GTF and GFF3 are read line by line and only the genes are kept, so that a whole annotation (some gigabytes)
is never in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd

from mocli.data.features.intervals import normalise_chrom
from mocli.data.files.text import text_lines
from mocli.errors import InputError

_EXPECTED = "GTF, GFF3, BED, or a table with the columns chrom, start, end, strand, gene"
_COLUMNS = ("gene", "gene_id", "chrom", "start", "end", "strand")

_QUOTED = re.compile(r'(\w+) "([^"]*)"')
_EQUALS = re.compile(r"(\w+)=([^;]*)")
_NAMES = ("gene_name", "gene_symbol", "Name", "gene", "gene_id")
_IDS = ("gene_id", "ID", "gene")
_TRANSCRIPTS = frozenset({"transcript", "mRNA", "exon"})

# Headers of tables, without case and separators; the names are in the order of preference.
_HEADERS = {
    "gene": ("gene", "gene name", "genename", "gene symbol", "symbol", "hgnc symbol", "name2", "name"),
    "gene_id": ("gene id", "geneid", "ensembl gene id", "gene stable id", "gene ids"),
    "chrom": ("chrom", "chr", "chromosome", "seqnames", "seqname", "seqid", "chromosome/scaffold name"),
    "start": ("start", "chromstart", "txstart", "gene start", "gene start (bp)", "start position"),
    "end": ("end", "chromend", "txend", "stop", "gene end", "gene end (bp)", "end position"),
    "strand": ("strand",),
}
_ONE_BASED = frozenset({"gene start (bp)", "start position", "seqnames"})
_MINUS = frozenset({"-", "-1"})
_PLUS = frozenset({"+", "1", "+1"})
_MOST = 1 << 34  # characters of an annotation, which is never held whole


@dataclass(frozen=True, eq=False)
class GeneTable:
    """The genes of one file.

    Attributes:
        frame: One row a locus: `gene`, `gene_id` ("" where unknown), `chrom` (UCSC form), `start` and `end`
            (int64, 0-based and half-open), `strand` (`+` or `-`), `tss` (int64, the base where transcription
            starts).
        notes: What was assumed or left out, for the log.
    """

    path: str
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()


def read_genes(path: str | Path) -> GeneTable:
    """Read the positions of genes.

    Of GTF and GFF3 the gene rows are used (where there are none, the extent of each gene's transcripts);
    coordinates are made 0-based. A table with a header counts as 0-based and half-open, as BED is, unless
    its header is BioMart's or that of a GRanges (`seqnames`), which count from 1.

    Raises `InputError`: the file is missing or not text, holds no gene, or has an invalid coordinate; the
    error names the line.
    """
    file = str(path)
    first = next(_lines(file), None)
    if first is None:
        raise InputError("the gene table is empty", file=file, expected=_EXPECTED)
    cells = first[1].split("\t")
    notes: list[str] = []
    if len(cells) >= 9 and cells[3].isdecimal() and cells[4].isdecimal():
        frame = _annotation(file, notes)
    elif len(cells) >= 4 and cells[1].isdecimal() and cells[2].isdecimal():
        frame = _bed(file, notes)
    else:
        frame = _table(file, notes)
    is_named = (frame["gene"] != "").to_numpy()
    if not is_named.any():
        raise InputError("the gene table has no genes", file=file, expected=_EXPECTED)
    if not is_named.all():
        notes.append(f"{(~is_named).sum():,} genes without a name are left out")
    frame = frame[is_named].drop_duplicates().reset_index(drop=True)
    frame["chrom"] = [normalise_chrom(chrom) for chrom in frame["chrom"]]
    forward = ~frame["strand"].isin(_MINUS).to_numpy()
    frame["strand"] = np.where(forward, "+", "-")
    frame["tss"] = np.where(forward, frame["start"], frame["end"] - 1).astype(np.int64)
    return GeneTable(file, frame, tuple(notes))


def _lines(file: str) -> Iterator[tuple[int, str]]:
    """Yield numbered lines that are neither blank nor comments; a header behind `#` is none."""
    for number, line in text_lines(file, "the gene table", expected=_EXPECTED, most=_MOST):
        if line and not line.startswith(("#", "track", "browser")) and not line.isspace():
            yield number, line
        elif number == 1 and line.casefold().startswith(("#chrom\t", "#chr\t")):
            yield number, line[1:]


def _frame(rows: list[tuple[str, str, str, int, int, str]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(_COLUMNS))
    return frame.astype({"start": np.int64, "end": np.int64})


def _annotation(file: str, notes: list[str]) -> pd.DataFrame:
    genes = _frame(list(_features(file, of_genes=True)))
    if len(genes):
        return genes
    notes.append("no rows of genes: a gene reaches from its first to its last transcript")
    parts = _frame(list(_features(file, of_genes=False)))
    by = ["gene", "gene_id", "chrom", "strand"]
    return parts.groupby(by, sort=False, as_index=False).agg(start=("start", "min"), end=("end", "max"))


def _features(file: str, *, of_genes: bool) -> Iterator[tuple[str, str, str, int, int, str]]:
    for number, line in _lines(file):
        cells = line.split("\t", 8)
        if len(cells) < 9:
            raise InputError(
                "a row of the annotation is too short",
                file=file,
                field=f"line {number}",
                found=f"{len(cells)} columns",
                expected="9 columns separated by tabs",
            )
        kind = cells[2]
        if not (kind.endswith("gene") if of_genes else kind in _TRANSCRIPTS):
            continue
        attributes = _attributes(cells[8])
        name = next((attributes[k] for k in _NAMES if attributes.get(k)), "")
        identity = next((attributes[k] for k in _IDS if attributes.get(k)), "")
        identity = identity.removeprefix("gene:").removeprefix("gene-")
        start, end = _number(cells[3], number, file), _number(cells[4], number, file)
        yield name, identity, cells[0], start - 1, end, cells[6]


def _attributes(text: str) -> dict[str, str]:
    quoted = _QUOTED.findall(text)
    if quoted:
        return dict(reversed(quoted))  # the first of repeated keys counts
    return {k: unquote(v.strip()) for k, v in reversed(_EQUALS.findall(text))}


def _bed(file: str, notes: list[str]) -> pd.DataFrame:
    rows, unstranded = [], 0
    for number, line in _lines(file):
        cells = line.split("\t")
        if len(cells) < 4:
            raise InputError(
                "a row of the BED file has no gene name",
                file=file,
                field=f"line {number}",
                found=f"{len(cells)} columns",
                expected="chrom, start, end, name, score, strand",
            )
        strand = cells[5] if len(cells) > 5 else next((c for c in cells[4:5] if c in {"+", "-"}), ".")
        unstranded += strand not in _MINUS | _PLUS
        start, end = _number(cells[1], number, file), _number(cells[2], number, file)
        rows.append((cells[3], "", cells[0], start, end, strand))
    _note_strand(unstranded, notes)
    return _frame(rows)


def _table(file: str, notes: list[str]) -> pd.DataFrame:
    lines = _lines(file)
    first = next(lines)[1]
    delimiter = "\t" if "\t" in first else ","
    header = [re.sub(r"[\s_.]+", " ", c.strip(' "')).casefold() for c in first.split(delimiter)]
    place = {c: next((header.index(n) for n in among if n in header), -1) for c, among in _HEADERS.items()}
    if place["gene"] < 0:
        place["gene"] = place["gene_id"]
    missing = [c for c in ("gene", "chrom", "start", "end") if place[c] < 0]
    if missing:
        raise InputError(
            f"the gene table lacks the column {' and '.join(missing)}",
            file=file,
            found=", ".join(c.strip() for c in first.split(delimiter)[:8]),
            expected=_EXPECTED,
        )
    shift = int(bool(_ONE_BASED & set(header)))
    rows, unstranded = [], 0
    for number, line in lines:
        cells = [cell.strip(' "') for cell in line.split(delimiter)]
        cells += [""] * (len(header) - len(cells))
        strand = cells[place["strand"]] if place["strand"] >= 0 else "."
        unstranded += strand not in _MINUS | _PLUS
        start, end = (_number(cells[place[c]], number, file) for c in ("start", "end"))
        identity = cells[place["gene_id"]] if place["gene_id"] >= 0 else ""
        rows.append(
            (cells[place["gene"]] or identity, identity, cells[place["chrom"]], start - shift, end, strand)
        )
    if shift:
        notes.append("the coordinates are read as counting from 1")
    _note_strand(unstranded, notes)
    return _frame(rows)


def _note_strand(unstranded: int, notes: list[str]) -> None:
    if unstranded:
        notes.append(f"{unstranded:,} genes have no strand: their start is used as the TSS")


def _number(text: str, line: int, file: str) -> int:
    try:
        return int(text.replace(",", ""))
    except ValueError:
        raise InputError(
            "a coordinate of the gene table is not a whole number",
            file=file,
            field=f"line {line}",
            found=repr(text),
            expected=_EXPECTED,
        ) from None
