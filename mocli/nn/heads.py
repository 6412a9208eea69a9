"""One class per likelihood, found by its name: a new class needs no registration.

A likelihood turns the output of a decoder into a loss, a mean and draws, gives the initial bias of a
decoder and the form in which encoders see values. The mean of counts is library * softmax(head), multiplied
by the probability of no extra zero if the likelihood is zero-inflated.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Generator, Tensor

from mocli.nn import sampling
from mocli.nn.likelihoods import (
    bernoulli,
    negative_binomial_loss,
    normal,
    poisson_loss,
    zero_inflated_log_normal,
)
from mocli.types import NonZeros

LEAST_SHARE = 1e-2
"""Share of all counts, spread evenly, below which no feature begins."""

LOG_SD = -0.5 * math.log(2)
"""Log standard deviation of normal values without one of their own: the loss is then the squared error."""

LIKELIHOODS: dict[str, Likelihood] = {}
"""One of each, by name."""

Values = TypeVar("Values")


class Parameters(NamedTuple):
    """The parameters that a decoder predicts for cells.

    Attributes:
        head: Logits of proportions, logits or means, `(B, p)`.
        log_scale: Log inverse dispersion of counts, or log standard deviation, `(p,)` or `(B, p)`.
        zeros: Logits of an extra zero, broadcast to the head.
    """

    head: Tensor
    log_scale: Tensor | None = None
    zeros: Tensor | None = None

    @property
    def scale(self) -> Tensor:
        """The log scale, which this likelihood needs."""
        if self.log_scale is None:
            raise ValueError("this likelihood needs a scale")
        return self.log_scale

    @property
    def extra_zeros(self) -> Tensor:
        """The logits of extra zeros, `(B, p)`."""
        if self.zeros is None:
            raise ValueError("this likelihood needs logits of extra zeros")
        return self.zeros.expand_as(self.head)


class Likelihood(ABC):
    """One likelihood; subclasses are found by their name.

    Attributes:
        is_counts: Whether values are counts, whose mean is a proportion times a library size and which
            non-zeros describe in full.
        is_binary: Whether values are yes or no: whether they are above zero.
        has_zeros: Whether there are extra zeros.
        scale: The parameter whose log is `log_scale`; None where there is none.
        fixed_scale: Whether a model may leave the scale out.
    """

    name: ClassVar[str] = ""
    is_counts: ClassVar[bool] = False
    is_binary: ClassVar[bool] = False
    has_zeros: ClassVar[bool] = False
    scale: ClassVar[Literal["dispersion", "sd"] | None] = None
    fixed_scale: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if "name" in cls.__dict__:
            LIKELIHOODS[cls.name] = cls()

    @abstractmethod
    def start(self, mean: Tensor) -> Tensor:
        """Return the head's bias for features of some means, `(p,)`."""

    @abstractmethod
    def loss(self, x: Tensor | NonZeros, parameters: Parameters, weight: Tensor | None) -> Tensor:
        """Negative log-likelihood summed over features and, by weight `(B,)` if there is one, over cells."""

    @abstractmethod
    def mean(self, parameters: Parameters, library: Tensor) -> Tensor:
        """Return expected values in cells of a library size `(B,)`, `(B, p)`."""

    @abstractmethod
    def draw(self, parameters: Parameters, library: Tensor, generator: Generator) -> Tensor:
        """Draw values whose means are those of `mean`, `(B, p)`."""

    def encoder_input(self, values: Values, form: str, factor: Any) -> Values:
        """Return values, an array or a tensor, as an encoder sees them.

        Args:
            form: `lognorm`, log1p of counts at one library size; `log1p`; or `raw`.
            factor: Factor that brings a cell to that library size, broadcast to the values.
        """
        return values if form == "raw" else _log1p(values)


def likelihood_named(name: str) -> Likelihood:
    """Return a likelihood; raises `ValueError` for a name that no class has."""
    if name not in LIKELIHOODS:
        raise ValueError(f"no likelihood '{name}'")
    return LIKELIHOODS[name]


def totals(x: Tensor | NonZeros) -> Tensor:
    """Sum of each row, `(B,)`."""
    return x.sum(1) if isinstance(x, Tensor) else x.totals


class CountLikelihood(Likelihood):
    """Counts that share out the total of a cell."""

    is_counts = True

    def start(self, mean: Tensor) -> Tensor:
        """Log share of every feature, bounded below so that no feature is lost."""
        return torch.log(mean.clamp_min(0) / mean.sum().clamp_min(1e-12) + LEAST_SHARE / len(mean))

    def mean(self, parameters: Parameters, library: Tensor) -> Tensor:
        """Proportion times library size."""
        return torch.softmax(parameters.head, 1) * library.unsqueeze(1)

    def encoder_input(self, values: Values, form: str, factor: Any) -> Values:
        """Return log1p of counts at one library size, log1p of unscaled counts, or raw counts."""
        return super().encoder_input(_times(values, factor) if form == "lognorm" else values, form, factor)


class Poisson(CountLikelihood):
    """Counts whose variance is their mean."""

    name = "poisson"

    def loss(self, x: Tensor | NonZeros, parameters: Parameters, weight: Tensor | None) -> Tensor:
        """Cells are compared at their own totals."""
        return poisson_loss(
            x, parameters.head, torch.log(totals(x).clamp_min(1)), _weights(parameters, weight)
        )

    def draw(self, parameters: Parameters, library: Tensor, generator: Generator) -> Tensor:
        """Draw counts."""
        return sampling.poisson(self.mean(parameters, library), generator=generator)


class NegativeBinomial(CountLikelihood):
    """Counts with inverse dispersion r = exp(log_scale): variance mean + mean^2 / r."""

    name = "nb"
    scale = "dispersion"

    def loss(self, x: Tensor | NonZeros, parameters: Parameters, weight: Tensor | None) -> Tensor:
        """Cells are compared at their own totals."""
        library = torch.log(totals(x).clamp_min(1))
        zeros = parameters.extra_zeros.contiguous() if self.has_zeros else None
        return negative_binomial_loss(
            x, parameters.head, parameters.scale, library, zeros, _weights(parameters, weight)
        )

    def draw(self, parameters: Parameters, library: Tensor, generator: Generator) -> Tensor:
        """Draw counts."""
        mean = CountLikelihood.mean(self, parameters, library)
        return sampling.negative_binomial(mean, parameters.scale.exp(), generator=generator)


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """Negative binomial counts with extra zeros of probability sigmoid(zeros)."""

    name = "zinb"
    has_zeros = True

    def mean(self, parameters: Parameters, library: Tensor) -> Tensor:
        """Mean of the counts times the probability of no extra zero."""
        return super().mean(parameters, library) * torch.sigmoid(-parameters.extra_zeros)

    def draw(self, parameters: Parameters, library: Tensor, generator: Generator) -> Tensor:
        """Draw counts, then extra zeros."""
        return sampling.zero_inflated(
            super().draw(parameters, library, generator), parameters.extra_zeros, generator=generator
        )


class Bernoulli(Likelihood):
    """Yes where a value is above zero."""

    name = "bernoulli"
    is_binary = True

    def start(self, mean: Tensor) -> Tensor:
        """Logit of the share of cells above zero."""
        return torch.logit(mean, eps=1e-4)

    def loss(self, x: Tensor | NonZeros, parameters: Parameters, weight: Tensor | None) -> Tensor:
        """Cross-entropy."""
        return -_summed(bernoulli((_dense(x) > 0).to(parameters.head.dtype), parameters.head), weight)

    def mean(self, parameters: Parameters, library: Tensor) -> Tensor:
        """Probability of yes."""
        return torch.sigmoid(parameters.head)

    def draw(self, parameters: Parameters, library: Tensor, generator: Generator) -> Tensor:
        """Draw 0 or 1."""
        return sampling.bernoulli(parameters.head, generator=generator)

    def encoder_input(self, values: Values, form: str, factor: Any) -> Values:
        """Return 0 or 1."""
        seen: Any = values
        seen = (seen > 0).to(seen.dtype) if isinstance(values, Tensor) else (seen > 0).astype(np.float32)
        return cast("Values", seen)


class Normal(Likelihood):
    """Any values; without a scale the variance is 1/2, and the loss is the squared error."""

    name = "normal"
    scale = "sd"
    fixed_scale = True

    def start(self, mean: Tensor) -> Tensor:
        """Return the mean itself."""
        return mean

    def loss(self, x: Tensor | NonZeros, parameters: Parameters, weight: Tensor | None) -> Tensor:
        """Squared error, or its likelihood."""
        if parameters.log_scale is None:
            return _summed((parameters.head - _dense(x)).square(), weight)
        return -_summed(normal(_dense(x), parameters.head, parameters.log_scale), weight)

    def mean(self, parameters: Parameters, library: Tensor) -> Tensor:
        """Return the head."""
        return parameters.head

    def draw(self, parameters: Parameters, library: Tensor, generator: Generator) -> Tensor:
        """Draw around the head."""
        scale = parameters.head.new_tensor(LOG_SD) if parameters.log_scale is None else parameters.log_scale
        return sampling.normal(parameters.head, scale, generator=generator)

    def encoder_input(self, values: Values, form: str, factor: Any) -> Values:
        """Return the values: they were transformed before."""
        return values


class ZeroInflatedLogNormal(Likelihood):
    """Zero with probability sigmoid(zeros), else the logarithm is normal (Multigrate, Table 4)."""

    name = "ziln"
    has_zeros = True
    scale = "sd"

    def start(self, mean: Tensor) -> Tensor:
        """Return the logarithm of the mean."""
        return torch.log(mean.clamp_min(1e-6))

    def loss(self, x: Tensor | NonZeros, parameters: Parameters, weight: Tensor | None) -> Tensor:
        """Density above zero, probability at zero."""
        return -_summed(
            zero_inflated_log_normal(_dense(x), parameters.head, parameters.scale, parameters.extra_zeros),
            weight,
        )

    def mean(self, parameters: Parameters, library: Tensor) -> Tensor:
        """Mean of the log-normal times the probability of no extra zero."""
        return torch.exp(parameters.head + 0.5 * torch.exp(2 * parameters.scale)) * torch.sigmoid(
            -parameters.extra_zeros
        )

    def draw(self, parameters: Parameters, library: Tensor, generator: Generator) -> Tensor:
        """Draw values, then zeros."""
        return sampling.zero_inflated_log_normal(
            parameters.head, parameters.scale, parameters.extra_zeros, generator=generator
        )


class Decoded(NamedTuple):
    """A likelihood, its parameters and the library sizes of some cells, `(B,)`."""

    likelihood: Likelihood
    parameters: Parameters
    library: Tensor


class DecodesHeads(ABC):
    """`decode` and `sample` for models that predict a likelihood's parameters from latent coordinates."""

    @abstractmethod
    def decoded(self, modality: str, z: Tensor, conditions: Any, library: Tensor | None) -> Decoded:
        """Return the likelihood of a modality at latent coordinates, `(B, n_latent)`.

        Args:
            conditions: Covariates (`mocli.models.base.Conditions`), or None for their mean.
            library: Library sizes, `(B,)`, or None for the median of training.
        """

    def decode(
        self, modality: str, z: Tensor, conditions: Any = None, library: Tensor | None = None
    ) -> Tensor:
        """Return expected values, `(B, n_vars)`: counts at a library size, by default the median of training.

        Without conditions, covariates are at their mean.
        """
        likelihood, parameters, sizes = self.decoded(modality, z, conditions, library)
        return likelihood.mean(parameters, sizes)

    def sample(
        self,
        modality: str,
        z: Tensor,
        conditions: Any = None,
        library: Tensor | None = None,
        *,
        generator: Generator,
    ) -> Tensor:
        """Draw every value from its likelihood, `(B, n_vars)`, with the means of `decode`."""
        likelihood, parameters, sizes = self.decoded(modality, z, conditions, library)
        return likelihood.draw(parameters, sizes, generator)


def _dense(x: Tensor | NonZeros) -> Tensor:
    return x if isinstance(x, Tensor) else x.dense


def _summed(values: Tensor, weight: Tensor | None) -> Tensor:
    return values.sum() if weight is None else weight @ values.sum(1)


def _weights(parameters: Parameters, weight: Tensor | None) -> Tensor:
    return parameters.head.new_ones(len(parameters.head)) if weight is None else weight


def _times(values: Values, factor: Any) -> Values:
    product: Any = values
    return cast("Values", product * factor)


def _log1p(values: Values) -> Values:
    logs: Any = torch.log1p(values) if isinstance(values, Tensor) else np.log1p(cast("Any", values))
    return cast("Values", logs)
