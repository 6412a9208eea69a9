"""Hyper-parameters of Multigrate.

Defaults are mocli's recipe (`--preset auto`); where it, the paper and the authors' code differ the
help of the field says so. `--preset paper` takes the paper's defaults (Tables 1 and 3). What is None
depends on the pairing and is settled when the model is built: see `SETTLED`.
"""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MultigrateParams:
    """One field per hyper-parameter; see `mocli params multigrate`."""

    n_latent: Annotated[int, Field(ge=1, le=1024, description="latent dimensions; paper 16")] = 32
    n_hidden: Annotated[int, Field(ge=1, le=16384, description="units of every hidden layer")] = 128
    n_layers: Annotated[
        int, Field(ge=0, le=8, description="hidden layers of encoders, and of decoders before their last")
    ] = 1
    n_covariate: Annotated[int, Field(ge=1, le=1024, description="dimensions of a covariate's embedding")] = (
        16
    )
    dropout: Annotated[
        float, Field(ge=0, lt=1, description="share of units dropped after every layer; paper 0.2")
    ] = 0.1
    activation: Annotated[
        Literal["leaky_relu", "tanh"], Field(description="non-linearity of every layer")
    ] = "leaky_relu"
    normalization: Annotated[
        Literal["layer", "batch", "none"], Field(description="normalisation inside every layer")
    ] = "layer"
    init: Annotated[
        Literal["default", "xavier", "kaiming"],
        Field(description="initial weights: PyTorch's own, Xavier uniform or Kaiming normal"),
    ] = "default"
    start: Annotated[
        Literal["mean", "random"],
        Field(
            description="where decoders begin: at the mean and dispersion of every feature, or anywhere; "
            "paper random"
        ),
    ] = "mean"
    encoder_input: Annotated[
        Literal["lognorm", "log1p", "raw"],
        Field(
            description="counts as encoders see them: log1p of counts at equal depth, log1p, or raw (code)"
        ),
    ] = "lognorm"
    encoder_components: Annotated[
        int | None,
        Field(
            ge=0,
            le=1000,
            description="principal components of a modality that its encoder sees, fixed; 0: its features; "
            "none: 50 of modalities with more than 5,000 features, whose noise is learnt by heart otherwise; "
            "paper 0",
        ),
    ] = None
    encoder_covariates: Annotated[
        bool, Field(description="tell encoders the covariates, not only decoders; paper no, code yes")
    ] = False
    mix: Annotated[
        Literal["product", "mixture"],
        Field(description="joint posterior: product of experts with prior, or mean of experts"),
    ] = "product"
    dispersion: Annotated[
        Literal["feature", "batch"],
        Field(description="inverse dispersion of counts per feature, or per feature and batch"),
    ] = "feature"
    continuous_response: Annotated[
        Literal["sigmoid", "log_sigmoid", "mlp"],
        Field(description="response to a continuous covariate"),
    ] = "sigmoid"
    modality_dropout: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            description="share of cells shown by one of their modalities only, while all are reconstructed; "
            "none: 0.5; paper 0",
        ),
    ] = None
    batch_size: Annotated[int, Field(ge=2, description="cells in a minibatch")] = 256
    balance: Annotated[
        Literal["none", "batch", "presence"],
        Field(description="groups that share every minibatch equally: batches, or cells by what they have"),
    ] = "none"
    lr: Annotated[
        float | None,
        Field(
            gt=0,
            lt=1,
            description="AdamW's learning rate; none: 1e-3, but 2e-4 where an encoder sees more than "
            "5,000 features, else sparse ones are learnt by heart; paper 1e-3, code 5e-4",
        ),
    ] = None
    weight_decay: Annotated[float, Field(ge=0, description="AdamW's decoupled weight decay")] = 1e-3
    query_lr: Annotated[
        float, Field(gt=0, lt=1, description="learning rate of the weights that a query adds; paper as lr")
    ] = 1e-2
    max_epochs: Annotated[int, Field(ge=1, description="epochs at most")] = 200
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
            description="by what the learning rate is multiplied where held-out cells gain nothing, before "
            "training may end; none: it stays, as the authors'",
        ),
    ] = None
    lr_patience: Annotated[
        int,
        Field(ge=1, description="looks without a better loss before lr_factor lowers the rate"),
    ] = 2
    weight_reconstruction: Annotated[Weight, Field(description="weight of the negative log-likelihood")] = 1.0
    modality_weights: Annotated[
        dict[str, Weight],
        Field(
            description='weight of each modality\'s likelihood, 1 unless named: {"rna": 1, "prot": 10}',
        ),
    ] = field(default_factory=dict)
    weight_kl: Annotated[
        Weight | None,
        Field(description="weight of KL(joint posterior | prior); none: 0.3; paper 1e-5 paired, 1e-2 mosaic"),
    ] = None
    kl_warmup: Annotated[
        float, Field(ge=0, le=1, description="share of the steps over which the KL weight rises from 0")
    ] = 1 / 3
    alignment: Annotated[
        Literal["mmd", "jeffreys"], Field(description="divergence between distributions of latents")
    ] = "mmd"
    align_on: Annotated[
        Literal["presence", "batch"],
        Field(description="groups to align: cells by the modalities they have, or batches"),
    ] = "presence"
    weight_latent: Annotated[
        Weight | None,
        Field(
            description="weight of aligning the joint latents of groups; none: 0 for paired cells, "
            "300 mosaic; paper 0"
        ),
    ] = None
    weight_marginal: Annotated[
        Weight | None,
        Field(
            description="weight of aligning latents of single modalities, and of groups within each; "
            "none: 0; paper 4000 mosaic"
        ),
    ] = None
    settled_by: Annotated[
        Literal["mocli", "paper"], Field(description="whose values stand where none is given")
    ] = "mocli"

    def weights_per_feature(self, n_features: int) -> float:
        """Return the weights of one feature: into the encoder, and out of the decoder."""
        return 2.0 * self.n_hidden


PRESETS: dict[str, dict[str, object]] = {
    "paper": {
        "n_latent": 16,
        "dropout": 0.2,
        "lr": 1e-3,
        "encoder_components": 0,
        "start": "random",
        "query_lr": 1e-3,
        "encoder_input": "raw",
        "encoder_covariates": True,
        "settled_by": "paper",
    }
}
"""What a preset changes; values that the user sets win."""

SETTLED: dict[tuple[str, bool], dict[str, float]] = {
    ("mocli", False): {
        "modality_dropout": 0.5,
        "weight_kl": 0.3,
        "weight_latent": 0.0,
        "weight_marginal": 0.0,
    },
    ("mocli", True): {
        "modality_dropout": 0.5,
        "weight_kl": 0.3,
        "weight_latent": 300.0,
        "weight_marginal": 0.0,
    },
    ("paper", False): {
        "modality_dropout": 0.0,
        "weight_kl": 1e-5,
        "weight_latent": 0.0,
        "weight_marginal": 0.0,
    },
    ("paper", True): {
        "modality_dropout": 0.0,
        "weight_kl": 1e-2,
        "weight_latent": 0.0,
        "weight_marginal": 4000.0,
    },
}
"""What stands where a parameter is None: by `settled_by`, and whether some cells lack modalities."""
