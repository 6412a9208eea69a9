"""Hyper-parameters of the closed-form aligner."""

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from mocli.models.fields import Count, Dimensions, Evenness, Positive, Share, Weight, Whole
from mocli.nn.alignment_settings import AlignmentSettings


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class OtccaParams:
    """One field per hyper-parameter; see `mocli params otcca`."""

    n_latent: Dimensions = Field(
        default=AlignmentSettings.n_components,
        description="canonical components, at most as many as a modality has features",
    )
    n_pcs: Whole = Field(
        default=50, description="principal components used instead of more features; 0: the features"
    )
    input_smoothing: Share = Field(
        default=0.2, description="share of the mean of a cell's neighbours in its input"
    )
    smooth_links: bool = Field(
        default=True,
        description="couple cells by linked features averaged over neighbours in the same modality",
    )
    damping: Weight = Field(
        default=AlignmentSettings.damping,
        description="how much cells near the mean of all linked features are damped in the cost; 0: the "
        "cosine alone, whatever their length",
    )
    temperature: Positive = Field(
        default=AlignmentSettings.temperature,
        description="softness of the coupling, in standard deviations of its cost",
    )
    n_iter: Count = Field(default=AlignmentSettings.n_iter, description="Sinkhorn's iterations of a coupling")
    n_rounds: Count = Field(
        default=AlignmentSettings.n_rounds,
        description="number of successive couplings; the later ones also use latent coordinates",
    )
    latent_weight: Share = Field(
        default=AlignmentSettings.latent_weight,
        description="share of latent coordinates in the cost of the later couplings",
    )
    ridge: Positive = Field(
        default=AlignmentSettings.ridge,
        description="ridge added to the variance of every input, as a share of their mean variance",
    )
    unmatched: float = Field(
        default=AlignmentSettings.unmatched,
        ge=0,
        le=0.9,
        description="share of the cells that may remain without a counterpart, where evenness is 1",
    )
    evenness: Evenness = AlignmentSettings.evenness
    weigh_links: bool = Field(
        default=AlignmentSettings.weigh_links,
        description="weigh linked features by how well cells coupled by the other ones agree on them: "
        "links that the data contradict lose weight",
    )
    least_link_weight: Positive = Field(
        default=AlignmentSettings.least_link_weight,
        description="weight of a link without any agreement; one of full agreement counts 1 more",
    )
    n_landmarks: int = Field(
        default=2500,
        ge=10,
        description="cells of each modality that are coupled; all others follow by the maps",
    )
