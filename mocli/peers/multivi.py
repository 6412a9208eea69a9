"""MultiVI: a variational autoencoder of genes and peaks of the same cells (Ashuach et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    # this file runs where mocli is not installed
    from mocli.peers.runner import Floats, Given

PEER: dict[str, Any] = {
    "name": "multivi",
    "title": "MultiVI",
    "doi": "10.1038/s41592-023-01909-9",
    "package": "scvi-tools",
    "module": "scvi",
    "licence": "BSD-3-Clause",
    "takes": ["counts"],
    "needs": [],
    "pairings": ["paired"],
    "kinds": ["rna", "atac"],
    "n_modalities": 2,
    "seeds": True,
    "params": {"max_epochs": 500, "seen_in": 0.01},
}


def place(given: Given) -> Floats:
    """Train with the package's defaults and return the means of all cells, `(n_cells, n_latent)`.

    Features seen in fewer than 1% of the cells are left out, as in its tutorial.
    """
    import anndata
    import mudata
    import pandas as pd
    import scvi
    import torch

    torch.set_num_threads(given.threads)
    scvi.settings.seed = given.seed
    parts = {}
    for kind in ("rna", "atac"):
        x = given.by_cell(given.counts, given.of_kind(kind))
        seen = np.asarray((x > 0).sum(0)).ravel() >= given.params["seen_in"] * len(given.cells)
        x = x[:, np.flatnonzero(seen)]
        var = pd.DataFrame(index=[f"{kind}{i}" for i in range(x.shape[1])])
        parts[kind] = anndata.AnnData(x, obs=pd.DataFrame(index=given.cells), var=var)
    modalities = {"rna_layer": "rna", "atac_layer": "atac"}
    if given.batch is not None:
        parts["rna"].obs["batch"] = given.batch
        modalities["batch_key"] = "rna"
    data = mudata.MuData(parts)
    scvi.model.MULTIVI.setup_mudata(
        data,
        rna_layer=None,
        atac_layer=None,
        batch_key=None if given.batch is None else "batch",
        modalities=modalities,
    )
    model = scvi.model.MULTIVI(data)
    model.train(max_epochs=given.params["max_epochs"], enable_progress_bar=False, **given.scvi_device())
    return model.get_latent_representation()
