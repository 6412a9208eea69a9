"""Hyper-parameters of scMODAL.

Defaults are mocli's recipe (`--preset auto`); where it, the paper and the
authors' code differ the help of the field says so. `--preset paper` takes the
authors' working values.
"""

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from mocli.models.fields import (
    Averaging,
    Cells,
    Count,
    Dimensions,
    Evenness,
    Part,
    Positive,
    Rate,
    Share,
    Units,
    Weight,
    Whole,
)
from mocli.nn.alignment_settings import AlignmentSettings
from mocli.types import Preset

PAPER_STEPS = 10_000
USUAL_STEPS = 700
"""They were 600 to 930 on fifteen sets."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ScmodalParams:
    """One field per hyper-parameter; see `mocli params scmodal`."""

    STEP_MS: ClassVar[float] = 15.0

    n_latent: Dimensions = Field(default=20, description="latent dimensions (q)")
    n_hidden: Units = Field(default=256, description="units of every hidden layer; paper 512")
    batch_size: Cells = Field(
        default=256, description="cells drawn per modality and step, with replacement (B); paper 500"
    )
    lr: Rate = Field(default=1e-3, description="Adam's learning rate")
    lr_factor: Rate | None = Field(
        default=None,
        description="factor of the learning rate when the loss of training no longer falls: once before "
        "training may end, repeatedly if the number of steps is fixed; none: constant, as the "
        "authors'",
    )
    lr_patience: Count = Field(
        default=2,
        description="checks in a row, every 15 steps, with a flat loss before lr_factor lowers the rate",
    )
    beta1: Part = Field(default=0.9, description="Adam's decay of the gradient mean")
    beta2: Part = Field(default=0.999, description="Adam's decay of the squared gradient")
    weight_decay: Weight = Field(default=1e-3, description="L2 penalty inside Adam, all networks")
    clip_norm: Positive | None = Field(
        default=5.0,
        description="largest norm of the encoder-decoder gradient; code 5, not stated in the paper",
    )
    critic_steps: Count = Field(
        default=2, description="discriminator steps per minibatch; code 5, not stated in the paper"
    )
    critic_weights: Literal["equal", "labels"] = Field(
        default="equal",
        description="weights of cells in the discriminators: equal, or such that both modalities have the "
        "labels of --label-key in equal shares; multiplied by --weight-key, where given",
    )
    logit_clamp: Positive = Field(default=50.0, description="bound of the discriminator's logit")
    weight_adversarial: Weight = Field(default=1.0, description="weight of the GAN term")
    weight_reconstruction: Weight = Field(
        default=10.0, description="weight of auto-encoding, within a modality"
    )
    weight_cycle: Weight = Field(default=10.0, description="weight of the latent cycle, across modalities")
    weight_mnn: Weight = Field(default=10.0, description="weight of the anchors; paper and code 1")
    anchors: Literal["soft", "mutual"] = Field(
        default="soft",
        description="soft: balanced partners by optimal transport; mutual: nearest neighbours (paper)",
    )
    anchor_temperature: Positive = Field(
        default=0.1, description="softness of soft anchors, in standard deviations of their cost"
    )
    evenness: Evenness = AlignmentSettings.evenness
    start: Literal["aligned", "random"] = Field(
        default="aligned",
        description="aligned: encoders start at the maps of the closed form (otcca), whose latent also "
        "helps to find anchors; random: random weights (paper), and always if n_pcs is 0",
    )
    start_share: Share = Field(
        default=0.3, description="share of the closed form's latent in the search of anchors, beside links"
    )
    smooth_links: bool = Field(
        default=True,
        description="search anchors in linked features averaged over neighbours in the same "
        "modality; paper no",
    )
    n_pcs: Whole = Field(
        default=50, description="principal components that encoders take instead of more features; paper 0"
    )
    input_smoothing: Share = Field(
        default=0.5, description="share of the mean of a cell's neighbours in its input; paper 0"
    )
    weight_average: Averaging = 0.98
    unit_latent: bool = Field(
        default=True, description="scale latents to length 1, so that distances compare directions; paper no"
    )
    weight_geometry: Weight = Field(
        default=10.0, description="weight of geometry preservation; code 10, paper 1"
    )
    n_neighbors: Count = Field(
        default=30, description="neighbours per direction when mutual anchors are searched (k)"
    )
    mnn_reduction: Literal["mean", "sum"] = Field(
        default="mean", description="mean over anchors (code) or their sum (paper, Eq. 3)"
    )
    geometry_cap: float = Field(
        default=0.975, gt=0, le=1, description="cosine above which a cell's geometry is no longer optimised"
    )
    init: Literal["normal", "kaiming"] = Field(
        default="normal",
        description="initial weights: N(0, init_sd^2) for weights and biases (code) or PyTorch's own",
    )
    init_sd: Positive = Field(default=0.1, description="standard deviation of the normal initial weights")

    def weights_per_feature(self, n_features: int) -> float:
        """Return the weights of one feature: into the encoder, and out of the decoder."""
        return 2.0 * self.n_hidden

    def steps(self, n_cells: int, preset: Preset) -> int:
        """Return the steps of training; `n_cells` changes nothing, as cells are drawn with replacement."""
        return {Preset.AUTO: 2_000, Preset.PAPER: PAPER_STEPS, Preset.FAST: 300}[preset]

    def usual_steps(self, n_cells: int) -> int:
        """Return after how many steps the loss is mostly flat; `n_cells` changes nothing."""
        return USUAL_STEPS


PUBLISHED: dict[str, object] = {
    "n_hidden": 512,
    "batch_size": 500,
    "critic_steps": 5,
    "start": "random",
    "weight_mnn": 1.0,
    "anchors": "mutual",
    "smooth_links": False,
    "n_pcs": 0,
    "input_smoothing": 0.0,
    "weight_average": 0.0,
    "unit_latent": False,
}

PRESETS = {"paper": PUBLISHED}
"""Parameters that a preset changes; values set by the user win."""

BEFORE: dict[int, dict[str, object]] = {
    2: {name: PUBLISHED[name] for name in ("n_pcs", "input_smoothing", "weight_average", "unit_latent")}
}
"""Values of parameters that models saved in a format older than the key did not have."""
