"""The options of `mocli gene2peak`, besides those that every subcommand has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from mocli import parsing
from mocli.errors import UsageError
from mocli.options import Options, option
from mocli.tasks.run.options import OUTPUT

RELATIONS = "Genes and peaks"
SILENCING = "In-silico silencing"
METHODS = ("auto", "metacells", "correlation", "latent", "input")
STEPS = ("adam", "sign", "norm")
ALTERNATIVES = ("two-sided", "positive", "negative")
PEAK_SETS = ".peaksets.tsv"


@dataclass(frozen=True)
class Gene2PeakOptions(Options):
    """Find the peaks that go with each gene.

    For example: mocli gene2peak multiome.h5mu --from-model out.model --gtf genes.gtf.gz -o links.tsv
    """

    PANEL: ClassVar = RELATIONS

    LACKS: ClassVar = frozenset({"umap", "key_added"})

    source: Annotated[
        str | None, option("--from MOD", "Measured modality", shown="accessibility, else expression")
    ] = None
    target: Annotated[
        str | None, option("--to MOD", "Imputed modality", shown="expression, else proteins")
    ] = None
    from_model: Annotated[
        Path | None, option("--from-model DIR", "Trained model (OUT.model); without it one is trained first")
    ] = None
    gtf: Annotated[
        Path | None,
        option(
            "--gtf FILE",
            "Gene table with gene positions: GTF, GFF3, BED, or TSV with chrom, start, end, strand, gene",
        ),
    ] = None
    genes: Annotated[
        tuple[str, ...],
        option("--genes A,B|FILE", "Test only these genes; a file has one name a line", parse=parsing.names),
    ] = ()
    window: Annotated[
        int | None,
        option(
            "--window BASES",
            "Distance from the transcription start site within which peaks are tested",
            least=0,
            shown="100000",
        ),
    ] = None
    method: Annotated[
        str,
        option(
            "--method",
            "metacells (of measured values, no model); correlation (of imputed expression); latent (the gene "
            "silenced through the decoder); input (the cell encoded without it); auto: latent and metacells "
            "together where the model can",
            choices=METHODS,
        ),
    ] = "auto"
    group_key: Annotated[
        str | None,
        option("--group-key COLUMN", "obs column: repeat within each of its groups, such as cell types"),
    ] = None
    n_permutations: Annotated[
        int,
        option(
            "--n-permutations N", "Cell permutations used for p-values (0 = none)", least=0, advanced=True
        ),
    ] = 20
    bedpe: Annotated[
        bool, option("--bedpe", "Also write OUT.bedpe: arcs for genome browsers", panel=OUTPUT)
    ] = False
    direction: Annotated[
        str,
        option(
            "--direction",
            "Silence or raise the gene",
            panel=SILENCING,
            choices=("silence", "raise"),
            advanced=True,
        ),
    ] = "silence"
    step: Annotated[
        str,
        option(
            "--step",
            "adam (the authors' first step), sign (without weight decay), norm (along the gradient)",
            panel=SILENCING,
            choices=STEPS,
            advanced=True,
        ),
    ] = "adam"
    together: Annotated[
        bool,
        option("--together", "Silence all genes at once, not one by one", panel=SILENCING, advanced=True),
    ] = False
    min_cells: Annotated[
        int,
        option(
            "--min-cells N",
            "Leave out genes that fewer cells express, also within groups",
            panel=SILENCING,
            least=1,
            advanced=True,
        ),
    ] = 20
    alternative: Annotated[
        str,
        option(
            "--alternative",
            "two-sided; negative: only peaks that close count; positive: only peaks that open",
            panel=SILENCING,
            choices=ALTERNATIVES,
            advanced=True,
        ),
    ] = "two-sided"
    peak_sets: Annotated[
        Path | None,
        option(
            "--peak-sets FILE",
            "Peaks with a factor's motif (table of set and peak, or BED): test whether they close when it "
            "is silenced",
            panel=SILENCING,
        ),
    ] = None
    peak_set_classes: Annotated[
        Path | None,
        option(
            "--peak-set-classes FILE",
            "Table of set and class, such as activator and repressor: classes against each other (t-test)",
            panel=SILENCING,
            advanced=True,
        ),
    ] = None
    truth: Annotated[
        Path | None,
        option(
            "--truth FILE",
            "Known pairs (BEDPE): report the precision beside that of baselines",
            panel=SILENCING,
        ),
    ] = None

    def __post_init__(self) -> None:
        """Take a gene table given as --genes, its name in `links build`, as the gene table."""
        genes = self.genes
        table = genes if isinstance(genes, (str, Path)) and parsing.is_table(Path(genes)) else None
        if table is not None and self.gtf is None:
            object.__setattr__(self, "gtf", Path(table))
            object.__setattr__(self, "genes", ())
        elif table is not None:
            raise UsageError(
                "--genes takes names, one a line; the file has columns",
                field="--genes",
                found=table,
                hint="--gtf takes the gene table",
            )
        super().__post_init__()

    @property
    def of_silencing(self) -> list[str]:
        """Return the options given that only matter to silencing."""
        silencing = {n: o for n, o in self.given().items() if o.option.panel == SILENCING}
        return [declared.long for name, declared in silencing.items() if name != "min_cells"]

    def check_together(self) -> None:
        """Refuse combinations that mean nothing."""
        unused = self.of_silencing if self.method in {"correlation", "metacells"} else []
        if self.method == "metacells":
            unused = [name for name in unused if name != "--truth"]
            unused += ["--from-model"] if self.from_model is not None else []
        if unused:
            raise UsageError(
                f"--method {self.method} does not use {unused[0]}",
                field=unused[0],
                found=f"--method {self.method}",
                hint="leave one of the two out",
            )
        if self.peak_set_classes is not None and self.peak_sets is None:
            raise UsageError(
                "--peak-set-classes needs --peak-sets",
                field="--peak-set-classes",
                hint="add --peak-sets FILE",
            )
        for name, path in (("--truth", self.truth), ("--bedpe", self.bedpe)):
            if path and self.gtf is None:
                raise UsageError(
                    f"{name} needs the genes' positions, which --gtf gives",
                    field=name,
                    hint="give --gtf FILE",
                )
