"""Harmony: principal components corrected until clusters mix batches (Korsunsky et al. 2019)."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    # this file runs where mocli is not installed
    from mocli.peers.runner import Floats, Given

PEER: dict[str, Any] = {
    "name": "harmony",
    "title": "Harmony",
    "doi": "10.1038/s41592-019-0619-0",
    "package": "harmonypy",
    "module": "harmonypy",
    "licence": "GPL-3.0-or-later",
    "takes": ["components"],
    "needs": ["batch"],
    "pairings": ["paired", "mosaic"],
    "kinds": [],
    "n_modalities": None,
    "seeds": True,
    "params": {"max_iter_harmony": 10},
}


def place(given: Given) -> Floats:
    """Correct the components, `(n_cells, d)`."""
    import harmonypy
    import pandas as pd

    assert given.components is not None
    # a word of later versions, which would take every core
    words = inspect.signature(harmonypy.run_harmony).parameters
    threads = {"ncores": given.threads} if "ncores" in words else {}
    table = pd.DataFrame({"batch": given.batch}, index=given.cells)
    corrected = harmonypy.run_harmony(
        given.components,
        table,
        "batch",
        max_iter_harmony=given.params["max_iter_harmony"],
        random_state=given.seed,
        **threads,
    )
    z: Floats = np.asarray(corrected.Z_corr, dtype=np.float32)
    # components x cells before 0.1
    return z if len(z) == len(given.cells) else z.T
