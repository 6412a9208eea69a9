"""Latent coordinates of cells measured in one modality, and how decoded values change along them.

Cells are encoded, or where a model has no encoders their coordinates are trained.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from mocli.data.bundle import MultiOmics
from mocli.models.base import (
    Conditions,
    Decodes,
    Encodes,
    EncodesJointly,
    Extends,
    Model,
    Schedule,
    Surprised,
)
from mocli.tasks.infer.align import Aligned, project
from mocli.tasks.infer.query import query_of_one
from mocli.tasks.run.frame import Tell
from mocli.tasks.run.options import DataOptions
from mocli.tasks.trained.saved import SavedModel
from mocli.train.loop import Training, fit
from mocli.train.predict import encode_cells
from mocli.types import FloatArray, IntArray

SLOPES = 20_000_000
"""Derivatives computed at a time."""


@dataclass(frozen=True, eq=False)
class LatentCells:
    """Cells with their latent coordinates, `(n, d)`, as a model sees them."""

    model: Model
    bundle: MultiOmics
    z: FloatArray
    device: torch.device

    def conditions(self, cells: IntArray) -> Conditions:
        """Return the covariates of some cells."""
        codes = {c.key: self._send(c.codes[cells]) for c in self.bundle.categorical}
        numbers = self.bundle.continuous
        return Conditions(codes, None if numbers is None else self._send(numbers.values[cells]))

    def decode(self, modality: str, z: Tensor, cells: IntArray, library: Tensor | None = None) -> Tensor:
        """Return expected values at other coordinates, `(B, n_vars)`; counts as shares of the total."""
        assert isinstance(self.model, Decodes)
        if library is None:
            library = torch.ones(len(cells), device=self.device)
        return self.model.decode(modality, z, self.conditions(cells), library)

    def place(self, cells: IntArray) -> Tensor:
        """Return the latent coordinates of some cells, `(B, d)`."""
        return self._send(self.z[cells])

    def _send(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)


def place_cells(
    saved: SavedModel,
    name: str,
    aligned: Aligned,
    data: DataOptions,
    *,
    device: torch.device,
    seed: int,
    tell: Tell,
) -> FloatArray:
    """Return the latent of every cell of a file of one modality, `(n_obs, n_latent)`.

    Raises:
        InputError: A covariate of the cells does not fit the model.
        TypeError: The model can neither encode a modality nor add new cells.
    """
    if isinstance(saved.model, Encodes):
        return project(saved, name, aligned, device)
    return settle_cells(saved, name, aligned, data, device=device, seed=seed, tell=tell).z


def settle_cells(
    saved: SavedModel,
    name: str,
    aligned: Aligned,
    data: DataOptions,
    *,
    device: torch.device,
    seed: int,
    tell: Tell,
) -> LatentCells:
    """Train the latent coordinates of every cell of a file of one modality, for a model without encoders.

    Raises:
        InputError: A covariate of the cells does not fit the model.
        TypeError: The model cannot add new cells.
    """
    query = query_of_one(saved, name, aligned, data, say=tell.say, warn=tell.warn)
    tell.say(
        f"{saved.description['model']} has no encoders: the latent coordinates of {len(query.rows):,} cells "
        "are trained; the model itself does not change"
    )
    return infer_coordinates(saved.model, query.load(), device=device, seed=seed)


def infer_coordinates(model: Model, bundle: MultiOmics, *, device: torch.device, seed: int) -> LatentCells:
    """Train the weights that the cells of a bundle add to a model; return the cells' coordinates.

    The model is not changed. The schedule is its own, whatever training was given, so that a saved model
    gives cells the same coordinates as the run that trained it.
    """
    if not isinstance(model, Extends) or not isinstance(model, EncodesJointly):
        raise TypeError(f"{type(model).__name__} can neither encode a modality nor add new cells")
    # a model may draw where new levels start
    torch.manual_seed(seed)
    extended = model.extended(bundle)
    fit(extended, bundle, Schedule(), Training(device, seed))
    extended.module.eval()
    return LatentCells(extended, bundle, encode_cells(extended, bundle, device), device)


def slopes(
    placed: LatentCells, modality: str, z: Tensor, cells: IntArray, library: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """Return expected values of some features `(B, k)`, and their derivatives in the latent `(B, k, d)`."""
    rows = []
    with torch.no_grad(), warnings.catch_warnings(), forward_ad.dual_level():
        # torch compiles some rules of forward derivatives by a function of its own that it deprecates
        warnings.simplefilter("ignore", DeprecationWarning)
        mean = placed.decode(modality, z, cells, library)[:, columns]
        for k in range(z.shape[1]):
            along = torch.zeros_like(z)
            along[:, k] = 1
            place = forward_ad.make_dual(z, along)  # type: ignore[no-untyped-call]
            values = placed.decode(modality, place, cells, library)[:, columns]
            rows.append(forward_ad.unpack_dual(values).tangent)  # type: ignore[no-untyped-call]
    return mean, torch.stack(rows, 2)


def pull(model: Model, modality: str, columns: Tensor, values: Tensor, mean: Tensor) -> Tensor:
    """Return the derivative in the means of the values' loss, `(B, k)`.

    If the model has no likelihood of its own, Poisson's is used.
    """
    with torch.enable_grad():
        point = mean.detach().clone().requires_grad_()
        if isinstance(model, Surprised):
            loss = model.surprise(modality, columns, values, point)
        else:
            loss = point - torch.xlogy(values, point)
        (gradient,) = torch.autograd.grad(loss.sum(), point)
    return gradient
