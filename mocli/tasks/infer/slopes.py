"""Cells at their places, and how what a decoder expects of them changes with the place."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mocli.models.base import Conditions, Decodes, Surprised

if TYPE_CHECKING:
    from torch import Tensor

    from mocli.data.bundle import MultiOmics
    from mocli.models.base import Model
    from mocli.types import FloatArray, IntArray

SLOPES = 20_000_000
"""Values of one block's derivatives."""


@dataclass(frozen=True, eq=False)
class Placed:
    """Cells with their places, `(n, d)`, as a model sees them."""

    model: Model
    bundle: MultiOmics
    z: FloatArray
    device: torch.device

    def conditions(self, cells: IntArray) -> Conditions:
        """Covariates of some cells."""
        codes = {c.key: self._send(c.codes[cells]) for c in self.bundle.categorical}
        numbers = self.bundle.continuous
        return Conditions(codes, None if numbers is None else self._send(numbers.values[cells]))

    def decode(self, modality: str, z: Tensor, cells: IntArray, library: Tensor | None = None) -> Tensor:
        """Return expected values of cells at other places, `(B, n_vars)`; counts as shares of the total."""
        assert isinstance(self.model, Decodes)
        if library is None:
            library = torch.ones(len(cells), device=self.device)
        return self.model.decode(modality, z, self.conditions(cells), library)

    def place(self, cells: IntArray) -> Tensor:
        """Places of some cells, `(B, d)`."""
        return self._send(self.z[cells])

    def _send(self, values: np.ndarray) -> Tensor:
        sent: Tensor = torch.from_numpy(np.ascontiguousarray(values)).to(self.device)
        return sent


def slopes(
    placed: Placed, modality: str, z: Tensor, cells: IntArray, library: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """Return expected values of some features `(B, k)`, and their derivatives in the latent `(B, k, d)`."""

    def expected(place: Tensor) -> Tensor:
        return placed.decode(modality, place, cells, library)[:, columns]

    found = []
    mean = expected(z)
    with torch.no_grad(), warnings.catch_warnings():
        # torch compiles some rules of forward derivatives by a function of its own that it deprecates
        warnings.simplefilter("ignore", DeprecationWarning)
        for k in range(z.shape[1]):
            along = torch.zeros_like(z)
            along[:, k] = 1
            mean, slope = torch.func.jvp(expected, (z,), (along,))  # type: ignore[misc]
            found.append(slope)
    return mean.detach(), torch.stack(found, 2).detach()


def pull(model: Model, modality: str, columns: Tensor, values: Tensor, mean: Tensor) -> Tensor:
    """Return the derivative in the means of the values' loss, `(B, k)`.

    Without a likelihood of the model's own it is Poisson's.
    """
    with torch.enable_grad():
        at = mean.detach().clone().requires_grad_()
        if isinstance(model, Surprised):
            loss = model.surprise(modality, columns, values, at)
        else:
            loss = at - torch.xlogy(values, at)
        (found,) = torch.autograd.grad(loss.sum(), at)
    return found
