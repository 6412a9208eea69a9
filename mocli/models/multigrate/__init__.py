"""Multigrate: cells measured together, all or in part, by a variational product of experts."""

from mocli.models.base import Traits
from mocli.types import ModalityKind, Pairing, Task

TRAITS = Traits(
    name="multigrate",
    title="Multigrate",
    doi="10.1101/2022.03.16.484643",
    summary="joins modalities measured in the same cells, also if some are missing",
    pairings=frozenset({Pairing.PAIRED, Pairing.MOSAIC}),
    rank={Pairing.PAIRED: 1, Pairing.MOSAIC: 1},
    expects=dict.fromkeys(ModalityKind, "any"),
    min_modalities=1,
    max_modalities=None,
    needs_links=False,
    uses_links=False,
    likelihoods={
        ModalityKind.RNA: ("nb", "normal", "zinb", "poisson"),
        ModalityKind.ATAC: ("poisson", "normal", "bernoulli", "nb", "zinb"),
        ModalityKind.PROT: ("normal", "nb", "zinb", "poisson"),
        ModalityKind.CYTO: ("normal", "ziln"),
        ModalityKind.METHYL: ("normal", "ziln", "bernoulli"),
        ModalityKind.OTHER: ("normal", "nb", "zinb", "poisson", "bernoulli", "ziln"),
    },
    tasks=frozenset({Task.INTEGRATE, Task.IMPUTE, Task.SIMULATE, Task.PERTURB, Task.GENE2PEAK}),
    backed=True,
    params="mocli.models.multigrate.params:MultigrateParams",
    model="mocli.models.multigrate.model:Multigrate",
)
