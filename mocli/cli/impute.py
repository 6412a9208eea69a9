"""`mocli impute`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mocli.cli.call import call
from mocli.cli.command import with_options
from mocli.cli.genesets import GeneSetOptions
from mocli.cli.option import option
from mocli.cli.options import OUTPUT, SHARED
from mocli.cli.settings import Settings
from mocli.cli.values import choice

IMPUTATION = "Imputation"
CELLS = ("missing", "all")
SCALES = ("log", "counts", "scaled", "shares")
ROUTES = ("auto", "decoder", "readout")


@dataclass(frozen=True)
class ImputeOptions:
    """From where to where, for which cells, on what scale."""

    source: Annotated[
        str | None,
        option("--from", panel=IMPUTATION, metavar="MOD", help="Modality that the cells have"),
    ] = None
    target: Annotated[
        str | None,
        option("--to", panel=IMPUTATION, metavar="MOD", help="Modality to impute; the same denoises it"),
    ] = None
    from_model: Annotated[
        Path | None,
        option(
            "--from-model",
            panel=IMPUTATION,
            metavar="DIR",
            help="Trained model (OUT.model); without it one is trained first",
        ),
    ] = None
    cells: Annotated[
        str,
        option(
            "--cells",
            panel=IMPUTATION,
            metavar="|".join(CELLS),
            check=choice(*CELLS),
            help="missing: cells without the target; all: also measured ones",
        ),
    ] = "missing"
    evaluate: Annotated[
        bool,
        option(
            "--evaluate",
            panel=IMPUTATION,
            help="Hide measured values, predict them and compare, with --label-key also by label",
        ),
    ] = False
    hold_out: Annotated[
        str,
        option(
            "--hold-out",
            panel=IMPUTATION,
            metavar="SHARE|COLUMN=VALUE",
            help="Paired cells kept out of training, for accuracy and intervals; or all of one batch",
        ),
    ] = "0.2"
    scale: Annotated[
        str,
        option(
            "--scale",
            panel=IMPUTATION,
            metavar="|".join(SCALES),
            check=choice(*SCALES),
            help="log: normalised, logged; counts: at median depth (denoised: the cell's own); scaled: in "
            "standard deviations; shares: of the cell's total, denoised only",
        ),
    ] = "log"
    route: Annotated[
        str,
        option(
            "--route",
            panel=IMPUTATION,
            metavar="|".join(ROUTES),
            check=choice(*ROUTES),
            help="Values by the model's decoder, or by a readout fitted to its latent",
        ),
    ] = "auto"
    decode_batch: Annotated[
        str | None,
        option(
            "--decode-batch",
            panel=IMPUTATION,
            metavar="LEVEL|own|average",
            help="Decode as this batch, as each cell's own, or as the mean over those that measured the "
            "target, which is the decoder's default",
        ),
    ] = None
    coverage: Annotated[
        float,
        option(
            "--coverage",
            panel=IMPUTATION,
            metavar="X",
            help="Share of true values that prediction intervals hold",
        ),
    ] = 0.9
    draw: Annotated[
        bool,
        option(
            "--draw",
            panel=IMPUTATION,
            help="Also write a draw of every value from the model's likelihood, at the depth of the cell",
        ),
    ] = False
    features: Annotated[
        str | None,
        option(
            "--features",
            panel=IMPUTATION,
            metavar="A,B|FILE",
            help="Only these features; a file has one a line",
        ),
    ] = None
    key_added: Annotated[
        str | None,
        option("--key-added", panel=OUTPUT, metavar="KEY", help="obsm key of the latent; else X_<model>"),
    ] = None


@with_options(*SHARED, GeneSetOptions, ImputeOptions)
def impute(settings: Settings) -> None:
    """Fill in a modality that cells lack, with prediction intervals.

    For example: mocli impute query.h5ad --from-model out.model --to prot -o filled.h5mu
    """
    call("mocli.tasks.impute.impute:impute", settings)
