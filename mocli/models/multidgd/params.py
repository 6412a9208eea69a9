"""Hyper-parameters of multiDGD.

Defaults are mocli's recipe (`--preset auto`), chosen by the loss of held-out cells; where it, the paper and
the authors' code differ the help of the field says so. `--preset paper` takes the paper's values.
"""

from math import sqrt
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Rate = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MultiDGDParams:
    """One field per hyper-parameter; see `mocli params multidgd`."""

    n_latent: Annotated[int, Field(ge=1, le=1024, description="latent dimensions")] = 20
    n_components: Annotated[
        int | None,
        Field(
            ge=1,
            description="components of the mixture, which are the clusters; none: as many as --label-key has "
            "labels (which serve for nothing else), or chosen from the data; paper 1 without labels",
        ),
    ] = None
    n_covariate: Annotated[
        int, Field(ge=1, le=64, description="dimensions of a cell's place in the space of a covariate")
    ] = 2
    n_hidden: Annotated[
        int, Field(ge=1, le=16384, description="units of hidden layers; the last has sqrt(features) if more")
    ] = 100
    n_layers: Annotated[
        int, Field(ge=1, le=8, description="hidden layers that all modalities share, and that each has alone")
    ] = 2
    start: Annotated[
        Literal["data", "origin"],
        Field(
            description="where cells and mixture start: principal components and their k-means, features at "
            "their mean; or (paper) the origin, with random means and weights"
        ),
    ] = "data"
    radius: Annotated[float, Field(gt=0, description="of the soft ball of the components' means")] = 2.0
    hardness: Annotated[float, Field(gt=0, description="of the rim of the soft ball")] = 5.0
    spread: Annotated[
        float,
        Field(
            gt=0,
            description="prior standard deviation of components: this times radius / n_components, a quarter "
            "of the radius at most; paper 0.2",
        ),
    ] = 4.0
    spread_covariate: Annotated[float, Field(gt=0, description="the same for the levels of a covariate")] = (
        0.2
    )
    concentration: Annotated[
        float, Field(gt=0, description="of the Dirichlet prior of the components' weights")
    ] = 1.0
    concentration_covariate: Annotated[
        float, Field(gt=0, description="the same for the levels of a covariate")
    ] = 2.0
    prior: Annotated[
        Literal["once", "batch", "cell"],
        Field(
            description="how often the prior of the mixtures counts: once an epoch, in every minibatch "
            "(paper), for every cell (code)"
        ),
    ] = "batch"
    covariate_density: Annotated[
        Literal["one", "levels"],
        Field(
            description="weight of the density of a cell's covariates: 1 (paper), or the number of levels "
            "(code)"
        ),
    ] = "one"
    weight_l1: Annotated[
        float,
        Field(
            ge=0,
            allow_inf_nan=False,
            description="weight of the sum of the decoder's absolute weights in every minibatch; paper 0, "
            "code 1",
        ),
    ] = 0.03
    batch_size: Annotated[int, Field(ge=2, description="cells in a minibatch")] = 128
    max_epochs: Annotated[int, Field(ge=1, description="epochs at most; paper 1000, code 500")] = 500
    lr: Annotated[Rate, Field(description="Adam's learning rate of the decoder; paper 1e-4")] = 1e-3
    lr_cells: Annotated[Rate, Field(description="learning rate of the cells' places; paper 1e-2")] = 1e-2
    lr_mixture: Annotated[Rate, Field(description="learning rate of the mixture; paper 1e-2")] = 1e-3
    lr_covariate: Annotated[
        Rate, Field(description="learning rate of the mixtures of covariates; paper 1e-2, code 1e-3")
    ] = 1e-2
    betas: Annotated[
        tuple[Rate, Rate], Field(description="Adam's decay of its two running means, for all of them")
    ] = (0.5, 0.7)
    weight_decay: Annotated[float, Field(ge=0, description="L2 decay, of all of them")] = 1e-4
    cell_steps: Annotated[
        Literal["batch", "epoch"],
        Field(description="when a cell's place steps: when it was drawn, or (paper) at the end of the epoch"),
    ] = "batch"
    validation_share: Annotated[
        float, Field(ge=0, lt=1, description="share of cells held out to know when to stop; 0 for none")
    ] = 0.1
    patience: Annotated[
        int, Field(ge=1, description="epochs without a better loss of held-out cells before training ends")
    ] = 10
    lr_factor: Annotated[
        float | None,
        Field(
            gt=0,
            lt=1,
            description="by what all learning rates are multiplied where held-out cells gain nothing, before "
            "training may end; none: they stay, as the authors'",
        ),
    ] = None
    lr_patience: Annotated[
        int,
        Field(ge=1, description="epochs without a better loss before lr_factor lowers the rates"),
    ] = 2
    stop_on: Annotated[
        Literal["joint", "reconstruction"],
        Field(description="loss of held-out cells: of their counts alone (paper), or with the mixtures'"),
    ] = "reconstruction"
    query_epochs: Annotated[
        int, Field(ge=1, description="epochs over new cells to find their places; paper 10, code 20")
    ] = 30
    new_levels: Annotated[
        Literal["component", "naive"],
        Field(
            description="a level of a covariate that is new gets a component of its own, or its cells go "
            "where known levels describe them best"
        ),
    ] = "component"

    def weights_per_feature(self, n_features: int) -> float:
        """Return the weights of one feature: out of the last hidden layer."""
        return max(float(self.n_hidden), sqrt(n_features))


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
"""What a preset changes; values that the user sets win."""
