"""Where cells settle after a change, for models without encoders: to first order, in closed form.

A cell's place z is where the likelihood of its values x and the prior are highest together. If values
change a little, so does that place (the implicit function theorem):

    dz = H^-1 sum_g s_g w_g dx_g,    H = sum_g w_g s_g s_g' + P

with s_g the slope of feature g's mean in z, w_g its Fisher information (of a negative binomial
1 / (mu + mu^2 / r)) and P the curvature of the prior: one step of Fisher scoring. The total of the
cell is held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

from mocli.models.base import HasPrior
from mocli.nn.neighbors import chunks
from mocli.tasks.infer.place import SLOPES, pull, slopes

if TYPE_CHECKING:
    from torch import Tensor

    from mocli.tasks.infer.place import LatentCells
    from mocli.types import CSR, BoolArray, DoubleArray, FloatArray, IntArray

LEAST = 1e-8
"""Below it a mean counts as this much."""


class Settled:
    """Cells whose places were trained, and how these answer to changes of their values.

    Parameters
    ----------
    placed
        More cells than these, perhaps.
    rows
        Of these cells among those placed, `(n,)`.
    library
        Their totals as the model takes them, `(n,)`.
    measured
        Whether a feature of the decoder was measured, `(n_used,)`.
    """

    def __init__(
        self, placed: LatentCells, modality: str, rows: IntArray, library: FloatArray, *, measured: BoolArray
    ) -> None:
        self.placed, self.modality, self.rows = placed, modality, rows
        self.library = torch.from_numpy(library).to(placed.device)
        self.z: FloatArray = placed.z[rows]
        d, p = self.z.shape[1], len(measured)
        columns = torch.from_numpy(np.flatnonzero(measured)).to(placed.device)
        parts = [torch.zeros((0, d, d), dtype=torch.from_numpy(self.z).dtype)]
        for block in chunks(len(rows), max(1, SLOPES // (p * (d + 1)))):
            cells = np.arange(block.start, block.stop)
            slope, weight = self._slopes(cells, columns)
            curvature = torch.einsum("bki,bk,bkj->bij", slope, weight, slope)
            prior = torch.ones(len(cells), d, device=placed.device, dtype=slope.dtype)
            if isinstance(placed.model, HasPrior):
                with torch.inference_mode():
                    prior = placed.model.prior_precision(placed.place(rows[cells])).to(slope.dtype)
            # in the processor's memory: cells times the square of the dimensions
            parts.append(torch.linalg.cholesky(curvature + torch.diag_embed(prior)).cpu())
        self._half = torch.cat(parts)

    def enter(self, values: DoubleArray, cells: IntArray) -> DoubleArray:
        """Values are taken as they are."""
        return values

    def place(self, cells: IntArray, delta: CSR) -> FloatArray:
        """Return where cells `(m,)` settle, `(m, d)`, after changes `(m, n_used)` of their values."""
        delta = sparse.csr_matrix(delta)
        out = self.z[cells].copy()
        columns, where = np.unique(delta.indices, return_inverse=True)
        pair = np.repeat(np.arange(len(cells)), np.diff(delta.indptr))
        cell = cells[pair]
        order = np.argsort(cell, kind="stable")
        wanted = np.unique(cell)
        chosen = torch.from_numpy(columns.astype(np.int64)).to(self.placed.device)
        size = max(1, SLOPES // ((self.z.shape[1] + 1) * max(len(columns), 1) + delta.shape[1]))
        for block in chunks(len(wanted), size):
            some = wanted[block]
            slope, weight = self._slopes(some, chosen)
            turned = (slope * weight.unsqueeze(2)).transpose(1, 2)
            half = self._half[torch.from_numpy(some)].to(turned.device)
            answer = torch.cholesky_solve(turned, half).cpu().numpy()
            mine = order[slice(*np.searchsorted(cell[order], [some[0], some[-1] + 1]))]
            at = np.searchsorted(some, cell[mine])
            np.add.at(out, pair[mine], answer[at, :, where[mine]] * delta.data[mine, None])
        return out

    def _slopes(self, cells: IntArray, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes of some features' means `(B, k, d)`, and their Fisher information `(B, k)`."""
        placed, rows = self.placed, self.rows[cells]
        library = self.library[torch.from_numpy(cells).to(placed.device)]
        mean, slope = slopes(placed, self.modality, placed.place(rows), rows, library, columns)
        # of a mean of 0, as in a cell without counts, Fisher's information has no bound
        mean = torch.where(mean.abs() < LEAST, torch.full_like(mean, LEAST), mean)
        none, one = torch.zeros_like(mean), torch.ones_like(mean)
        # what one more count adds to the loss's derivative in the mean
        weight = pull(placed.model, self.modality, columns, none, mean) - pull(
            placed.model, self.modality, columns, one, mean
        )
        return slope, weight.clamp_min(0) * (library > 0).unsqueeze(1)
