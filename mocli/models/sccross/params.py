"""Hyper-parameters of scCross.

Defaults are mocli's recipe (`--preset auto`); where it, the paper and the authors' code differ the
help of the field says so. `--preset paper` takes the paper's values.
"""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SccrossParams:
    """One field per hyper-parameter; see `mocli params sccross`."""

    n_latent: Annotated[
        int, Field(ge=1, le=1024, description="latent dimensions, of each modality and common ones; paper 50")
    ] = 50
    n_hidden: Annotated[int, Field(ge=1, le=16384, description="units of every hidden layer")] = 256
    n_layers: Annotated[int, Field(ge=0, le=8, description="hidden layers of encoders and critics")] = 2
    n_aligner_layers: Annotated[
        int, Field(ge=0, le=8, description="hidden layers of aligners; code 0, paper some")
    ] = 0
    dropout: Annotated[float, Field(ge=0, lt=1, description="share of units dropped after every layer")] = 0.2
    n_components: Annotated[
        int,
        Field(ge=1, le=1000, description="components of a modality that its encoder takes; paper 100"),
    ] = 50
    n_set_components: Annotated[
        int, Field(ge=1, le=100, description="components of gene-set scores beside them (--gene-sets)")
    ] = 5
    input_smoothing: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="share of an encoder's input that is the mean over own neighbours; the authors' "
            "fixed graph smoothing is 0.5",
        ),
    ] = 0.5
    n_neighbors: Annotated[
        int | None,
        Field(
            ge=1,
            description="cells that inputs are averaged over; none: the root of their number, 10 to 100; "
            "paper 20",
        ),
    ] = None
    unit_latent: Annotated[
        bool,
        Field(description="hold common latents at one length, so that none shrinks to please; paper no"),
    ] = True
    prior_smoothing: Annotated[
        bool,
        Field(description="search mutual neighbours in linked features averaged over own neighbours"),
    ] = True
    n_mutual: Annotated[int, Field(ge=1, description="neighbours per direction of the MNN prior")] = 20
    n_prior: Annotated[int, Field(ge=1, le=1000, description="components of the MNN prior")] = 50
    n_metacells: Annotated[
        int,
        Field(
            ge=2,
            description="cells of a modality above which the MNN prior is found among as many metacells",
        ),
    ] = 10_000
    prior: Annotated[
        Literal["anchors", "gram"],
        Field(
            description="what is asked of the MNN prior: balanced soft partners that lie together, or equal "
            "inner products of all pairs (paper)"
        ),
    ] = "anchors"
    anchor_temperature: Annotated[
        float, Field(gt=0, description="softness of partners, in standard deviations of their cost")
    ] = 0.1
    batch_size: Annotated[int, Field(ge=2, description="cells in a minibatch of each set measured alike")] = (
        128
    )
    lr: Annotated[float, Field(gt=0, lt=1, description="Adam's learning rate; paper RMSprop with 1e-3")] = (
        1e-3
    )
    weight_decay: Annotated[float, Field(ge=0, description="AdamW's decoupled weight decay; paper 0")] = 1e-3
    max_epochs: Annotated[
        int, Field(ge=1, description="epochs of the first stage at most (at least 1,500 steps)")
    ] = 100
    align_steps: Annotated[
        int, Field(ge=1, description="steps of the second stage; paper 48,000 at most in each")
    ] = 2000
    validation_share: Annotated[
        float, Field(ge=0, lt=1, description="share of cells held out in the first stage; 0 for none")
    ] = 0.1
    patience: Annotated[
        int, Field(ge=1, description="looks without a better loss before the first stage ends")
    ] = 5
    lr_factor: Annotated[
        float | None,
        Field(
            gt=0,
            lt=1,
            description="by what the learning rate is multiplied where held-out cells gain nothing, before "
            "the first stage may end; none: it stays; authors 0.1",
        ),
    ] = None
    lr_patience: Annotated[
        int,
        Field(ge=1, description="looks without a better loss before lr_factor lowers the rate; authors 2"),
    ] = 2
    critic_weights: Annotated[
        Literal["equal", "cells", "labels"],
        Field(
            description="weights of cells in the critic: equal in all for every modality, equal for every "
            "cell, or such that modalities have the labels of --label-key in equal shares; times "
            "--weight-key, where given"
        ),
    ] = "equal"
    critic_steps: Annotated[int, Field(ge=1, description="critic steps per minibatch")] = 2
    noise_share: Annotated[
        float,
        Field(ge=0, le=1, description="share of the second stage over which the critic's noise fades; 1/6"),
    ] = 1 / 6
    weight_reconstruction: Annotated[
        Weight, Field(description="weight of likelihoods, mean over features (lambda_data)")
    ] = 1.0
    modality_weights: Annotated[
        dict[str, Weight],
        Field(description='weight of each modality, 1 unless named: {"rna": 1, "prot": 10}'),
    ] = field(default_factory=dict)
    weight_kl: Annotated[Weight, Field(description="weight of KL of modality latents to the prior")] = 1.0
    weight_realigned: Annotated[
        Weight, Field(description="weight of likelihoods decoded from the common latent; 1")
    ] = 1.0
    weight_kl_aligned: Annotated[
        Weight,
        Field(description="weight of KL of common latents to what a cell's modalities give together; 0.04"),
    ] = 0.04
    weight_prior: Annotated[Weight, Field(description="weight of the MNN prior; paper 0.04, code 0.001")] = (
        1.0
    )
    weight_prior_pretrain: Annotated[
        Weight, Field(description="the same in the first stage; paper 0, code 1e-4")
    ] = 0.0
    weight_adversarial: Annotated[Weight, Field(description="weight of the adversarial term")] = 0.05
    weight_pairs: Annotated[
        Weight,
        Field(description="weight of the distance of latents of one cell's modalities; paper none"),
    ] = 1.0
    share_pairs: Annotated[
        bool,
        Field(description="decode a modality from those measured beside it as well; paper no"),
    ] = True
    weight_generation: Annotated[
        Weight,
        Field(
            description="weight of critics that tell generated from measured values, by expected values; "
            "the authors' give no gradient; 0 leaves them out"
        ),
    ] = 0.0
    weight_average: Annotated[
        float,
        Field(ge=0, lt=1, description="decay of the running mean of the weights that is kept; paper 0"),
    ] = 0.98

    def weights_per_feature(self, n_features: int) -> float:
        """Return the weights of one feature: a component each, and out of the latent."""
        return float(self.n_components + self.n_latent)


PRESETS: dict[str, dict[str, object]] = {
    "paper": {
        "n_components": 100,
        "n_neighbors": 20,
        "prior_smoothing": False,
        "unit_latent": False,
        "prior": "gram",
        "weight_decay": 0.0,
        "patience": 4,
        "lr_factor": 0.1,
        "lr_patience": 2,
        "align_steps": 48_000,
        "weight_prior": 0.04,
        "weight_pairs": 0.0,
        "share_pairs": False,
        "weight_average": 0.0,
    }
}
"""What a preset changes; values that the user sets win."""
