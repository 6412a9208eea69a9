"""Kinds of hyper-parameters: shared bounds, and hyper-parameters that several models share."""

from typing import Annotated

from pydantic import Field

Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Cells = Annotated[int, Field(ge=2)]
Dimensions = Annotated[int, Field(ge=1, le=1024)]
Units = Annotated[int, Field(ge=1, le=16384)]
Layers = Annotated[int, Field(ge=0, le=8)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(ge=0, lt=1)]
"""A share that cannot be the whole."""
Rate = Annotated[float, Field(gt=0, lt=1)]

FAST_STEPS = 300
"""Steps of a phase under `--preset fast`, at most."""

HiddenUnits = Annotated[Units, Field(description="units of every hidden layer")]
BatchSize = Annotated[Cells, Field(description="cells in a minibatch")]
HeldOut = Annotated[Part, Field(description="share of cells held out for early stopping; 0 for none")]
Patience = Annotated[
    Count, Field(description="epochs without a better loss of held-out cells before training ends")
]
Evenness = Annotated[
    Share,
    Field(
        description="how evenly partners are shared out; 1: every cell weighs the same; less: a kind of "
        "cells that is commoner in one modality shares the partners of its kind; 0: as links held out tell"
    ),
]
Averaging = Annotated[
    Part,
    Field(description="decay of the running mean of the weights, which replaces them at the end; paper 0"),
]
