"""multiDGD's decoder (Schuster et al. 2024, Methods, "Decoder" and "Count modeling")."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mocli.models.multidgd.params import MultiDGDParams
from mocli.nn.heads import Parameters, likelihood_named, totals
from mocli.nn.layers import MLP
from mocli.types import NonZeros

LEAST_LOG_SD = -5.0
"""Bound of the log standard deviation of values that are no counts."""


class Branch(nn.Module):
    """The part of the decoder that belongs to one modality, and its likelihood.

    Counts are negative binomial with mean library * softmax(head) (Eq. 3) and inverse dispersion
    r = 1 + exp(rho), 2 at the start; other values are normal with a standard deviation by feature.
    """

    def __init__(self, n_vars: int, likelihood: str, params: MultiDGDParams) -> None:
        super().__init__()
        self.likelihood = likelihood_named(likelihood)
        if self.likelihood.scale is None or self.likelihood.has_zeros:
            raise ValueError(f"multiDGD does not take values for {likelihood}")
        hidden, last = params.n_hidden, max(params.n_hidden, round(math.sqrt(n_vars)))
        self.hidden = MLP([hidden, *[hidden] * (params.n_layers - 1), last])
        self.head = nn.Linear(last, n_vars)
        # rho of counts, log standard deviation of other values
        self.log_scale = nn.Parameter(torch.zeros(n_vars))

    @property
    def log_dispersion(self) -> Tensor:
        """Log of r of counts, `(p,)`."""
        return F.softplus(self.log_scale)

    @property
    def log_sd(self) -> Tensor:
        """Log standard deviation of other values, `(p,)`."""
        return self.log_scale.clamp_min(LEAST_LOG_SD)

    def forward(self, shared: Tensor) -> Tensor:
        """`(B, n_hidden)` to the head's output `(B, p)`: logits of proportions, or means."""
        out: Tensor = self.head(F.relu(self.hidden(shared)))
        return out

    def parameters_at(self, shared: Tensor) -> Parameters:
        """`(B, n_hidden)` to the parameters of the likelihood."""
        return Parameters(self(shared), self.log_dispersion if self.likelihood.is_counts else self.log_sd)

    def loss(self, x: Tensor | NonZeros, shared: Tensor) -> Tensor:
        """Negative log-likelihood, summed over features and cells (Eq. 5)."""
        # a cell without counts has the mean 0 and says nothing
        weight = (totals(x) > 0).to(shared.dtype) if self.likelihood.is_counts else None
        return self.likelihood.loss(x, self.parameters_at(shared), weight)
