"""Whether a gene table belongs to the genome that peaks were called in: what is found, and what is expected.

Three signs, each with its figures: starts of genes lie in peaks hardly more often than by chance;
peaks lie where the table's genome has no more genes; names agree only without regard to case, as
those of man and mouse do.

What peaks alone say: the builds whose chromosomes are long enough for them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import poisson

from mocli.data.genome.genes import GeneTable
from mocli.data.genome.near import promoters_hit
from mocli.errors import InputError

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
