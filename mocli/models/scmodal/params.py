"""Hyper-parameters of scMODAL.

Defaults are mocli's recipe (`--preset auto`); where it, the paper and the
authors' code differ the help of the field says so. `--preset paper` takes the
authors' working values.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ScmodalParams:
    """One field per hyper-parameter; see `mocli params scmodal`."""

    n_latent: Annotated[int, Field(ge=1, le=1024, description="latent dimensions (q)")] = 20
    n_hidden: Annotated[int, Field(ge=1, le=16384, description="units of every hidden layer")] = 512
    batch_size: Annotated[
        int, Field(ge=2, description="cells drawn per modality and step, with replacement (B)")
    ] = 500
    lr: Annotated[float, Field(gt=0, lt=1, description="Adam's learning rate")] = 1e-3
    lr_factor: Annotated[
        float | None,
        Field(
            gt=0,
            lt=1,
            description="by what the learning rate is multiplied where the loss of training no longer falls: "
            "once before training may end, as often as that happens where the steps are fixed; none: it "
            "stays, as the authors'",
        ),
    ] = None
    lr_patience: Annotated[
        int,
        Field(ge=1, description="looks in a row, every 15 steps, at a flat loss before lr_factor lowers it"),
    ] = 2
    beta1: Annotated[float, Field(ge=0, lt=1, description="Adam's decay of the gradient mean")] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1, description="Adam's decay of the squared gradient")] = 0.999
    weight_decay: Annotated[float, Field(ge=0, description="L2 penalty inside Adam, all networks")] = 1e-3
    clip_norm: Annotated[
        float | None,
        Field(gt=0, description="largest norm of the encoder-decoder gradient; code 5, the paper names none"),
    ] = 5.0
    critic_steps: Annotated[
        int, Field(ge=1, description="discriminator steps per minibatch; code 5, the paper names none")
    ] = 5
    critic_weights: Annotated[
        Literal["equal", "labels"],
        Field(
            description="weights of cells in the discriminators: equal, or such that both modalities have "
            "the labels of --label-key in equal shares; times --weight-key, where given"
        ),
    ] = "equal"
    logit_clamp: Annotated[float, Field(gt=0, description="bound of the discriminator's logit")] = 50.0
    weight_adversarial: Annotated[Weight, Field(description="weight of the GAN term")] = 1.0
    weight_reconstruction: Annotated[
        Weight, Field(description="weight of auto-encoding, within a modality")
    ] = 10.0
    weight_cycle: Annotated[Weight, Field(description="weight of the latent cycle, across modalities")] = 10.0
    weight_mnn: Annotated[Weight, Field(description="weight of the anchors; paper and code 1")] = 10.0
    anchors: Annotated[
        Literal["soft", "mutual"],
        Field(description="soft: balanced partners by optimal transport; mutual: nearest neighbours (paper)"),
    ] = "soft"
    anchor_temperature: Annotated[
        float,
        Field(gt=0, description="softness of soft anchors, in standard deviations of their cost"),
    ] = 0.1
    smooth_links: Annotated[
        bool,
        Field(description="search anchors in linked features averaged over own neighbours; paper no"),
    ] = True
    n_pcs: Annotated[
        int,
        Field(ge=0, description="principal components that encoders take instead of more features; paper 0"),
    ] = 50
    input_smoothing: Annotated[
        float,
        Field(ge=0, le=1, description="share of a cell's input that is its own neighbours' mean; paper 0"),
    ] = 0.5
    weight_average: Annotated[
        float,
        Field(ge=0, lt=1, description="decay of the running mean of the weights that is kept; paper 0"),
    ] = 0.98
    unit_latent: Annotated[
        bool,
        Field(description="scale latents to length 1, so that distances compare directions; paper no"),
    ] = True
    weight_geometry: Annotated[
        Weight, Field(description="weight of geometry preservation; code 10, paper 1")
    ] = 10.0
    n_neighbors: Annotated[
        int, Field(ge=1, description="neighbours per direction when mutual anchors are searched (k)")
    ] = 30
    mnn_reduction: Annotated[
        Literal["mean", "sum"],
        Field(description="mean over anchors (code) or their sum (paper, Eq. 3)"),
    ] = "mean"
    geometry_cap: Annotated[
        float, Field(gt=0, le=1, description="cosine above which a cell's geometry is left alone")
    ] = 0.975
    init: Annotated[
        Literal["normal", "kaiming"],
        Field(description="initial weights: N(0, init_sd^2) for weights and biases (code) or PyTorch's own"),
    ] = "normal"
    init_sd: Annotated[float, Field(gt=0, description="standard deviation of the normal start")] = 0.1

    def weights_per_feature(self, n_features: int) -> float:
        """Return the weights of one feature: into the encoder, and out of the decoder."""
        return 2.0 * self.n_hidden


PUBLISHED: dict[str, object] = {
    "weight_mnn": 1.0,
    "anchors": "mutual",
    "smooth_links": False,
    "n_pcs": 0,
    "input_smoothing": 0.0,
    "weight_average": 0.0,
    "unit_latent": False,
}

PRESETS = {"paper": PUBLISHED}
"""What a preset changes; values that the user sets win."""

BEFORE: dict[int, dict[str, object]] = {
    2: {name: PUBLISHED[name] for name in ("n_pcs", "input_smoothing", "weight_average", "unit_latent")},
}
"""Values of parameters that models saved in a format older than the key did not have."""
