"""`mocli gene2peak`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mocli.cli.call import call
from mocli.cli.command import with_options
from mocli.cli.option import option
from mocli.cli.options import OUTPUT, SHARED
from mocli.cli.settings import Settings

RELATIONS = "Relations"


@dataclass(frozen=True)
class Gene2PeakOptions:
    """Which genes, how far around them, over which cells."""

    source: Annotated[
        str | None,
        option(
            "--from",
            panel=RELATIONS,
            metavar="MOD",
            help="Measured modality; else accessibility, or where there is none expression",
        ),
    ] = None
    target: Annotated[
        str | None,
        option("--to", panel=RELATIONS, metavar="MOD", help="Imputed modality; else expression, or proteins"),
    ] = None
    from_model: Annotated[
        Path | None,
        option(
            "--from-model",
            panel=RELATIONS,
            metavar="DIR",
            help="Trained model (OUT.model); without it one is trained first",
        ),
    ] = None
    gtf: Annotated[
        Path | None,
        option(
            "--gtf",
            panel=RELATIONS,
            metavar="FILE",
            help="Where genes lie: GTF, GFF3, BED, or TSV with chrom, start, end, strand, gene",
        ),
    ] = None
    genes: Annotated[
        str | None,
        option(
            "--genes", panel=RELATIONS, metavar="A,B|FILE", help="Only these genes; a file has one a line"
        ),
    ] = None
    window: Annotated[
        int | None,
        option(
            "--window",
            panel=RELATIONS,
            metavar="BASES",
            least=0,
            help="Around the TSS, in which peaks are tested [default: 100000]",
        ),
    ] = None
    group_key: Annotated[
        str | None,
        option(
            "--group-key",
            panel=RELATIONS,
            metavar="COLUMN",
            help="obs column: repeat within each of its groups, such as cell types",
        ),
    ] = None
    n_permutations: Annotated[
        int,
        option(
            "--n-permutations", panel=RELATIONS, metavar="N", least=0, help="Of the cells, for p; 0: none"
        ),
    ] = 20
    bedpe: Annotated[
        bool, option("--bedpe", panel=OUTPUT, help="Also write OUT.bedpe: arcs for genome browsers")
    ] = False


@with_options(*SHARED, Gene2PeakOptions)
def gene2peak(settings: Settings) -> None:
    """Find the peaks that go with each gene.

    For example: mocli gene2peak multiome.h5mu --from-model out.model --gtf genes.gtf.gz -o links.tsv
    """
    call("mocli.tasks.gene2peak:gene2peak", settings)
