"""Hyper-parameters of multiDGD.

Defaults are mocli's recipe (`--preset auto`), chosen by the loss of held-out cells; where it, the paper and
the authors' code differ the help of the field says so. `--preset paper` takes the paper's values.
"""

from math import sqrt
from typing import ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from mocli.models.fields import (
    FAST_STEPS,
    BatchSize,
    Count,
    Dimensions,
    HeldOut,
    Patience,
    Positive,
    Rate,
    Units,
    Weight,
)
from mocli.types import Preset

USUAL_EPOCHS, USUAL_STEPS = 120, 1_000


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MultiDGDParams:
    """One field per hyper-parameter; see `mocli params multidgd`."""

    STEP_MS: ClassVar[float] = 12.0

    n_latent: Dimensions = Field(default=20, description="latent dimensions")
    n_components: Count | None = Field(
        default=None,
        description="components of the mixture, which are the clusters; none: as many as --label-key has "
        "labels (labels are used for nothing else), or chosen from the data; paper 1 without "
        "labels",
    )
    n_covariate: int = Field(default=2, ge=1, le=64, description="dimensions of a covariate's latent space")
    n_hidden: Units = Field(
        default=100, description="units of hidden layers; the last has sqrt(features) if more"
    )
    n_layers: int = Field(
        default=2,
        ge=1,
        le=8,
        description="hidden layers shared by all modalities, and hidden layers of each modality alone",
    )
    start: Literal["data", "origin"] = Field(
        default="data",
        description="start of cells and mixture: principal components and their k-means, features at their "
        "mean; or (paper) the origin, with random means and weights",
    )
    radius: Positive = Field(default=2.0, description="radius of the soft ball of the components' means")
    hardness: Positive = Field(default=5.0, description="hardness of the rim of the soft ball")
    spread: Positive = Field(
        default=4.0,
        description="prior standard deviation of components: this times radius / n_components, a quarter "
        "of the radius at most; paper 0.2",
    )
    spread_covariate: Positive = Field(
        default=0.2,
        description="prior standard deviation of the components of a covariate: this times radius / "
        "n_levels, a quarter of the radius at most",
    )
    concentration: Positive = Field(
        default=1.0, description="concentration of the Dirichlet prior of the components' weights"
    )
    concentration_covariate: Positive = Field(
        default=2.0, description="concentration of the Dirichlet prior of a covariate's levels"
    )
    prior: Literal["once", "batch", "cell"] = Field(
        default="batch",
        description="how often the prior of the mixtures enters the loss: once per epoch, in every "
        "minibatch (paper), for every cell (code)",
    )
    covariate_density: Literal["one", "levels"] = Field(
        default="one",
        description="weight of the density of a cell's covariates: 1 (paper), or the number of levels (code)",
    )
    weight_l1: Weight = Field(
        default=0.03,
        description="weight of the sum of the decoder's absolute weights in every minibatch; paper 0, code 1",
    )
    batch_size: BatchSize = 128
    max_epochs: Count = Field(default=500, description="epochs at most; paper 1000, code 500")
    lr: Rate = Field(default=1e-3, description="Adam's learning rate of the decoder; paper 1e-4")
    lr_cells: Rate = Field(default=1e-2, description="learning rate of the cells' coordinates; paper 1e-2")
    lr_mixture: Rate = Field(default=1e-3, description="learning rate of the mixture; paper 1e-2")
    lr_covariate: Rate = Field(
        default=1e-2, description="learning rate of the mixtures of covariates; paper 1e-2, code 1e-3"
    )
    betas: tuple[Rate, Rate] = Field(
        default=(0.5, 0.7), description="Adam's decay of its two running means, for all parameters"
    )
    weight_decay: Weight = Field(default=1e-4, description="L2 decay, for all parameters")
    cell_steps: Literal["batch", "epoch"] = Field(
        default="batch",
        description="when a cell's coordinates are updated: whenever it is drawn, or (paper) at the end of "
        "the epoch",
    )
    validation_share: HeldOut = 0.1
    patience: Patience = 10
    lr_factor: Rate | None = Field(
        default=None,
        description="factor of all learning rates when the loss of held-out cells no longer falls, before "
        "training may end; none: constant rates, as the authors'",
    )
    lr_patience: Count = Field(
        default=2, description="epochs without a better loss before lr_factor lowers the rates"
    )
    stop_on: Literal["joint", "reconstruction"] = Field(
        default="reconstruction",
        description="loss of held-out cells: that of their counts alone (paper), or with that of the "
        "mixtures",
    )
    query_epochs: Count = Field(
        default=30, description="epochs over new cells to find their coordinates; paper 10, code 20"
    )
    new_levels: Literal["component", "naive"] = Field(
        default="component",
        description="a new level of a covariate gets its own component, or its cells are placed where "
        "known levels describe them best",
    )

    def weights_per_feature(self, n_features: int) -> float:
        """Return the weights of one feature: out of the last hidden layer."""
        return max(float(self.n_hidden), sqrt(n_features))

    def epoch(self, n_cells: int) -> int:
        """Return the steps in which so many cells are seen once; a single left-over cell is skipped."""
        return max(1, n_cells // self.batch_size + (n_cells % self.batch_size > 1))

    def steps(self, n_cells: int, preset: Preset, *, query: bool = False) -> int:
        """Return the most steps, of training or of finding coordinates for the cells of a query."""
        steps = (self.query_epochs if query else self.max_epochs) * self.epoch(n_cells)
        return min(steps, FAST_STEPS) if preset is Preset.FAST else steps

    def usual_steps(self, n_cells: int) -> int:
        """Return when held-out cells mostly end training: within a factor of 3 on eight sets."""
        return min(USUAL_EPOCHS * self.epoch(n_cells), USUAL_STEPS)


PRESETS: dict[str, dict[str, object]] = {
    "paper": {
        "start": "origin",
        "spread": 0.2,
        "prior": "batch",
        "covariate_density": "one",
        "weight_l1": 0.0,
        "max_epochs": 1000,
        "lr": 1e-4,
        "lr_cells": 1e-2,
        "lr_mixture": 1e-2,
        "lr_covariate": 1e-2,
        "cell_steps": "epoch",
        "stop_on": "reconstruction",
        "query_epochs": 10,
    }
}
"""Parameters that a preset changes; values set by the user win."""
