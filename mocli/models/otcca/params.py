"""Hyper-parameters of the closed-form aligner."""

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class OtccaParams:
    """One field per hyper-parameter; see `mocli params otcca`."""

    n_latent: Annotated[
        int,
        Field(ge=1, le=1024, description="canonical components, at most as many as a modality has features"),
    ] = 30
    n_pcs: Annotated[
        int, Field(ge=0, description="principal components taken instead of more features; 0: the features")
    ] = 50
    input_smoothing: Annotated[
        float, Field(ge=0, le=1, description="share of a cell's input that is its own neighbours' mean")
    ] = 0.5
    smooth_links: Annotated[
        bool, Field(description="couple cells by linked features averaged over own neighbours")
    ] = True
    temperature: Annotated[
        float, Field(gt=0, description="softness of the coupling, in standard deviations of its cost")
    ] = 0.2
    n_iter: Annotated[int, Field(ge=1, description="Sinkhorn's iterations of a coupling")] = 60
    n_rounds: Annotated[
        int,
        Field(ge=1, description="couplings one after the other, the later ones by latent coordinates too"),
    ] = 2
    latent_weight: Annotated[
        Share, Field(description="share of latent coordinates in the cost of the later couplings")
    ] = 0.3
    ridge: Annotated[
        float,
        Field(gt=0, description="added to the variance of every input, as a share of their mean variance"),
    ] = 0.01
    unmatched: Annotated[
        float, Field(ge=0, le=0.9, description="share of the cells that may stay without a counterpart")
    ] = 0.1
    weigh_links: Annotated[
        bool,
        Field(
            description="weigh linked features by how well cells coupled by the other ones agree on them: "
            "links that the data contradict lose their say"
        ),
    ] = True
    least_link_weight: Annotated[
        float,
        Field(
            gt=0, description="what a link without any agreement still counts, one of full agreement 1 more"
        ),
    ] = 0.1
    n_landmarks: Annotated[
        int,
        Field(ge=10, description="cells of each modality that are coupled; all others follow by the maps"),
    ] = 2500
