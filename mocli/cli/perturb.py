"""`mocli perturb`."""

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

PERTURBATION = "Perturbation"
DIRECTIONS = ("up", "down", "both")


@dataclass(frozen=True)
class PerturbOptions:
    """Which features change and how, in which cells, and what is asked of the result."""

    source: Annotated[
        str | None,
        option(
            "--from",
            panel=PERTURBATION,
            metavar="COLUMN=VALUE",
            help="Cells that are perturbed; else all that --to does not name",
        ),
    ] = None
    target: Annotated[
        str | None,
        option(
            "--to",
            panel=PERTURBATION,
            metavar="COLUMN=VALUE",
            help="Cells that they should come nearer to: screen for what brings them there",
        ),
    ] = None
    from_model: Annotated[
        Path | None,
        option(
            "--from-model",
            panel=PERTURBATION,
            metavar="DIR",
            help="Trained model (OUT.model); without it one is trained first",
        ),
    ] = None
    source_modality: Annotated[
        str | None,
        option(
            "--source-modality",
            panel=PERTURBATION,
            metavar="MOD",
            help="Whose features change; else expression",
        ),
    ] = None
    screen: Annotated[
        str | None,
        option(
            "--screen",
            panel=PERTURBATION,
            metavar="hvg|all|FILE",
            help="hvg: the 2,000 most variable features; all the model takes; or names in a file "
            "[default: hvg]",
        ),
    ] = None
    features: Annotated[
        str | None,
        option(
            "--features",
            panel=PERTURBATION,
            metavar="A,B|FILE",
            help="Only these features; a file has one a line",
        ),
    ] = None
    together: Annotated[
        bool, option("--together", panel=PERTURBATION, help="Change all --features at once, as a signature")
    ] = False
    direction: Annotated[
        str | None,
        option(
            "--direction",
            panel=PERTURBATION,
            metavar="|".join(DIRECTIONS),
            check=choice(*DIRECTIONS),
            help="Raise, lower, or one after the other [default: both; down for a knock-out]",
        ),
    ] = None
    effect: Annotated[
        str,
        option(
            "--effect",
            panel=PERTURBATION,
            metavar="EFFECT",
            help="scale=SHARE, knockout, log-shift=X (normalised log) or count-shift=X",
        ),
    ] = "scale=0.5"
    group_key: Annotated[
        str | None,
        option(
            "--group-key",
            panel=PERTURBATION,
            metavar="COLUMN",
            help="obs column: repeat within each of its groups, such as cell types",
        ),
    ] = None
    min_cells: Annotated[
        int,
        option(
            "--min-cells",
            panel=PERTURBATION,
            metavar="N",
            least=1,
            help="Of a group; smaller ones are named in the report",
        ),
    ] = 100
    target_modality: Annotated[
        str | None,
        option(
            "--target-modality",
            panel=PERTURBATION,
            metavar="MOD",
            help="Predict this modality by --features; or measure a screen's shifts in it too",
        ),
    ] = None
    truth: Annotated[
        str | None,
        option(
            "--truth",
            panel=PERTURBATION,
            metavar="COLUMN",
            help="obs column naming the feature really perturbed in a cell: compare predictions with it",
        ),
    ] = None
    write_predicted: Annotated[
        bool,
        option("--write-predicted", panel=OUTPUT, help="Also write OUT.predicted.h5mu: values cell by cell"),
    ] = False


@with_options(*SHARED, GeneSetOptions, PerturbOptions)
def perturb(settings: Settings) -> None:
    """Change features of cells, and see where the cells go.

    For example: mocli perturb data.h5mu --from-model out.model --from state=ill --to state=well -o out.tsv
    """
    call("mocli.tasks.perturb.perturb:perturb", settings)
