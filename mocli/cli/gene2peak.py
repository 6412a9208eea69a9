"""`mocli gene2peak`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mocli.cli.call import call
from mocli.cli.command import with_options
from mocli.cli.genesets import GeneSetOptions
from mocli.cli.option import option
from mocli.cli.options import OUTPUT, SHARED
from mocli.cli.settings import Settings

RELATIONS = "Relations"
SILENCING = "Silencing genes"


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
    method: Annotated[
        str,
        option(
            "--method",
            panel=RELATIONS,
            metavar="WAY",
            help="correlation (of imputed expression); latent (the gene silenced through the decoder); "
            "input (the cell encoded without it); auto: latent where the model can",
        ),
    ] = "auto"
    direction: Annotated[
        str, option("--direction", panel=SILENCING, metavar="WHICH", help="silence or raise the gene")
    ] = "silence"
    step: Annotated[
        str,
        option(
            "--step",
            panel=SILENCING,
            metavar="KIND",
            help="adam (the authors' first step), sign (without weight decay), norm (along the gradient)",
        ),
    ] = "adam"
    together: Annotated[
        bool, option("--together", panel=SILENCING, help="All genes at once, not one by one")
    ] = False
    min_cells: Annotated[
        int,
        option(
            "--min-cells",
            panel=SILENCING,
            metavar="N",
            least=1,
            help="Leave out genes that fewer cells express, also within groups",
        ),
    ] = 20
    alternative: Annotated[
        str,
        option(
            "--alternative",
            panel=SILENCING,
            metavar="SIDE",
            help="two-sided; negative: only peaks that close count; positive: that open",
        ),
    ] = "two-sided"
    peak_sets: Annotated[
        Path | None,
        option(
            "--peak-sets",
            panel=SILENCING,
            metavar="FILE",
            help="Peaks with a factor's motif (table of set and peak, or BED): do they close with it?",
        ),
    ] = None
    truth: Annotated[
        Path | None,
        option(
            "--truth", panel=SILENCING, metavar="FILE", help="Known pairs, BEDPE: precision beside baselines"
        ),
    ] = None


@with_options(*SHARED, GeneSetOptions, Gene2PeakOptions)
def gene2peak(settings: Settings) -> None:
    """Find the peaks that go with each gene.

    For example: mocli gene2peak multiome.h5mu --from-model out.model --gtf genes.gtf.gz -o links.tsv
    """
    call("mocli.tasks.gene2peak.gene2peak:gene2peak", settings)
