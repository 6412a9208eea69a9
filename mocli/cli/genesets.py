"""The option that gives sets of genes to models that take their scores."""

from dataclasses import dataclass
from typing import Annotated

from mocli.cli.option import option
from mocli.cli.options import INPUT


@dataclass(frozen=True)
class GeneSetOptions:
    """Prior knowledge on which genes act together."""

    gene_sets: Annotated[
        str | None,
        option(
            "--gene-sets",
            panel=INPUT,
            metavar="GMT",
            help="Sets of genes whose scores encoders take beside the features (sccross)",
        ),
    ] = None
