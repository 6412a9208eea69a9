"""The options of `mocli gene2peak`, besides those that every subcommand has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mocli import parsing
from mocli.errors import UsageError
from mocli.options import Options, option
from mocli.tasks.run.options import OUTPUT, given_model

RELATIONS = "Genes and peaks"
SILENCING = "In-silico silencing"
METHODS = ("auto", "metacells", "correlation", "latent", "input")
STEPS = ("norm", "adam", "sign")
ALTERNATIVES = ("two-sided", "positive", "negative")
PEAK_SETS = ".peaksets.tsv"


@dataclass(frozen=True)
class Gene2PeakOptions(Options):
    """What only `mocli gene2peak` takes."""

    PANEL: ClassVar = RELATIONS

    LACKS: ClassVar = frozenset({"umap", "key_added"})

    source: str | None = option("--from MOD", "Measured modality", shown="accessibility, else expression")
    target: str | None = option("--to MOD", "Imputed modality", shown="expression, else proteins")
    from_model: Path | None = given_model()
    gtf: Path | None = option(
        "--gtf FILE",
        "Gene table with gene positions: GTF, GFF3, BED, or TSV with chrom, start, end, strand, gene",
    )
    genes: tuple[str, ...] = option(
        "--genes A,B|FILE",
        "Test only these genes; a file has one name a line",
        default=(),
        parse=parsing.names,
    )
    window: int | None = option(
        "--window BASES",
        "Distance from the transcription start site within which peaks are tested",
        least=0,
        shown="100000",
    )
    method: str = option(
        "--method",
        "metacells (of measured values, no model); correlation (of imputed expression); latent (the gene "
        "silenced through the decoder); input (the cell encoded without it); auto: metacells, "
        "and latent together with them where a model is given or asked for",
        default="auto",
        choices=METHODS,
    )
    group_key: str | None = option(
        "--group-key COLUMN", "obs column: repeat within each of its groups, such as cell types"
    )
    n_permutations: int = option(
        "--n-permutations N",
        "Cell permutations used for p-values (0 = none)",
        default=20,
        marks="advanced",
        least=0,
    )
    bedpe: bool = option(
        "--bedpe", "Also write OUT.bedpe: arcs for genome browsers", default=False, panel=OUTPUT
    )
    direction: str = option(
        "--direction",
        "Silence or raise the gene",
        default="silence",
        marks="advanced",
        panel=SILENCING,
        choices=("silence", "raise"),
    )
    step: str = option(
        "--step",
        "norm (along the gradient), adam (the authors' first step), sign (without weight decay)",
        default="norm",
        marks="advanced",
        panel=SILENCING,
        choices=STEPS,
    )
    together: bool = option(
        "--together",
        "Silence all genes at once, not one by one",
        default=False,
        marks="advanced",
        panel=SILENCING,
    )
    min_cells: int = option(
        "--min-cells N",
        "Leave out genes that fewer cells express, also within groups",
        default=20,
        marks="advanced",
        panel=SILENCING,
        least=1,
    )
    alternative: str = option(
        "--alternative",
        "two-sided; negative: only peaks that close count; positive: only peaks that open",
        default="two-sided",
        marks="advanced",
        panel=SILENCING,
        choices=ALTERNATIVES,
    )
    peak_sets: Path | None = option(
        "--peak-sets FILE",
        "Peaks with a factor's motif (table of set and peak, or BED): test whether they close when it "
        "is silenced",
        panel=SILENCING,
    )
    peak_set_classes: Path | None = option(
        "--peak-set-classes FILE",
        "Table of set and class, such as activator and repressor: classes against each other (t-test)",
        marks="advanced",
        panel=SILENCING,
    )
    truth: Path | None = option(
        "--truth FILE", "Known pairs (BEDPE): report the precision beside that of baselines", panel=SILENCING
    )

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
