"""MOFA+: factors shared by modalities, and factors of each (Argelaguet et al. 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    # this file runs where mocli is not installed
    from mocli.peers.runner import Floats, Given

PEER: dict[str, Any] = {
    "name": "mofa",
    "title": "MOFA+",
    "doi": "10.1186/s13059-020-02015-1",
    "package": "mofapy2",
    "module": "mofapy2",
    "licence": "LGPL-3.0",
    "takes": ["features"],
    "needs": [],
    "pairings": ["paired", "mosaic"],
    "kinds": [],
    "n_modalities": None,
    "seeds": True,
    "params": {"factors": 10, "iterations": 1000},
}


def place(given: Given) -> Floats:
    """Return the factors of all cells, `(n_cells, factors)`; a modality that was not measured is missing."""
    import h5py
    from mofapy2.run.entry_point import entry_point

    views = []
    for i, name in enumerate(given.kinds):
        rows = given.rows[:, i]
        view = np.full((len(rows), given.features[name].shape[1]), np.nan)
        view[rows >= 0] = given.features[name][rows[rows >= 0]]
        views.append([view])
    run = entry_point()
    run.set_data_options(scale_views=True)
    run.set_data_matrix(
        views,
        likelihoods=["gaussian"] * len(views),
        views_names=list(given.kinds),
        groups_names=["cells"],
        samples_names=[[str(name) for name in given.cells]],
    )
    run.set_model_options(factors=given.params["factors"])
    run.set_train_options(iter=given.params["iterations"], seed=given.seed, convergence_mode="fast")
    run.build()
    run.run()
    model = given.folder / "model.hdf5"
    run.save(str(model), save_data=False)
    with h5py.File(model) as h5:
        names = h5["samples/cells"].asstr()[:]
        z = h5["expectations/Z/cells"][:].T
    order = {name: i for i, name in enumerate(names)}
    return z[[order[str(name)] for name in given.cells]]
