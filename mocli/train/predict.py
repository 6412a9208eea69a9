"""Run a trained model over all rows of a modality, or over all cells, block by block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mocli.data.batches import BundleRows, Rows
from mocli.data.bundle import FeatureMatrix, MultiOmics
from mocli.errors import InputError
from mocli.models.base import Clusters, Draws, Encodes, EncodesJointly, HasCovariateSpaces
from mocli.types import FloatArray

BLOCK = 2048
"""Rows per block, fewer if features are many; always the same for a model, as rounding may depend on it."""

VALUES = 2**24
"""Dense values in a block."""

FEWEST = 128


def rows_of(n_features: int) -> int:
    """Return how many cells with this many features are run at once."""
    return max(FEWEST, min(BLOCK, VALUES // max(n_features, 1)))


def _blocks(bundle: MultiOmics) -> Sequence[torch.Tensor]:
    """Return the cells of a bundle, block by block."""
    width = sum(m.features.n_vars for m in bundle.modalities.values())
    return torch.split(torch.arange(bundle.n_cells), rows_of(width))


def encode_rows(model: Encodes, modality: str, features: FeatureMatrix, device: torch.device) -> FloatArray:
    """Latent of every row in file order, `(n_obs, n_latent)` float32."""
    rows, size = Rows(features, device), rows_of(features.n_vars)
    blocks: list[FloatArray] = []
    with torch.inference_mode():
        for start in range(0, features.n_obs, size):
            index = torch.arange(start, min(start + size, features.n_obs))
            blocks.append(model.encode(modality, rows.take(index)).float().cpu().numpy())
    return _finite(blocks)


def draw_cells(
    model: Draws, bundle: MultiOmics, device: torch.device, n_draws: int, *, seed: int
) -> list[FloatArray]:
    """Draws from the posterior of every cell, `n_draws` times `(n_cells, n_latent)` float32."""
    source, generator = BundleRows(bundle, device), torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        return [
            np.concatenate(
                [
                    model.draw_cells(source.take_cells(cells, 0), generator).float().cpu().numpy()
                    for cells in _blocks(bundle)
                ]
            )
            for _ in range(n_draws)
        ]


def encode_cells(model: EncodesJointly, bundle: MultiOmics, device: torch.device) -> FloatArray:
    """Joint latent of every cell of a bundle, `(n_cells, n_latent)` float32."""
    source = BundleRows(bundle, device)
    with torch.inference_mode():
        blocks = [
            model.encode_cells(source.take_cells(cells, 0)).float().cpu().numpy() for cells in _blocks(bundle)
        ]
    return _finite(blocks)


def _finite(blocks: Sequence[FloatArray]) -> FloatArray:
    """Return the coordinates of all cells; `InputError` where some cannot be computed with."""
    z: FloatArray = np.concatenate(blocks)
    lost = int((~np.isfinite(z).all(axis=1)).sum())
    if lost:
        raise InputError(
            "the model gives cells coordinates that are not finite",
            found=f"{lost:,} of {len(z):,} cells",
            expected="numbers",
            hint="look for values in the input that are far larger than all others: they overflow; "
            "if there are none, copy or train the model again",
        )
    return z


def place_covariates(
    model: HasCovariateSpaces, bundle: MultiOmics, device: torch.device
) -> dict[str, FloatArray]:
    """Coordinates of every cell of a bundle in each covariate's space, `(n_cells, q)` float32 by key."""
    source, places = BundleRows(bundle, device), {}
    with torch.inference_mode():
        blocks = [
            {key: c.float().cpu().numpy() for key, c in model.covariate_coordinates(batch).items()}
            for batch in (source.take_cells(cells, 0) for cells in _blocks(bundle))
        ]
    for key in blocks[0] if blocks else ():
        places[key] = np.concatenate([block[key] for block in blocks])
    return places


def cluster_cells(model: Clusters, z: FloatArray, device: torch.device) -> FloatArray:
    """Probability of every cluster for latents `(n, n_latent)`, `(n, K)` float32."""
    with torch.inference_mode():
        blocks = [
            model.clusters(torch.from_numpy(z[start : start + BLOCK]).to(device)).float().cpu().numpy()
            for start in range(0, len(z), BLOCK)
        ]
    return np.concatenate(blocks)
