"""totalVI: a variational autoencoder of genes and proteins of the same cells (Gayoso et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # this file runs where mocli is not installed
    from mocli.peers.runner import Floats, Given

PEER: dict[str, Any] = {
    "name": "totalvi",
    "title": "totalVI",
    "doi": "10.1038/s41592-020-01050-x",
    "package": "scvi-tools",
    "module": "scvi",
    "licence": "BSD-3-Clause",
    "takes": ["counts"],
    "needs": [],
    "pairings": ["paired"],
    "kinds": ["rna", "prot"],
    "n_modalities": 2,
    "seeds": True,
    "params": {"max_epochs": None, "n_latent": 20},
}


def place(given: Given) -> Floats:
    """Train with the package's defaults and return the means of all cells, `(n_cells, n_latent)`."""
    import anndata
    import pandas as pd
    import scvi
    import torch

    torch.set_num_threads(given.threads)
    scvi.settings.seed = given.seed
    obs = pd.DataFrame(index=given.cells)
    if given.batch is not None:
        obs["batch"] = given.batch
    data = anndata.AnnData(given.by_cell(given.counts, given.of_kind("rna")), obs=obs)
    data.obsm["protein"] = given.by_cell(given.counts, given.of_kind("prot"))
    scvi.model.TOTALVI.setup_anndata(
        data, protein_expression_obsm_key="protein", batch_key=None if given.batch is None else "batch"
    )
    model = scvi.model.TOTALVI(data, n_latent=given.params["n_latent"])
    model.train(max_epochs=given.params["max_epochs"], enable_progress_bar=False, **given.scvi_device())
    return model.get_latent_representation()
