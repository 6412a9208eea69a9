"""Encoder, aligner and decoder of one modality (Yang et al. 2024, Methods; sizes of the authors' code)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mocli.nn import sampling
from mocli.nn.count_loss import negative_binomial_loss, poisson_loss
from mocli.nn.likelihoods import bernoulli, normal, zero_inflated_log_normal
from mocli.types import COUNT_LIKELIHOODS, NonZeros

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Generator

LEAST_SHARE = 1e-2
"""Share of all counts, spread evenly, below which no feature begins."""

LOG_SCALE = 8.0
"""Bound of log dispersions and log standard deviations: beyond it, likelihoods are of no use."""


class Hidden(nn.Module):
    """Linear layers, each with LeakyReLU 0.2, batch normalisation and dropout."""

    def __init__(self, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(b) for b in widths[1:])
        self.dropout = nn.Dropout(dropout)

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


class Decoder(nn.Module):
    """Latent to a likelihood: a linear map, then scale, bias and dispersion of the cell's batch.

    The mean of counts is `library * softmax(scale * W u + bias)`, and that whatever the dispersion is: in the
    authors' code it is multiplied by it.
    """

    def __init__(self, n_latent: int, n_vars: int, likelihood: str, n_levels: int) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.head = nn.Linear(n_latent, n_vars)
        n = max(n_levels, 1)
        self.scale = nn.Parameter(torch.zeros(n, n_vars))
        # with one batch the head's own bias says it all
        self.bias = nn.Parameter(torch.zeros(n, n_vars)) if n > 1 else None
        # log inverse dispersion of counts, or log standard deviation
        self.log_scale = None
        if likelihood in {"nb", "zinb", "ziln", "normal"}:
            self.log_scale = nn.Parameter(torch.zeros(n, n_vars))
        self.zeros = nn.Parameter(torch.full((n, n_vars), -2.0)) if likelihood in {"zinb", "ziln"} else None

    def start(self, mean: Tensor) -> None:
        """Let the head begin at the mean of each feature, `(p,)`."""
        mean = mean.double()
        if self.likelihood in COUNT_LIKELIHOODS:
            bias = torch.log(mean.clamp_min(0) / mean.sum().clamp_min(1e-12) + LEAST_SHARE / len(mean))
        elif self.likelihood == "bernoulli":
            bias = torch.logit(mean, eps=1e-4)
        elif self.likelihood == "normal":
            bias = mean
        else:
            bias = torch.log(mean.clamp_min(1e-6))
        with torch.no_grad():
            self.head.bias.copy_(bias)

    def forward(self, u: Tensor, codes: Tensor | None) -> Tensor:
        """`(B, d)` to logits or means `(B, p)`; a batch of -1, or none, stands at the mean of batches."""
        scale = F.softplus(self.scale)
        if codes is None or len(scale) == 1:
            bias = self.head.bias if self.bias is None else self.head.bias + self.bias.mean(0)
            return F.linear(u, self.head.weight * scale.mean(0).unsqueeze(1), bias)
        logits = F.linear(u, self.head.weight) * _rows(scale, codes) + self.head.bias
        return logits if self.bias is None else logits + _rows(self.bias, codes)

    def loss(
        self, x: Tensor | NonZeros, logits: Tensor, codes: Tensor | None, library: Tensor, weight: Tensor
    ) -> Tensor:
        """Negative log-likelihood summed over features, and by weight over cells."""
        if self.likelihood in COUNT_LIKELIHOODS:
            log_library = torch.log(library.clamp_min(1))
            if self.likelihood == "poisson":
                return poisson_loss(x, logits, log_library, weight)
            zeros = None if self.zeros is None else self._by_cell(self.zeros, codes).expand_as(logits)
            if zeros is not None:
                zeros = zeros.contiguous()
            return negative_binomial_loss(x, logits, self._spread(codes), log_library, zeros, weight)
        x = x if isinstance(x, Tensor) else x.dense
        if self.likelihood == "bernoulli":
            return -weight @ bernoulli((x > 0).to(logits.dtype), logits).sum(1)
        if self.zeros is None:
            return -weight @ normal(x, logits, self._spread(codes)).sum(1)
        zeros = self._by_cell(self.zeros, codes).expand_as(logits)
        return -weight @ zero_inflated_log_normal(x, logits, self._spread(codes), zeros).sum(1)

    def expected(self, logits: Tensor, codes: Tensor | None, library: Tensor) -> Tensor:
        """Mean of the likelihood, `(B, p)`."""
        if self.likelihood in COUNT_LIKELIHOODS:
            mean = torch.softmax(logits, 1) * library.unsqueeze(1)
        elif self.likelihood == "bernoulli":
            mean = torch.sigmoid(logits)
        elif self.likelihood == "ziln":
            mean = torch.exp(logits + 0.5 * torch.exp(2 * self._spread(codes)))
        else:
            mean = logits
        return mean if self.zeros is None else mean * torch.sigmoid(-self._by_cell(self.zeros, codes))

    def draw(self, logits: Tensor, codes: Tensor | None, library: Tensor, generator: Generator) -> Tensor:
        """Draw every value from the likelihood, `(B, p)`."""
        if self.likelihood == "bernoulli":
            return sampling.bernoulli(logits, generator=generator)
        zeros = None if self.zeros is None else self._by_cell(self.zeros, codes).expand_as(logits)
        if self.likelihood in COUNT_LIKELIHOODS:
            mean = torch.softmax(logits, 1) * library.unsqueeze(1)
            if self.likelihood == "poisson":
                return sampling.poisson(mean, generator=generator)
            x = sampling.negative_binomial(mean, torch.exp(self._spread(codes)), generator=generator)
            return x if zeros is None else sampling.zero_inflated(x, zeros, generator=generator)
        if zeros is None:
            return sampling.normal(logits, self._spread(codes), generator=generator)
        return sampling.zero_inflated_log_normal(logits, self._spread(codes), zeros, generator=generator)

    def _spread(self, codes: Tensor | None) -> Tensor:
        if self.log_scale is None:
            raise ValueError(f"{self.likelihood} has no scale")
        return self._by_cell(self.log_scale, codes).clamp(-LOG_SCALE, LOG_SCALE)

    @staticmethod
    def _by_cell(table: Tensor, codes: Tensor | None) -> Tensor:
        """Return the rows of cells `(B, p)`, or one for all `(p,)`."""
        return table.mean(0) if codes is None or len(table) == 1 else _rows(table, codes)


def _rows(table: Tensor, codes: Tensor) -> Tensor:
    known = (codes >= 0).unsqueeze(1)
    return torch.where(known, table[codes.clamp_min(0)], table.mean(0))


def totals(x: Tensor | NonZeros) -> Tensor:
    """Sum of each row, `(B,)`."""
    return x.sum(1) if isinstance(x, Tensor) else x.totals
