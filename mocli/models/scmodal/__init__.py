"""scMODAL: unpaired modalities aligned through a few linked features."""

from mocli.models.base import Traits
from mocli.types import ModalityKind, Pairing, Task

TRAITS = Traits(
    name="scmodal",
    title="scMODAL",
    doi="10.1038/s41467-025-60333-z",
    summary="aligns cells measured apart through a few linked features",
    pairings=frozenset({Pairing.UNPAIRED, Pairing.PAIRED, Pairing.MOSAIC}),
    rank={Pairing.UNPAIRED: 2},
    expects=dict.fromkeys(ModalityKind, "any"),
    min_modalities=2,
    max_modalities=None,
    needs_links=True,
    tasks=frozenset({Task.INTEGRATE, Task.IMPUTE, Task.GENE2PEAK, Task.PERTURB}),
    backed=True,
    params="mocli.models.scmodal.params:ScmodalParams",
    model="mocli.models.scmodal.model:Scmodal",
)
