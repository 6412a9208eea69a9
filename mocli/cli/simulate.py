"""`mocli simulate`."""

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

SIMULATION = "Simulation"
MODES = ("draw", "mean")
PLACES = ("auto", "cells", "mixture")


@dataclass(frozen=True)
class SimulateOptions:
    """Which cells, how many, measured how."""

    from_model: Annotated[
        Path | None,
        option(
            "--from-model",
            panel=SIMULATION,
            metavar="DIR",
            help="Trained model (OUT.model); INPUT is then what to compare with. Without it one is trained",
        ),
    ] = None
    label: Annotated[
        list[str] | None,
        option(
            "--label",
            panel=SIMULATION,
            metavar="COLUMN=VALUE",
            help="Cells of this label; repeatable [default: all labels]",
        ),
    ] = None
    component: Annotated[
        list[int] | None,
        option(
            "--component", panel=SIMULATION, metavar="K", help="Cells of this cluster of the model, from 0"
        ),
    ] = None
    fold: Annotated[
        float | None,
        option(
            "--fold",
            panel=SIMULATION,
            metavar="X",
            help="Times as many as training cells have the label [default: 1]",
        ),
    ] = None
    n_cells: Annotated[
        int | None,
        option("--n-cells", panel=SIMULATION, metavar="N", help="Cells of each label, instead of --fold"),
    ] = None
    modality: Annotated[
        list[str] | None,
        option(
            "--modality", panel=SIMULATION, metavar="MOD", help="Write this one; repeatable [default: all]"
        ),
    ] = None
    batch: Annotated[
        str,
        option(
            "--batch",
            panel=SIMULATION,
            metavar="LEVEL|average|as-source",
            help="Batch of the cells; as-source: that of the training cell each follows",
        ),
    ] = "as-source"
    library: Annotated[
        str | None,
        option(
            "--library",
            panel=SIMULATION,
            metavar="sampled|median|mean|N",
            help="Total counts of a cell [default: sampled from the label's training cells]",
        ),
    ] = None
    mode: Annotated[
        str,
        option(
            "--mode",
            panel=SIMULATION,
            metavar="|".join(MODES),
            check=choice(*MODES),
            help="draw: as diverse as real cells; mean: about one mean place, as scCross does",
        ),
    ] = "draw"
    places: Annotated[
        str,
        option(
            "--places",
            panel=SIMULATION,
            metavar="|".join(PLACES),
            check=choice(*PLACES),
            help="Around training cells, or from the model's mixture components",
        ),
    ] = "auto"
    key_added: Annotated[
        str | None,
        option("--key-added", panel=OUTPUT, metavar="KEY", help="obsm key of the places; else X_<model>"),
    ] = None


@with_options(*SHARED, GeneSetOptions, SimulateOptions)
def simulate(settings: Settings) -> None:
    """Make new cells of chosen types, matched in all modalities.

    For example: mocli simulate --from-model out.model --label cell_type=Astro --fold 5 -o sim.h5mu
    """
    call("mocli.tasks.simulate.simulate:simulate", settings, needs_input=False)
