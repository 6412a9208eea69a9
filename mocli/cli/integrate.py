"""`mocli integrate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mocli.cli import values
from mocli.cli.call import call
from mocli.cli.command import with_options
from mocli.cli.genesets import GeneSetOptions
from mocli.cli.option import option
from mocli.cli.options import OUTPUT, SHARED
from mocli.cli.settings import Settings
from mocli.cli.training import TRAINING


@dataclass(frozen=True)
class IntegrateOptions:
    """What integration alone can write."""

    key_added: Annotated[
        str | None,
        option("--key-added", panel=OUTPUT, metavar="KEY", help="obsm key of the latent; else X_<model>"),
    ] = None
    sample: Annotated[
        int,
        option(
            "--sample",
            panel=OUTPUT,
            metavar="N",
            least=0,
            help="Also write N draws from every cell's posterior, obsm X_<model>_sample_1, ...",
        ),
    ] = 0
    marginal: Annotated[
        bool,
        option(
            "--marginal",
            panel=OUTPUT,
            help="Also write where cells lie by one modality alone, obsm X_<model>_rna, ...",
        ),
    ] = False
    metrics: Annotated[
        bool,
        option(
            "--metrics/--no-metrics",
            panel=OUTPUT,
            help="Measure the integration, and baselines beside it; on wide links that takes minutes",
        ),
    ] = True
    clusters: Annotated[
        float | None,
        option(
            "--clusters",
            panel=OUTPUT,
            metavar="RESOLUTION",
            check=values.positive,
            help="Add graph clusters (Louvain) at a resolution, such as 1, as obs <model>_louvain",
        ),
    ] = None
    umap: Annotated[bool, option("--umap", panel=OUTPUT, help="Add a UMAP of the latent as obsm X_umap")] = (
        False
    )


@dataclass(frozen=True)
class ReferenceOptions:
    """A trained model that takes the cells in."""

    reference: Annotated[
        Path | None,
        option(
            "--reference",
            panel=TRAINING,
            metavar="DIR",
            help="Place the cells among those of a trained model (OUT.model); only new weights are trained",
        ),
    ] = None


@dataclass(frozen=True)
class TransferOptions:
    """Labels carried over to the cells that lack them."""

    transfer_labels: Annotated[
        str | None,
        option(
            "--transfer-labels",
            panel=OUTPUT,
            metavar="COLUMN[,COLUMN]",
            help="Label cells that lack this obs column by neighbours in other modalities or the reference",
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


@with_options(*SHARED, GeneSetOptions, ReferenceOptions, IntegrateOptions, TransferOptions)
def integrate(settings: Settings) -> None:
    """Bring the cells of all modalities into one latent space.

    For example: mocli integrate rna.h5ad prot.h5ad --links rna-prot.tsv -o out.h5mu
    """
    call("mocli.tasks.integrate.integrate:integrate", settings)
