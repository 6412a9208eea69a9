"""A gene table of another genome build or species is noticed, on small sets too; one that fits is not."""

import numpy as np
import pandas as pd
import pytest

from mocli.data.features.genes import GeneTable, builds_of, fit_of, read_genes
from mocli.data.features.index import Features, features_of
from mocli.data.features.intervals import Reach, parse_intervals
from mocli.data.features.loci import Loci, find_vicinity, has_places, intervals_of
from mocli.data.features.loci import doubts as loci_doubts
from mocli.data.files.inputs import open_inputs
from mocli.errors import InputError
from mocli.tasks.links.build import link_peaks
from mocli.types import ModalityKind

N_CHROMS, LENGTH = 12, 90_000_000


def table(n=6000, *, seed=0, length=LENGTH, names="GENE{}", moved=0):
    """Genes spread over chromosomes at random."""
    rng = np.random.default_rng(seed)
    start = rng.integers(1_000_000, length, n) + moved
    frame = pd.DataFrame(
        {
            "gene": [names.format(i) for i in range(n)],
            "gene_id": "",
            "chrom": [f"chr{1 + i % N_CHROMS}" for i in range(n)],
            "start": start,
            "end": start + 20_000,
            "strand": np.where(rng.random(n) < 0.5, "+", "-"),
        }
    )
    frame["tss"] = np.where(frame["strand"] == "+", frame["start"], frame["end"] - 1)
    return GeneTable("genes.gtf", frame)


def peaks(genes, n, *, promoters=0.2, seed=1):
    """Peaks of one genome: some at starts of genes, the others anywhere between the genes."""
    rng = np.random.default_rng(seed)
    rows = genes.frame.iloc[rng.permutation(len(genes.frame))[:n]]
    at_start = rng.random(n) < promoters
    middle = np.where(at_start, rows["tss"], rng.integers(1_000_000, LENGTH, n))
    names = tuple(f"{c}:{m - 300}-{m + 300}" for c, m in zip(rows["chrom"], middle, strict=True))
    return Features("atac", ModalityKind.ATAC, names)


def rna(genes, n=400, change=str):
    return Features("rna", ModalityKind.RNA, tuple(change(name) for name in genes.frame["gene"][:n]))


def doubts(genes, some):
    return fit_of(genes, intervals_of(some)).figures


@pytest.mark.parametrize("n", [40, 150, 400, 3000])
@pytest.mark.parametrize("promoters", [0.1, 0.3])
def test_one_genome_raises_nothing(n, promoters):
    genes = table()
    for seed in range(5):
        assert doubts(genes, peaks(genes, n, promoters=promoters, seed=seed)) == ()
        few = GeneTable("few.bed", genes.frame[:50])
        assert doubts(few, peaks(genes, n, promoters=promoters, seed=seed)) == ()


@pytest.mark.parametrize("n", [400, 800, 3000])
def test_another_build_is_noticed_on_small_sets_with_figures(n):
    genes = table()
    other = GeneTable("hg19.gtf", genes.frame.assign(**{c: genes.frame[c] + 777_777 for c in
                                                        ("start", "end", "tss")}))  # fmt: skip
    for seed in range(5):
        (figure,) = doubts(other, peaks(genes, n, seed=seed))
        assert "genes hardly start in peaks" in figure
        assert f"or more are expected of {n:,} peaks" in figure


def test_peaks_past_the_last_gene_are_counted():
    genes, short = table(), table(length=70_000_000, seed=3)
    some = peaks(genes, 200)
    places = intervals_of(some)
    last = short.frame.groupby("chrom")["end"].max()
    # a few genes may lie behind the last one, but no hundred of them
    limit = places["chrom"].map(last + np.maximum(1e6, 20 * last / short.frame.groupby("chrom").size()))
    expected = int((places["start"] > limit).sum())
    assert expected > 20
    fit = fit_of(short, places)
    assert fit.beyond == expected
    assert any(f"{expected} of 200 peaks lie past the last gene" in f for f in fit.figures)
    # of a table of few genes nothing can be said, nor of a chromosome that it lacks
    assert fit_of(GeneTable("few", short.frame[:60]), places).beyond == 0
    without = short.frame[short.frame["chrom"] != "chr1"]
    more = int((places["chrom"] == "chr1").sum())
    assert more > 5
    inside = limit[places["chrom"] != "chr1"]
    rest = int((places.loc[inside.index, "start"] > inside).sum())
    assert fit_of(GeneTable("short", without), places).beyond == rest + more


@pytest.mark.parametrize("find", [
    lambda genes, some, other: link_peaks(genes, some, other, Reach("window")),
    lambda genes, some, other: find_vicinity(genes, some, other),
])  # fmt: skip
def test_another_species_is_refused_where_names_and_places_say_so(find):
    genes = table()
    some = peaks(genes, 300)
    mouse = table(seed=9, names="Gene{}", length=70_000_000)
    with pytest.raises(InputError, match="of another species") as error:
        find(rna(genes), some, mouse)
    assert "400 of 400 genes by their names without regard to case only" in error.value.found
    assert "expected" in error.value.found
    assert "aligned" in error.value.hint
    # names alone are a matter of spelling, places alone one of the build: both are said, none is refused
    spelt = find(rna(genes, change=str.title), some, genes)
    assert any("without regard to case" in note for note in spelt.notes)
    built = find(rna(genes), some, table(seed=9))
    (note,) = [n for n in built.notes if n.startswith("warning: ")]
    assert "is genes.gtf of another genome build or species?" in note


def test_almost_no_gene_is_refused_and_a_short_table_is_not():
    genes = table()
    some = peaks(genes, 300)
    names = Features("rna", ModalityKind.RNA, ("GENE1", *(f"other{i}" for i in range(500))))
    with pytest.raises(InputError, match="only 1 of 501 genes of 'rna' are in the gene table"):
        find_vicinity(names, some, genes)
    short = GeneTable("mine.bed", genes.frame[:5])
    assert len(np.unique(find_vicinity(rna(genes), some, short, window=30_000_000).gene)) > 0


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "own"),
    [("snareseq_mouse_cortex", "mm10"), ("multiome_pbmc_tiny40", "hg38"), ("scicar_a549", "hg19")],
)
def test_small_parts_of_real_sets(shared_data, name, own):
    """500 peaks, drawn five times: nothing is said of the own build, something of any other."""
    files = open_inputs([str(shared_data / f"{name}.h5mu")])
    whole = next(f for f in features_of(files, var_key=None) if has_places(f))
    places = intervals_of(whole)
    for build in ("hg19", "hg38", "mm10"):
        genes = read_genes(shared_data / f"prior_genes_{build}.tsv.gz")
        said = [
            bool(fit_of(genes, places.iloc[np.random.default_rng(seed).choice(len(places), 500)]).figures)
            for seed in range(5)
        ]
        assert sum(said) == 0 if build == own else sum(said) >= 4
    assert builds_of(places) == (own,)


@pytest.mark.real_data
@pytest.mark.parametrize(("build", "warned"), [("hg19", True), ("hg38", False), ("mm10", True)])
def test_a_few_peaks_tell_a_table_of_another_build(shared_data, build, warned):
    """600 peaks, too few for the number of genes that start in them to say anything."""
    files = open_inputs([str(shared_data / "multiome_bmmc_2batch.h5mu")])
    whole = next(f for f in features_of(files, var_key=None) if has_places(f))
    table = read_genes(shared_data / f"prior_genes_{build}.tsv.gz")
    none = Loci(*(np.zeros(0, np.int64),) * 2, np.zeros(0), (), ())
    said = loci_doubts(table, intervals_of(whole), whole, none)
    assert [line.partition(": by the ends")[0] for line in said] == (
        [f"warning: {table.path} is of another genome build than atac"] if warned else []
    )
    assert all(f"of {build}, and the peaks of hg38" in line for line in said)


def test_builds_are_told_by_the_ends_of_chromosomes():
    """By UCSC chr17 has 81,195,210 bases in hg19, 83,257,441 in hg38; chr19 59,128,983 and 58,617,616."""
    inner = [f"chr{k}-100-900" for k in range(1, 23)]
    assert {"hg19", "hg38"} <= set(builds_of(parse_intervals(inner)))
    assert builds_of(parse_intervals([*inner, "17:83000000-83000500"])) == ("hg38", "hs1")
    assert builds_of(parse_intervals([*inner, "chr19:59000000-59000500"])) == ("hg19", "hs1")
    assert builds_of(parse_intervals([*inner, "chr1-400000000-400000500"])) == ()
    assert builds_of(parse_intervals(["scaffold_1:5-10", "CD3"])) == ()
