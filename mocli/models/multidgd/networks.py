"""multiDGD's decoder (Schuster et al. 2024, Methods, "Decoder" and "Count modeling")."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mocli.nn import sampling
from mocli.nn.count_loss import negative_binomial_loss
from mocli.nn.layers import MLP
from mocli.nn.likelihoods import normal

if TYPE_CHECKING:
    from torch import Generator

    from mocli.models.multidgd.params import MultiDGDParams
    from mocli.types import NonZeros

LEAST_LOG_SD = -5.0
"""Bound of the log standard deviation of values that are no counts."""


class Branch(nn.Module):
    """The part of the decoder that one modality has alone, and its likelihood.

    Counts are negative binomial with mean library * softmax(head) (Eq. 3) and inverse dispersion
    r = 1 + exp(rho), 2 at the start; other values are normal with a standard deviation by feature.
    """

    def __init__(self, n_vars: int, likelihood: str, params: MultiDGDParams) -> None:
        super().__init__()
        if likelihood not in {"nb", "normal"}:
            raise ValueError(f"no likelihood '{likelihood}'")
        self.likelihood = likelihood
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

    def loss(self, x: Tensor | NonZeros, output: Tensor) -> Tensor:
        """Negative log-likelihood, summed over features and cells (Eq. 5)."""
        if self.likelihood == "normal":
            x = x if isinstance(x, Tensor) else x.dense
            return -normal(x, output, self.log_sd).sum()
        total = x.sum(1) if isinstance(x, Tensor) else x.totals
        # a cell without counts has the mean 0 and says nothing
        weight = (total > 0).to(output.dtype)
        return negative_binomial_loss(
            x, output, self.log_dispersion, torch.log(total.clamp_min(1)), weight=weight
        )

    def expected(self, output: Tensor, library: Tensor) -> Tensor:
        """Mean of the likelihood, `(B, p)`."""
        return output if self.likelihood == "normal" else torch.softmax(output, 1) * library.unsqueeze(1)

    def draw(self, output: Tensor, library: Tensor, generator: Generator) -> Tensor:
        """Draw from the likelihood, `(B, p)`."""
        if self.likelihood == "normal":
            return sampling.normal(output, self.log_sd, generator=generator)
        mean = torch.softmax(output, 1) * library.unsqueeze(1)
        return sampling.negative_binomial(mean, self.log_dispersion.exp(), generator=generator)
