"""Encoder, aligner and decoder of one modality (Yang et al. 2024, Methods; sizes of the authors' code)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mocli.data.bundle import FeatureMatrix
from mocli.nn.heads import Parameters, likelihood_named
from mocli.nn.layers import Dropout

LOG_SCALE = 8.0
"""Bound of log dispersions and log standard deviations: beyond it, likelihoods are of no use."""


class Hidden(nn.Module):
    """Linear layers, each with LeakyReLU 0.2, batch normalisation and dropout."""

    def __init__(self, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(b) for b in widths[1:])
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, widths[0])` to `(B, widths[-1])`."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.leaky_relu(layer(x), 0.2)
            # statistics of fewer than two rows mean nothing
            x = norm(x) if len(x) > 1 or not self.training else x
            x = self.dropout(x)
        return x


class Gaussian(nn.Module):
    """Any input to the mean and standard deviation of a Gaussian, through hidden layers if there are any."""

    def __init__(self, n_in: int, n_hidden: int, n_layers: int, n_out: int, dropout: float) -> None:
        super().__init__()
        widths = [n_in, *[n_hidden] * n_layers]
        self.hidden = Hidden(widths, dropout)
        self.mean = nn.Linear(widths[-1], n_out)
        self.spread = nn.Linear(widths[-1], n_out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, n_in)` to two tensors `(B, n_out)`."""
        h = self.hidden(x)
        return self.mean(h), F.softplus(self.spread(h)) + 1e-4


class LinearDecoder(nn.Module):
    """Latent to a likelihood: a linear map, then scale, bias and dispersion of the cell's batch.

    The mean of counts is `library * softmax(scale * W u + bias)` and does not depend on the dispersion; in
    the authors' code it is multiplied by it.
    """

    def __init__(self, n_latent: int, n_vars: int, likelihood: str, n_levels: int) -> None:
        super().__init__()
        self.likelihood = likelihood_named(likelihood)
        self.head = nn.Linear(n_latent, n_vars)
        n = max(n_levels, 1)
        self.scale = nn.Parameter(torch.zeros(n, n_vars))
        # with one batch the head's own bias says it all
        self.bias = nn.Parameter(torch.zeros(n, n_vars)) if n > 1 else None
        # log inverse dispersion of counts, or log standard deviation
        self.log_scale = nn.Parameter(torch.zeros(n, n_vars)) if self.likelihood.scale else None
        self.zeros = nn.Parameter(torch.full((n, n_vars), -2.0)) if self.likelihood.has_zeros else None

    def start(self, features: FeatureMatrix) -> None:
        """Let the head begin at the mean of each feature."""
        mean = torch.from_numpy(features.mean(binary=self.likelihood.is_binary))
        with torch.no_grad():
            self.head.bias.copy_(self.likelihood.start(mean.double()))

    def forward(self, u: Tensor, codes: Tensor | None) -> Tensor:
        """`(B, d)` to logits or means `(B, p)`; a batch of -1, or none, stands at the mean of batches."""
        scale = F.softplus(self.scale)
        if codes is None or len(scale) == 1:
            bias = self.head.bias if self.bias is None else self.head.bias + self.bias.mean(0)
            return F.linear(u, self.head.weight * scale.mean(0).unsqueeze(1), bias)
        logits = F.linear(u, self.head.weight) * _rows(scale, codes) + self.head.bias
        return logits if self.bias is None else logits + _rows(self.bias, codes)

    def parameters_at(self, u: Tensor, codes: Tensor | None) -> Parameters:
        """`(B, d)` to the parameters of the likelihood."""
        scale = None
        if self.log_scale is not None:
            scale = self._by_cell(self.log_scale, codes).clamp(-LOG_SCALE, LOG_SCALE)
        zeros = None if self.zeros is None else self._by_cell(self.zeros, codes)
        return Parameters(self(u, codes), scale, zeros)

    @staticmethod
    def _by_cell(table: Tensor, codes: Tensor | None) -> Tensor:
        """Return the rows of cells `(B, p)`, or one for all `(p,)`."""
        return table.mean(0) if codes is None or len(table) == 1 else _rows(table, codes)


def _rows(table: Tensor, codes: Tensor) -> Tensor:
    """Rows of a table by number, `(B, p)`; that of -1 is the mean of all."""
    rows = torch.cat([table, table.mean(0, keepdim=True)])
    return F.embedding(codes.remainder(len(rows)), rows)
