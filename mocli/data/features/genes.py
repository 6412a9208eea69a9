"""Gene tables: read from GTF, GFF3, BED or a table, and checked against the genome of the peaks.

GTF and GFF3 are read line by line and only the genes are kept, so that a whole annotation (some gigabytes)
is never in memory.

Three signs tell that genome and table differ, each with its figures: starts of genes lie in peaks hardly more
often than by chance; peaks lie where the table's genome has no more genes; names agree only without regard to
case, as those of man and mouse do.

What peaks alone say: the builds whose chromosomes are long enough for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
from scipy.stats import poisson

from mocli.data.features.intervals import normalise_chrom, promoters_hit
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


SHIFTS = (-400_000, -150_000, -50_000, 50_000, 150_000, 400_000)
"""Bases by which starts of genes are shifted to find the number of hits by chance."""

FEWEST = 0.03
"""Share of peaks, or of genes where these are fewer, that hold a start in any data of one genome."""

TIMES, FEW_TIMES = 5.0, 3.0
"""Least ratio to chance in such data; below it, genes and peaks are not of one genome.

The real sets of the tests have 6 to 32 (and 4 to 57% of their peaks) with genes of their genome, 0.7 to
2.8 with those of another build or species.
"""

SURE = 0.02
"""Probability below which a count is called too small, or more than chance."""

SEVERAL = 3
"""Fewest peaks out of place, and least share of all, that are mentioned."""
SHARE = 0.005

BY_CASE = 0.5
"""Share of genes found without regard to case only that makes another species likely."""

MISFITS = 0.001
"""Largest share of peaks past the end of a chromosome in data of one build."""

_WHOLE = 5_000  # genes of a table that is of a whole genome
_ASSEMBLED = re.compile(r"chr(\d{1,2}|X)")


@dataclass(frozen=True)
class GenomeFit:
    """How a gene table and peaks fit.

    Attributes:
        hit, chance: Genes whose start lies in a peak, and how many do after they were moved.
        n_peaks, n_genes: On the chromosomes that both have.
        beyond: Peaks past the last gene of their chromosome, or on a chromosome without genes.
    """

    path: str
    hit: int
    chance: float
    n_peaks: int
    n_genes: int
    beyond: int

    @property
    def expected(self) -> float:
        """Fewest starts in peaks that data of one genome have."""
        return max(FEWEST * min(self.n_peaks, self.n_genes), TIMES * self.chance)

    @property
    def at_chance(self) -> bool:
        """Say whether gene starts lie in peaks hardly more often than by chance, although they should."""
        above = poisson.sf(self.hit - 1, max(self.chance, 0.5)) < SURE and self.hit >= FEW_TIMES * self.chance
        return not above and bool(poisson.cdf(self.hit, self.expected) < SURE)

    @property
    def is_outside(self) -> bool:
        """Say whether more than a few peaks lie beyond the table's genes."""
        return self.beyond >= max(SEVERAL, SHARE * self.n_peaks)

    @property
    def figures(self) -> tuple[str, ...]:
        """Return what was found and expected, one phrase for each sign that speaks against the table."""
        phrases = []
        if self.at_chance:
            phrases.append(
                f"genes hardly start in peaks ({self.hit:,} do, {self.chance:,.1f} by chance, and "
                f"{self.expected:,.0f} or more are expected of {self.n_peaks:,} peaks of one genome)"
            )
        if self.is_outside:
            phrases.append(
                f"{self.beyond:,} of {self.n_peaks:,} peaks lie past the last gene of their chromosome or on "
                "one without genes (about 0 are expected)"
            )
        return tuple(phrases)


def fit_of(table: GeneTable, places: pd.DataFrame) -> GenomeFit:
    """Compare a gene table with the positions of peaks, as `parse_intervals` gives them."""
    genes = table.frame
    shared = set(genes["chrom"]) & set(places["chrom"].dropna())
    return GenomeFit(
        table.path,
        hit=promoters_hit(genes, places),
        chance=float(np.mean([promoters_hit(genes, places, shift=shift) for shift in SHIFTS])),
        n_peaks=int(places["chrom"].isin(shared).sum()),
        n_genes=int(genes["chrom"].isin(shared).sum()),
        beyond=_beyond(genes, places),
    )


def builds_of(places: pd.DataFrame) -> tuple[str, ...]:
    """Return the genome builds that peaks may have been called in, as UCSC names them.

    Builds of one species differ in the lengths of their chromosomes, and species in their number:
    those are returned in which fewest peaks end past their chromosome, or lie on a numbered
    chromosome that the build lacks. bioframe's table has man, mouse, zebrafish, fly, worm and yeast.

    Args:
        places: Positions of peaks, as `parse_intervals` gives them.

    Returns:
        Equally good builds; none if even the best leaves out more than `MISFITS` of the peaks.
    """
    import bioframe  # at use: it costs as much as the start of the command

    placed = places[places["chrom"].notna().to_numpy()]
    numbered = np.array([_ASSEMBLED.fullmatch(str(c)) is not None for c in placed["chrom"]], dtype=bool)
    if not numbered.any():
        return ()
    assemblies = bioframe.assemblies_available()
    misfits: dict[str, int] = {}
    for build in assemblies.loc[assemblies["provider"] == "ucsc", "provider_build"]:
        length = placed["chrom"].map(bioframe.assembly_info(build).chromsizes).to_numpy(dtype=np.float64)
        misfits[build] = int((placed["end"].to_numpy() > length).sum() + (numbered & np.isnan(length)).sum())
    best = min(misfits.values())
    return tuple(b for b, n in misfits.items() if n == best) if best <= MISFITS * len(placed) else ()


def check_species(fit: GenomeFit, *, by_case: int, n_genes: int) -> None:
    """Raise `InputError` if names and positions both say that the gene table is of another species.

    `by_case`: genes found without regard to case only, of `n_genes` found.
    """
    if by_case <= BY_CASE * max(1, n_genes) or not fit.figures:
        return
    raise InputError(
        "the gene table is of another species",
        file=fit.path,
        found=f"{by_case:,} of {n_genes:,} genes by their names without regard to case only; "
        + "; ".join(fit.figures),
        expected="names as in the data, and genes that start in peaks",
        hint="give the gene table of the genome that the reads were aligned to",
    )


def _beyond(genes: pd.DataFrame, places: pd.DataFrame) -> int:
    """Count peaks beyond a table's genes, for a whole genome's table; else 0."""
    by_chrom = genes.groupby("chrom", sort=False)["end"].agg(["max", "size"])
    # the gap behind the last gene is wide where genes are few
    limit = by_chrom["max"] + np.maximum(1_000_000, 20 * by_chrom["max"] / by_chrom["size"])
    placed = places[places["chrom"].notna().to_numpy()]
    end = placed["chrom"].map(limit).to_numpy(dtype=np.float64)
    beyond = int((placed["start"].to_numpy() > end).sum())
    if len(genes) >= _WHOLE:
        assembled = np.array([_ASSEMBLED.fullmatch(str(c)) is not None for c in placed["chrom"]], dtype=bool)
        beyond += int((assembled & np.isnan(end)).sum())
    return beyond
