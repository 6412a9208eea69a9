"""Run a trained model over all rows of a modality, block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from mocli.data.batches import Rows

if TYPE_CHECKING:
    from mocli.data.bundle import FeatureMatrix
    from mocli.models.base import Encodes
    from mocli.types import FloatArray

BLOCK = 2048
"""Rows per block; fixed, because a product's rounding may depend on its shape."""


def encode_rows(model: Encodes, modality: str, features: FeatureMatrix, device: torch.device) -> FloatArray:
    """Latent of every row in file order, `(n_obs, n_latent)` float32."""
    rows = Rows(features, device)
    blocks: list[FloatArray] = []
    with torch.inference_mode():
        for start in range(0, features.n_obs, BLOCK):
            index = torch.arange(start, min(start + BLOCK, features.n_obs))
            blocks.append(model.encode(modality, rows.take(index)).float().cpu().numpy())
    return np.concatenate(blocks)
