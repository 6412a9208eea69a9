"""`mocli integrate`."""

from dataclasses import dataclass
from typing import Annotated

from mocli.cli.call import call
from mocli.cli.command import with_options
from mocli.cli.option import option
from mocli.cli.options import OUTPUT, SHARED
from mocli.cli.settings import Settings


@dataclass(frozen=True)
class IntegrateOptions:
    """What integration alone can write."""

    key_added: Annotated[
        str | None,
        option("--key-added", panel=OUTPUT, metavar="KEY", help="obsm key of the latent; else X_<model>"),
    ] = None
    umap: Annotated[bool, option("--umap", panel=OUTPUT, help="Add a UMAP of the latent as obsm X_umap")] = (
        False
    )


@dataclass(frozen=True)
class TransferOptions:
    """Labels carried over to the cells that lack them."""

    transfer_labels: Annotated[
        str | None,
        option(
            "--transfer-labels",
            panel=OUTPUT,
            metavar="COLUMN[,COLUMN]",
            help="Label cells that lack this obs column by their neighbours in other modalities",
        ),
    ] = None
    min_confidence: Annotated[
        float,
        option(
            "--min-confidence",
            panel=OUTPUT,
            metavar="X",
            help="Below it a transferred label is 'unknown'",
        ),
    ] = 0.5


@with_options(*SHARED, IntegrateOptions, TransferOptions)
def integrate(settings: Settings) -> None:
    """Bring the cells of all modalities into one latent space.

    For example: mocli integrate rna.h5ad prot.h5ad --links rna-prot.tsv -o out.h5mu
    """
    call("mocli.tasks.integrate:integrate", settings)
