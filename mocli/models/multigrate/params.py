"""Hyper-parameters of Multigrate.

Defaults are mocli's recipe (`--preset auto`); where it, the paper and the authors' code differ the
help of the field says so. `--preset paper` takes the paper's defaults (Tables 1 and 3). What is None
depends on the pairing and is settled when the model is built: see `SETTLED`.
"""

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from mocli.models.fields import (
    FAST_STEPS,
    BatchSize,
    Count,
    Dimensions,
    HeldOut,
    HiddenUnits,
    Layers,
    Part,
    Patience,
    Rate,
    Share,
    Weight,
    Whole,
)
from mocli.types import Preset

LEAST_STEPS, MOST_STEPS = 2_000, 20_000
COMPONENTS = 50
"""Of a modality as its encoder sees it by default, where it has more features."""

USUAL_STEPS = 1_300
"""Mean over nine sets of 200 to 6,000 cells on the log scale: they took 800 to 2,000."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MultigrateParams:
    """One field per hyper-parameter; see `mocli params multigrate`."""

    STEP_MS: ClassVar[float] = 12.0

    n_latent: Dimensions = Field(default=20, description="latent dimensions; paper 16")
    n_hidden: HiddenUnits = 128
    n_layers: Layers = Field(
        default=1, description="hidden layers of encoders, and of decoders before their last"
    )
    n_covariate: Dimensions = Field(default=16, description="dimensions of a covariate's embedding")
    dropout: Part = Field(default=0.1, description="share of units dropped after every layer; paper 0.2")
    activation: Literal["leaky_relu", "tanh"] = Field(
        default="leaky_relu", description="non-linearity of every layer"
    )
    normalization: Literal["layer", "batch", "none"] = Field(
        default="layer", description="normalisation inside every layer"
    )
    init: Literal["default", "xavier", "kaiming"] = Field(
        default="default", description="initial weights: PyTorch's own, Xavier uniform or Kaiming normal"
    )
    start: Literal["mean", "random"] = Field(
        default="mean",
        description="start of decoders: the mean and dispersion of every feature, or random; paper random",
    )
    encoder_input: Literal["lognorm", "log1p", "raw"] = Field(
        default="lognorm",
        description="counts as encoders see them: log1p of counts at equal depth, log1p, or raw (code)",
    )
    encoder_components: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="fixed principal components of a modality that its encoder sees; 0: its features, to "
        "whose noise it overfits; none: 50 for modalities that have more features; paper 0",
    )
    encoder_covariates: bool = Field(
        default=False, description="tell encoders the covariates, not only decoders; paper no, code yes"
    )
    mix: Literal["product", "mixture"] = Field(
        default="product", description="joint posterior: product of experts with prior, or mean of experts"
    )
    dispersion: Literal["feature", "batch"] = Field(
        default="feature", description="inverse dispersion of counts per feature, or per feature and batch"
    )
    continuous_response: Literal["sigmoid", "log_sigmoid", "mlp"] = Field(
        default="sigmoid", description="response to a continuous covariate"
    )
    modality_dropout: Share | None = Field(
        default=None,
        description="share of cells of which the encoders see one modality only, while all are "
        "reconstructed; none: 0.5; paper 0",
    )
    batch_size: BatchSize = 256
    balance: Literal["none", "batch", "presence"] = Field(
        default="none",
        description="groups that have equal shares of every minibatch: batches, or cells with the same "
        "modalities",
    )
    lr: Rate | None = Field(
        default=None,
        description="AdamW's learning rate; none: 1e-3, but 2e-4 where an encoder sees more than 5,000 "
        "features, as it overfits sparse ones; paper 1e-3, code 5e-4",
    )
    weight_decay: Weight = Field(default=1e-3, description="AdamW's decoupled weight decay")
    query_lr: Rate = Field(
        default=1e-2, description="learning rate of the weights that a query adds; paper as lr"
    )
    max_epochs: Count = Field(default=200, description="epochs at most")
    validation_share: HeldOut = 0.1
    patience: Patience = 10
    lr_factor: Rate | None = Field(
        default=None,
        description="factor of the learning rate when the loss of held-out cells no longer falls, before "
        "training may end; none: constant, as the authors'",
    )
    lr_patience: Count = Field(
        default=2, description="checks without a better loss before lr_factor lowers the rate"
    )
    weight_reconstruction: Weight = Field(default=1.0, description="weight of the negative log-likelihood")
    modality_weights: dict[str, Weight] = Field(
        default_factory=dict,
        description='weight of each modality\'s likelihood, 1 unless named: {"rna": 1, "prot": 10}',
    )
    weight_kl: Weight | None = Field(
        default=None,
        description="weight of KL(joint posterior | prior); none: 0.3; paper 1e-5 paired, 1e-2 mosaic",
    )
    kl_warmup: Share = Field(
        default=1 / 3, description="share of the steps over which the KL weight rises from 0"
    )
    weight_anchor: Weight = Field(
        default=10.0,
        description="weight of the distance of a cell's latent mean from joint principal components of its "
        "modalities, averaged over neighbours; cells that lack a modality have none; paper 0",
    )
    anchor_neighbors: Whole = Field(
        default=10,
        description="neighbours whose mean makes half of these components, the cell itself the "
        "other half; 0: no averaging",
    )
    alignment: Literal["mmd", "jeffreys"] = Field(
        default="mmd", description="divergence between distributions of latents"
    )
    align_on: Literal["presence", "batch"] = Field(
        default="presence", description="groups to align: cells by the modalities they have, or batches"
    )
    weight_latent: Weight | None = Field(
        default=None,
        description="weight of aligning the joint latents of groups; none: 0 for paired cells, "
        "300 mosaic; paper 0",
    )
    weight_marginal: Weight | None = Field(
        default=None,
        description="weight of aligning latents of single modalities, and of groups within each; "
        "none: 0; paper 4000 mosaic",
    )
    settled_by: Literal["mocli", "paper"] = Field(
        default="mocli", description="source of values that are not set: mocli or the paper"
    )

    def weights_per_feature(self, n_features: int) -> float:
        """Return the weights of one feature: out of the decoder, and into an encoder that sees features."""
        sees_components = (
            n_features > COMPONENTS if self.encoder_components is None else self.encoder_components
        )
        return (1.0 if sees_components else 2.0) * self.n_hidden

    def epoch(self, n_cells: int) -> int:
        """Return the steps in which so many cells are seen once."""
        return max(1, -(-n_cells // self.batch_size))

    def steps(self, n_cells: int, preset: Preset) -> int:
        """Return the most steps: small data need more epochs for the same number, large data fewer."""
        if preset is Preset.FAST:
            return FAST_STEPS
        steps = self.max_epochs * self.epoch(n_cells)
        return steps if preset is Preset.PAPER else min(max(steps, LEAST_STEPS), MOST_STEPS)

    def usual_steps(self, n_cells: int) -> int:
        """Return after how many steps held-out cells mostly end training."""
        return USUAL_STEPS


PRESETS: dict[str, dict[str, object]] = {
    "paper": {
        "n_latent": 16,
        "dropout": 0.2,
        "lr": 1e-3,
        "encoder_components": 0,
        "weight_anchor": 0.0,
        "start": "random",
        "query_lr": 1e-3,
        "encoder_input": "raw",
        "encoder_covariates": True,
        "settled_by": "paper",
    }
}
"""Parameters that a preset changes; values set by the user win."""

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
"""Values of parameters that are None: by `settled_by`, and by whether some cells lack modalities."""
