"""Latent coordinates are measured from a notebook, without a file."""

import numpy as np
import pytest

import mocli
from mocli.errors import UsageError


def cells():
    rng = np.random.default_rng(0)
    kinds = np.array(["B", "T", "NK"])[np.arange(90) % 3]
    z = rng.normal(size=(3, 5))[np.arange(90) % 3] * 6 + rng.normal(size=(90, 5))
    return z, kinds


def test_labels_and_batches_of_one_latent():
    z, kinds = cells()
    kinds = kinds.astype(object)
    kinds[:2] = [None, ""]
    found = mocli.score_latents(
        z, labels=kinds, batches=np.repeat(["x", "y"], 45), metrics=["silhouette", "kbet_batch"]
    )
    assert found.keys() == {"silhouette", "kbet_batch"}
    assert found["silhouette"]["n"] == 88
    assert found["silhouette"]["value"] > 0.5


def test_modalities_that_share_cells():
    z, kinds = cells()
    rows = np.stack([np.arange(90)] * 2, axis=1)
    latents = {"rna": z, "prot": z + 0.01}
    found = mocli.score_latents(latents, labels={"rna": kinds, "prot": kinds}, pairs={("rna", "prot"): rows})
    assert found["foscttm[rna-prot]"]["value"] < 0.01
    assert found["label_transfer[rna->prot]"]["value"] == 1.0
    with pytest.raises(UsageError, match="foscttn"):
        mocli.score_latents(z, metrics=["foscttn"])
