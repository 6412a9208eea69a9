"""Fixed components through which an encoder sees a modality with very many features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from mocli.nn.principal import log_at_depth, principal_components, row_totals
from mocli.types import COUNT_LIKELIHOODS

if TYPE_CHECKING:
    from torch import Tensor

    from mocli.data.bundle import Modality
    from mocli.types import CSR, FloatArray

FIT_CELLS = 20_000
"""Cells that components are fitted on."""


def components(m: Modality, k: int, form: str, *, seed: int) -> tuple[Tensor, Tensor]:
    """Fit on what the encoder would see; returns loadings `(p, k)` and the mean of its input `(p,)`.

    Scores have unit variance on average over the components, whose sizes stay as they are to each other.

    Parameters
    ----------
    form
        `lognorm`, `log1p` or `raw`, as in the model's `encoder_input`.
    seed
        Of the run: which cells are drawn to fit on, and where the range finder starts. A saved model
        keeps the loadings, so that a query is seen by those of its reference, whatever its own seed.
    """
    values = m.features.values
    if m.n_obs > FIT_CELLS:
        rows = np.sort(np.random.default_rng(seed).choice(m.n_obs, FIT_CELLS, replace=False))
        values = values[rows]
    x = _seen(values, m.likelihood or "normal", form)
    fitted = principal_components(x, k, seed=seed, scaled=True)
    scores = fitted.scores(x)
    loadings = fitted.loadings / max(float(scores.std()), 1e-12)
    mean = fitted.mean if m.features.offset is None else fitted.mean + m.features.offset
    return torch.from_numpy(loadings).float(), torch.from_numpy(mean).float()


def _seen(x: CSR | FloatArray, likelihood: str, form: str) -> CSR | FloatArray:
    if likelihood == "bernoulli":
        return (x > 0).astype(np.float32)
    if likelihood == "normal" or form == "raw":
        return x
    if likelihood in COUNT_LIKELIHOODS and form == "lognorm":
        totals = row_totals(x)
        return log_at_depth(x, float(np.median(totals[totals > 0])) if (totals > 0).any() else 1.0)
    found: CSR | FloatArray = np.log1p(x)
    return found
