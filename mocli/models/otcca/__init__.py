"""Closed-form alignment: optimal transport over linked features, then canonical correlation."""

from mocli.models.base import Traits
from mocli.types import ModalityKind, Pairing, Task

TRAITS = Traits(
    name="otcca",
    title="OT-CCA",
    doi="10.1093/biomet/28.3-4.321",
    summary="aligns cells measured apart in closed form, without a network: seconds instead of minutes",
    pairings=frozenset({Pairing.UNPAIRED, Pairing.PAIRED, Pairing.MOSAIC}),
    rank={Pairing.UNPAIRED: 1},
    expects=dict.fromkeys(ModalityKind, "any"),
    min_modalities=2,
    max_modalities=None,
    needs_links=True,
    tasks=frozenset({Task.INTEGRATE, Task.IMPUTE, Task.GENE2PEAK, Task.PERTURB}),
    uses_batches=True,
    solves=True,
    backed=True,
    params="mocli.models.otcca.params:OtccaParams",
    model="mocli.models.otcca.model:Otcca",
)
