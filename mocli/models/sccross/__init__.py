"""scCross: a variational auto-encoder for each modality, joined by aligners, an adversary and neighbours."""

from mocli.models.base import Traits
from mocli.types import ModalityKind, Pairing, Task

TRAITS = Traits(
    name="sccross",
    title="scCross",
    doi="10.1186/s13059-024-03338-z",
    summary="joins and generates modalities, measured together or apart",
    pairings=frozenset({Pairing.UNPAIRED, Pairing.PAIRED, Pairing.MOSAIC}),
    rank={Pairing.PAIRED: 2, Pairing.MOSAIC: 2, Pairing.UNPAIRED: 3},
    expects=dict.fromkeys(ModalityKind, "any"),
    min_modalities=1,
    max_modalities=None,
    needs_links=True,
    links_replace_pairs=True,
    uses_sets=True,
    likelihoods={
        ModalityKind.RNA: ("nb", "normal", "zinb", "poisson"),
        ModalityKind.ATAC: ("nb", "normal", "bernoulli", "zinb", "poisson"),
        ModalityKind.PROT: ("nb", "normal", "zinb", "poisson"),
        ModalityKind.CYTO: ("normal", "ziln"),
        ModalityKind.METHYL: ("normal", "ziln", "bernoulli"),
        ModalityKind.OTHER: ("nb", "normal", "zinb", "poisson", "bernoulli", "ziln"),
    },
    tasks=frozenset({Task.INTEGRATE, Task.IMPUTE, Task.SIMULATE, Task.PERTURB, Task.GENE2PEAK}),
    params="mocli.models.sccross.params:SccrossParams",
    model="mocli.models.sccross.model:Sccross",
)
