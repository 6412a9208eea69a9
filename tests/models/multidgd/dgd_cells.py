"""Small cells with three groups, two batches, and one modality that some lack."""

import numpy as np
import torch
from scipy import sparse

from mocli.data.batches import BundleRows
from mocli.data.bundle import Codes, Continuous, FeatureMatrix, Modality, MultiOmics
from mocli.models.multidgd.model import MultiDGD
from mocli.models.multidgd.params import MultiDGDParams
from mocli.types import ModalityKind, Pairing

P = {"rna": 20, "atac": 35, "prot": 4}
LIKELIHOODS = {"rna": "nb", "atac": "nb", "prot": "normal"}
SMALL = {"n_latent": 4, "n_hidden": 9, "batch_size": 16, "n_components": 3}


def make(n=60, *, names=tuple(P), have=None, levels=("a", "b"), seed=0, missing=(), batches=None, label=True):
    """A bundle; `have` says which cells have a modality, the others have it whole."""
    rng, profiles = np.random.default_rng(seed), np.random.default_rng(7)
    group = np.arange(n) % 3
    batch = np.arange(n) // 3 % max(len(levels), 1) if batches is None else np.asarray(batches)
    modalities, rows = {}, np.full((n, len(names)), -1)
    for column, (name, p) in enumerate(P.items()):
        profile = profiles.gamma(0.4, 1.0, size=(3, p)) + 0.02
        shift = np.exp(profiles.normal(size=(5, p)) * 0.8)
        if name not in names:
            continue
        column = names.index(name)
        cells = np.arange(n) if have is None or name not in have else np.asarray(have[name])
        rows[cells, column] = np.arange(len(cells))
        mean = profile[group[cells]] * shift[batch[cells]]
        if LIKELIHOODS[name] == "nb":
            mean = mean / mean.sum(1, keepdims=True) * rng.integers(50, 300, size=(len(cells), 1))
            x = sparse.csr_matrix(rng.poisson(mean).astype(np.float32))
        else:
            x = rng.normal(mean, 0.3).astype(np.float32)
        modalities[name] = Modality(
            name,
            ModalityKind(name),
            FeatureMatrix(x, tuple(f"{name}{j}" for j in range(p))),
            tuple(f"c{i}" for i in cells),
            np.asarray(x.sum(1), dtype=np.float32).ravel(),
            LIKELIHOODS[name],
        )
    codes = batch.copy()
    codes[list(missing)] = -1
    return MultiOmics(
        {name: modalities[name] for name in names},
        rows,
        tuple(f"c{i}" for i in range(n)),
        Pairing.PAIRED if have is None else Pairing.MOSAIC,
        batch=Codes("batch", codes, levels) if levels else None,
        label=Codes("label", group, ("x", "y", "z")) if label else None,
        covariates=(Codes("donor", (np.arange(n) % 5) % 2, ("d", "e")),) if levels else (),
        continuous=Continuous(("age",), rng.gamma(2, size=(n, 1)).astype(np.float32)) if levels else None,
    )


def build(bundle, seed=0, **params):
    torch.manual_seed(seed)
    return MultiDGD.from_bundle(bundle, MultiDGDParams(**(SMALL | params)))


def everything(bundle):
    return BundleRows(bundle, "cpu").take_cells(torch.arange(bundle.n_cells), 0)
