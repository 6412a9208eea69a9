"""Hyper-parameters of scCross.

Defaults are mocli's recipe (`--preset auto`); where it, the paper and the authors' code differ the
help of the field says so. `--preset paper` takes the paper's values.
"""

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from mocli.models.fields import (
    FAST_STEPS,
    Averaging,
    Cells,
    Count,
    Dimensions,
    Evenness,
    HiddenUnits,
    Layers,
    Part,
    Positive,
    Rate,
    Share,
    Weight,
)
from mocli.nn.alignment_settings import AlignmentSettings
from mocli.types import Preset

LEAST_STEPS, MOST_STEPS = 1_500, 20_000
PAPER_STEPS = 48_000
"""The authors' bound of each stage: 48 over the learning rate."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SccrossParams:
    """One field per hyper-parameter; see `mocli params sccross`."""

    STEP_MS: ClassVar[float] = 22.0

    n_latent: Dimensions = Field(
        default=50, description="dimensions of the latent of each modality and of the common latent; paper 50"
    )
    n_hidden: HiddenUnits = 256
    n_layers: Layers = Field(default=2, description="hidden layers of encoders and critics")
    n_aligner_layers: Layers = Field(default=0, description="hidden layers of aligners; code 0, paper some")
    dropout: Part = Field(default=0.2, description="share of units dropped after every layer")
    n_components: int = Field(
        default=50, ge=1, le=1000, description="components of a modality that its encoder takes; paper 100"
    )
    n_set_components: int = Field(
        default=5, ge=1, le=100, description="further components, of gene-set scores (--gene-sets)"
    )
    input_smoothing: Share = Field(
        default=0.5,
        description="share of the mean of a cell's neighbours in an encoder's input; the authors' fixed "
        "graph smoothing is 0.5",
    )
    n_neighbors: Count | None = Field(
        default=None,
        description="neighbours that inputs are averaged over; none: the square root of the number of "
        "cells, 10 to 100; paper 20",
    )
    unit_latent: bool = Field(
        default=True, description="keep common latents at one length, so that none shrinks; paper no"
    )
    prior_smoothing: bool = Field(
        default=True,
        description="search mutual neighbours in linked features averaged over neighbours in "
        "the same modality",
    )
    n_mutual: Count = Field(default=20, description="neighbours per direction of the MNN prior")
    n_prior: int = Field(default=50, ge=1, le=1000, description="components of the MNN prior")
    n_metacells: Cells = Field(
        default=10_000,
        description="cells of a modality above which the MNN prior is found among as many metacells",
    )
    prior: Literal["anchors", "gram"] = Field(
        default="anchors",
        description="form of the MNN prior: balanced soft partners lie together, or all pairs have equal "
        "inner products (paper)",
    )
    anchor_temperature: Positive = Field(
        default=0.1, description="softness of partners, in standard deviations of their cost"
    )
    evenness: Evenness = AlignmentSettings.evenness
    batch_size: Cells = Field(
        default=128, description="cells per minibatch of each set of cells with the same modalities"
    )
    lr: Rate = Field(default=1e-3, description="Adam's learning rate; paper RMSprop with 1e-3")
    weight_decay: Weight = Field(default=1e-3, description="AdamW's decoupled weight decay; paper 0")
    max_epochs: Count = Field(
        default=100, description="epochs of the first stage at most (at least 1,500 steps)"
    )
    align_steps: Count = Field(
        default=2000, description="steps of the second stage; paper 48,000 at most in each"
    )
    validation_share: Part = Field(
        default=0.1, description="share of cells held out in the first stage; 0 for none"
    )
    patience: Count = Field(default=5, description="checks without a better loss before the first stage ends")
    lr_factor: Rate | None = Field(
        default=None,
        description="factor of the learning rate when the loss of held-out cells no longer falls, before "
        "the first stage may end; none: constant; authors 0.1",
    )
    lr_patience: Count = Field(
        default=2, description="checks without a better loss before lr_factor lowers the rate; authors 2"
    )
    critic_weights: Literal["equal", "cells", "labels"] = Field(
        default="equal",
        description="weights of cells in the critic: every modality has the same total, every cell the "
        "same weight, or modalities have the labels of --label-key in equal shares; multiplied "
        "by --weight-key, where given",
    )
    critic_steps: Count = Field(default=2, description="critic steps per minibatch")
    noise_share: Share = Field(
        default=1 / 6, description="share of the second stage over which the critic's input noise fades; 1/6"
    )
    weight_reconstruction: Weight = Field(
        default=1.0, description="weight of likelihoods, mean over features (lambda_data)"
    )
    modality_weights: dict[str, Weight] = Field(
        default_factory=dict, description='weight of each modality, 1 unless named: {"rna": 1, "prot": 10}'
    )
    weight_kl: Weight = Field(default=1.0, description="weight of KL of modality latents to the prior")
    weight_realigned: Weight = Field(
        default=1.0, description="weight of likelihoods decoded from the common latent; 1"
    )
    weight_kl_aligned: Weight = Field(
        default=0.04,
        description="weight of KL of common latents to the joint estimate from a cell's modalities; 0.04",
    )
    weight_prior: Weight = Field(default=1.0, description="weight of the MNN prior; paper 0.04, code 0.001")
    weight_prior_pretrain: Weight = Field(
        default=0.0, description="the same in the first stage; paper 0, code 1e-4"
    )
    weight_adversarial: Weight = Field(default=0.05, description="weight of the adversarial term")
    weight_pairs: Weight = Field(
        default=1.0, description="weight of the distance of latents of one cell's modalities; paper none"
    )
    share_pairs: bool = Field(
        default=True, description="also decode a modality from the others measured in the cell; paper no"
    )
    weight_generation: Weight = Field(
        default=0.0,
        description="weight of critics that tell generated from measured values (by expected values, as "
        "the authors' critics pass no gradient); 0 leaves them out",
    )
    weight_average: Averaging = 0.98

    def weights_per_feature(self, n_features: int) -> float:
        """Return the weights of one feature: a component each, and out of the latent."""
        return float(self.n_components + self.n_latent)

    def stages(self, n_cells: int, size: int, preset: Preset) -> tuple[int, int]:
        """Return the most steps of the first stage, and those of the second, `size` cells in each."""
        if preset is Preset.FAST:
            return FAST_STEPS, FAST_STEPS
        if preset is Preset.PAPER:
            return PAPER_STEPS, self.align_steps
        return min(max(self.max_epochs * -(-n_cells // size), LEAST_STEPS), MOST_STEPS), self.align_steps

    def steps(self, n_cells: int, preset: Preset) -> int:
        """Return the steps of both stages at most, of cells that are measured alike."""
        return sum(self.stages(n_cells, self.batch_size, preset))

    def usual_steps(self, n_cells: int) -> int:
        """Return the steps of both stages: only the first, the shorter one, may end before."""
        return self.steps(n_cells, Preset.AUTO)


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
"""Parameters that a preset changes; values set by the user win."""
