"""multiDGD: cells measured together, by a decoder alone and a Gaussian mixture over its latent."""

from mocli.models.base import Traits
from mocli.types import ModalityKind, Pairing, Task

TRAITS = Traits(
    name="multidgd",
    title="multiDGD",
    doi="10.1038/s41467-024-53340-z",
    summary="learns latent coordinates for every cell, without an encoder, with clusters; takes all features",
    pairings=frozenset({Pairing.PAIRED, Pairing.MOSAIC}),
    rank={Pairing.PAIRED: 3},
    expects={
        ModalityKind.RNA: "counts",
        ModalityKind.ATAC: "counts",
        ModalityKind.PROT: "any",
        ModalityKind.CYTO: "any",
        ModalityKind.METHYL: "any",
        ModalityKind.OTHER: "any",
    },
    min_modalities=1,
    max_modalities=None,
    needs_links=False,
    uses_links=False,
    likelihoods={
        ModalityKind.RNA: ("nb",),
        ModalityKind.ATAC: ("nb",),
        ModalityKind.PROT: ("nb", "normal"),
        ModalityKind.CYTO: ("normal",),
        ModalityKind.METHYL: ("normal",),
        ModalityKind.OTHER: ("nb", "normal"),
    },
    selects_features=False,
    tasks=frozenset({Task.INTEGRATE, Task.IMPUTE, Task.SIMULATE, Task.PERTURB, Task.GENE2PEAK}),
    leads=frozenset({Task.GENE2PEAK}),
    params="mocli.models.multidgd.params:MultiDGDParams",
    model="mocli.models.multidgd.model:MultiDGD",
)
