"""Options of every subcommand that trains: which model, how, and where chance begins."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mocli.cli import values
from mocli.cli.option import option
from mocli.cli.values import Pairs, choice
from mocli.models.registry import available
from mocli.types import Preset

MODELS = "|".join(["auto", *available()])
PRESETS = [preset.value for preset in Preset]

TRAINING = "Model and training"


@dataclass(frozen=True)
class ModelOptions:
    """Which model."""

    model: Annotated[
        str,
        option(
            "--model",
            "-m",
            panel=TRAINING,
            metavar=MODELS,
            check=values.model,
            help="Model; auto chooses for the data and says why",
        ),
    ] = "auto"


@dataclass(frozen=True)
class ScheduleOptions:
    """How a model trains; None leaves a value to it."""

    preset: Annotated[
        str,
        option(
            "--preset",
            panel=TRAINING,
            metavar="|".join(PRESETS),
            check=choice(*PRESETS),
            help="auto: sized to the data, stops when converged; paper: the published schedule",
        ),
    ] = "auto"
    n_latent: Annotated[
        int | None, option("--n-latent", panel=TRAINING, metavar="N", least=1, help="Latent dimensions")
    ] = None
    max_steps: Annotated[
        int | None,
        option(
            "--max-steps",
            panel=TRAINING,
            metavar="N",
            least=1,
            help="Training steps at most; overrides the preset",
        ),
    ] = None
    batch_size: Annotated[
        int | None, option("--batch-size", panel=TRAINING, metavar="N", least=1, help="Cells in a minibatch")
    ] = None
    lr: Annotated[
        float | None,
        option("--lr", panel=TRAINING, metavar="X", check=values.positive, help="Learning rate"),
    ] = None
    params: Annotated[
        list[str] | None,
        option(
            "--set",
            "-s",
            panel=TRAINING,
            metavar="KEY=VALUE",
            help="Other hyper-parameter; 'mocli params MODEL' lists them",
        ),
        Pairs("KEY=VALUE", values.scalar),
    ] = None


@dataclass(frozen=True)
class StartOptions:
    """What a model begins with."""

    init_from: Annotated[
        Path | None,
        option(
            "--init-from",
            panel=TRAINING,
            metavar="DIR",
            help="Start from the weights of a trained model (OUT.model) of the same kind, as far as they fit",
        ),
    ] = None
    freeze: Annotated[
        str | None,
        option(
            "--freeze",
            panel=TRAINING,
            metavar="PART[,PART]",
            help="Parts whose weights stay as they start: names such as encoders or decoders.rna",
        ),
    ] = None


@dataclass(frozen=True)
class SeedOptions:
    """Where chance begins."""

    seed: Annotated[
        int, option("--seed", panel=TRAINING, metavar="N", least=0, help="Seed of everything random")
    ] = 0
