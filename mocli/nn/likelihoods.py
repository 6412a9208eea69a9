"""Likelihoods of measured values, element by element; of sparse counts at the cost of non-zeros.

Every function returns the logarithm of a density or a probability, of the shape of its first argument, and
is differentiable in its parameters. Training on counts should use `negative_binomial_loss` and
`poisson_loss`, which give the same numbers at a fraction of the cost.

The mean of cell i and feature j is library_i * softmax(logits_i)_j. With q = mean / (r + mean) and
t = r log1p(mean / r), the negative log-likelihood of a negative binomial splits into

    sum_j t_j  +  sum over non-zeros [ lgamma(r) - lgamma(x + r) + lgamma(x + 1) - x log q ]

so that lgamma, digamma and logarithms of the data are taken at non-zeros only, and the dense rest is
one exponential and one logarithm per element. Extra zeros with logit l (ZINB) add, per element,
softplus(l) - [x = 0] softplus(l + t). The gradient is written by hand and computed in the forward pass,
a few rows at a time, so that temporaries stay in the processor's cache; that is why the rows' weights
are an argument and the result is their weighted sum.

Tests hold values and gradients against float64 autograd of the log-densities.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from mocli.types import NonZeros

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def poisson(x: Tensor, mean: Tensor) -> Tensor:
    """Poisson counts: x log(mean) - mean - log(x!)."""
    return torch.xlogy(x, mean) - mean - torch.lgamma(x + 1)


def negative_binomial(x: Tensor, mean: Tensor, dispersion: Tensor) -> Tensor:
    """Negative binomial by mean and inverse dispersion r: variance mean + mean^2 / r.

    In scipy this is `nbinom(n=r, p=r / (r + mean))`.
    """
    log_total = torch.log(dispersion + mean)
    return (
        torch.lgamma(x + dispersion)
        - torch.lgamma(dispersion)
        - torch.lgamma(x + 1)
        + dispersion * (torch.log(dispersion) - log_total)
        + torch.xlogy(x, mean)
        - x * log_total
    )


def zero_inflated(x: Tensor, log_density: Tensor, log_density_zero: Tensor, logit: Tensor) -> Tensor:
    """Give counts extra zeros: with probability sigmoid(logit) the count is zero.

    `log_density`, `log_density_zero`: log-density of the distribution without the extra zeros, at `x` and at
    zero.
    """
    log_kept = F.logsigmoid(-logit)
    return torch.where(
        x == 0, torch.logaddexp(F.logsigmoid(logit), log_kept + log_density_zero), log_kept + log_density
    )


def normal(x: Tensor, mean: Tensor, log_sd: Tensor) -> Tensor:
    """Log-density of a normal with standard deviation exp(log_sd)."""
    return -0.5 * ((x - mean) * torch.exp(-log_sd)).square() - log_sd - _HALF_LOG_2PI


def bernoulli(x: Tensor, logit: Tensor) -> Tensor:
    """Yes (1) or no (0) with probability sigmoid(logit)."""
    return x * logit - F.softplus(logit)


def zero_inflated_log_normal(x: Tensor, mean: Tensor, log_sd: Tensor, logit: Tensor) -> Tensor:
    """Zero with probability sigmoid(logit), else log x is normal(mean, exp(log_sd)); x >= 0.

    A density over x > 0 beside a probability at 0: together they integrate to 1.
    """
    log_x = torch.log(torch.where(x > 0, x, torch.ones_like(x)))
    positive = F.logsigmoid(-logit) + normal(log_x, mean, log_sd) - log_x
    return torch.where(x > 0, positive, F.logsigmoid(logit))


BLOCK = 1 << 17
"""Elements of a block of rows on the CPU: half a megabyte per temporary."""

_STIRLING = 0.9189385332046727  # half the logarithm of 2 pi


def negative_binomial_loss(
    x: Tensor | NonZeros,
    logits: Tensor,
    log_dispersion: Tensor,
    log_library: Tensor,
    dropout: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Negative log-likelihood of counts, summed over features and, by weight, over cells: a scalar.

    Args:
        x: Counts, `(B, p)`, or their non-zeros.
        logits: Of the proportions, `(B, p)`.
        log_dispersion: log r, `(p,)`, or `(B, p)` where it differs between cells.
        log_library: Log of the expected total, `(B,)`; no gradient is taken.
        dropout: Logits of an extra zero, `(B, p)`, for the zero-inflated likelihood.
        weight: Of each cell, `(B,)`; None for the mean over cells.
    """
    if weight is None:
        weight = torch.full_like(log_library, 1 / max(len(logits), 1))
    x = x if isinstance(x, NonZeros) else nonzeros_of(x)
    if not torch.is_grad_enabled():
        return _evaluate(x, logits, log_dispersion, log_library, dropout, weight)[0]
    return _NegativeBinomial.apply(x, logits, log_dispersion, log_library, dropout, weight)  # type: ignore[no-untyped-call]


def poisson_loss(
    x: Tensor | NonZeros, logits: Tensor, log_library: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Negative log-likelihood of Poisson counts, summed over features and, by weight, over cells: a scalar.

    Parameters are those of `negative_binomial_loss`. The means of a cell sum to its library, so only
    non-zeros meet a logit.
    """
    if weight is None:
        weight = torch.full_like(log_library, 1 / max(len(logits), 1))
    x = x if isinstance(x, NonZeros) else nonzeros_of(x)
    return _Poisson.apply(x, logits, log_library, weight)  # type: ignore[no-untyped-call]


class _Poisson(torch.autograd.Function):
    """The gradient is computed with the loss and only scaled in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: NonZeros, logits: Tensor, log_library: Tensor, weight: Tensor) -> Tensor:
        n, p = logits.shape
        total = x.totals
        grad, lse = torch.empty_like(logits), torch.empty_like(log_library)
        size = max(1, n if logits.device.type != "cpu" else min(BLOCK // max(p, 1), n))
        for start in range(0, n, size):
            cut = slice(start, min(start + size, n))
            torch.softmax(logits[cut], 1, out=grad[cut])
            lse[cut] = logits[cut].amax(1) - grad[cut].amax(1).log_()
            grad[cut].mul_((total * weight)[cut].unsqueeze(1))
        nonzero, weights = x.at, weight.index_select(0, x.row)
        grad.view(-1).index_add_(0, nonzero, x.values * weights, alpha=-1)
        met = logits.reshape(-1).index_select(0, nonzero)
        at_nonzeros = torch.lgamma(x.values + 1) - x.values * met
        ctx.save_for_backward(grad)
        return weight @ (log_library.exp() - total * (log_library - lse)) + weights @ at_nonzeros

    @staticmethod
    def backward(ctx: FunctionCtx, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return None, _scaled(grad, outer[0]), None, None


def _scaled(grad: Tensor, scale: Tensor) -> Tensor:
    # a loss that is only added to others has the scale 1, which on the CPU is free to ask
    return grad if scale.device.type == "cpu" and float(scale) == 1 else grad * scale


class _NegativeBinomial(torch.autograd.Function):
    """The gradient is computed with the loss and only scaled in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: NonZeros,
        logits: Tensor,
        log_r: Tensor,
        log_library: Tensor,
        dropout: Tensor | None,
        weight: Tensor,
    ) -> Tensor:
        gradients = CellTerms(torch.empty_like(logits), torch.zeros_like(log_r), dropout, log_library, weight)
        if dropout is not None:
            gradients = gradients._replace(dropout=torch.empty_like(logits))
        loss, r = _evaluate(x, logits, log_r, log_library, dropout, weight, gradients)
        gradients.log_r.mul_(r)
        ctx.save_for_backward(*(g for g in gradients[:3] if g is not None))
        return loss

    @staticmethod
    def backward(ctx: FunctionCtx, *outer: Tensor) -> tuple[Tensor | None, ...]:
        saved: list[Tensor] = list(ctx.saved_tensors)  # type: ignore[attr-defined]
        gradients = [_scaled(g, outer[0]) for g in saved]
        logits, log_r, *dropout = gradients
        return None, logits, log_r, None, dropout[0] if dropout else None, None


def _evaluate(
    x: NonZeros,
    logits: Tensor,
    log_r: Tensor,
    log_library: Tensor,
    dropout: Tensor | None,
    weight: Tensor,
    gradients: CellTerms | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the weighted loss and r, a few rows at a time, and fill the gradients that are requested."""
    n, p = logits.shape
    r = log_r.exp()
    shared = log_r.dim() == 1
    nonzero = x.at
    size = max(1, n if logits.device.type != "cpu" else min(BLOCK // max(p, 1), n))
    buffers = torch.empty(4 if dropout is None else 6, size, p, dtype=logits.dtype, device=logits.device)
    loss = torch.zeros((), dtype=logits.dtype, device=logits.device)
    s_at, lse = torch.empty_like(x.values), torch.empty_like(log_library)
    cells = CellTerms(logits, r, dropout, log_library, weight)
    for start in range(0, n, size):
        cut = slice(start, min(start + size, n))
        some = _within(x, nonzero, cut)
        of_block, lse[cut], s_at[some.span] = _dense(
            cells.cut(cut, shared=shared),
            None if gradients is None else gradients.cut(cut, shared=shared),
            some,
            buffers[:, : cut.stop - start],
        )
        loss += of_block
    loss += _at_nonzeros(x, nonzero, cells, lse, s_at, None if gradients is None else gradients.log_r)
    return loss, r


class CellTerms(NamedTuple):
    """Values by cell, or their gradients. The dispersion is r among values, `log_r` among gradients."""

    logits: Tensor
    log_r: Tensor
    dropout: Tensor | None
    log_library: Tensor
    weight: Tensor

    def cut(self, rows: slice, *, shared: bool) -> CellTerms:
        """Take some rows; a shared dispersion stays whole."""
        return CellTerms(
            self.logits[rows],
            self.log_r if shared else self.log_r[rows],
            None if self.dropout is None else self.dropout[rows],
            self.log_library[rows],
            self.weight[rows],
        )


def nonzeros_of(x: Tensor) -> NonZeros:
    """Find the non-zeros of `(B, p)`; on an accelerator all values, as it would wait for their number."""
    flat = x.reshape(-1)
    if x.device.type == "cpu":  # there numpy is several times faster than torch
        nonzero = torch.from_numpy(np.flatnonzero(flat.numpy() != 0))
    else:
        nonzero = torch.arange(len(flat), device=x.device)
    row = nonzero.div(max(x.shape[1], 1), rounding_mode="floor")
    starts = torch.searchsorted(row, torch.arange(len(x), device=x.device))
    return NonZeros(
        flat.index_select(0, nonzero), row, nonzero - row * x.shape[1], starts, (len(x), x.shape[1])
    )


class _Within(NamedTuple):
    """Non-zeros of some rows: their numbers, their positions in these rows flattened, and their values."""

    span: slice
    at: Tensor
    counts: Tensor


def _within(filled: NonZeros, nonzero: Tensor, rows: slice) -> _Within:
    if rows.start == 0 and rows.stop == filled.shape[0]:
        return _Within(slice(None), nonzero, filled.values)
    first = int(filled.starts[rows.start])
    last = int(filled.starts[rows.stop]) if rows.stop < filled.shape[0] else len(nonzero)
    span = slice(first, last)
    return _Within(span, nonzero[span] - rows.start * filled.shape[1], filled.values[span])


def _dense(
    cells: CellTerms, gradients: CellTerms | None, filled: _Within, buffers: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the loss of all elements as if all counts were zero, and finish the gradient of the logits.

    Returns the weighted loss, the log of the softmax' normaliser, and s = r / (r + mean) at non-zeros.
    """
    mean, t, q, s = buffers[:4]
    r, column = cells.log_r, cells.weight.unsqueeze(1)
    torch.softmax(cells.logits, 1, out=mean)
    # the largest proportion cannot underflow
    lse = cells.logits.amax(1) - mean.amax(1).log_()
    library = cells.log_library.exp()
    mean.mul_(library.unsqueeze(1))
    torch.div(mean, r, out=q)
    torch.log1p(q, out=t)
    s_at = q.view(-1).index_select(0, filled.at).add_(1).reciprocal_()
    if gradients is not None:
        q.div_(torch.add(q, 1, out=s))
        torch.mul(q, r, out=gradients.logits)
    if cells.dropout is None:
        loss = t @ r if r.dim() == 1 else torch.mul(t, r, out=s).sum(1)
    else:
        both, softplus = buffers[4:]
        torch.mul(t, r, out=both)
        loss = both.sum(1)
        both.add_(cells.dropout)
        torch.logaddexp(both, torch.zeros_like(both), out=softplus)
        _clear(softplus, filled)
        loss += F.softplus(cells.dropout).sum(1) - softplus.sum(1)
        if gradients is not None and gradients.dropout is not None:
            _clear(both.sigmoid_(), filled)
            torch.sigmoid(cells.dropout, out=gradients.dropout).sub_(both).mul_(column)
            both.neg_().add_(1)
            for part in (gradients.logits, t, q):
                part.mul_(both)
    if gradients is not None:
        grad = gradients.logits
        grad.view(-1).index_add_(0, filled.at, filled.counts * s_at, alpha=-1)
        # through the softmax, whose proportions are mean / library
        through = grad.sum(1) / library
        grad.addcmul_(mean, through.unsqueeze(1), value=-1).mul_(column)
        if r.dim() == 1:
            gradients.log_r.addmv_(t.T, cells.weight).addmv_(q.T, cells.weight, alpha=-1)
        else:
            torch.sub(t, q, out=gradients.log_r).mul_(column)
    return loss @ cells.weight, lse, s_at


def _clear(of_zeros: Tensor, filled: _Within) -> None:
    """Set to 0 where there is a count above zero, which is none of the extra zeros."""
    flat = of_zeros.view(-1)
    if flat.device.type == "cpu":
        flat[filled.at] = 0
    else:
        above = filled.counts.new_zeros(len(flat)).index_add_(0, filled.at, filled.counts)
        flat.masked_fill_(above > 0, 0)


def _at_nonzeros(
    filled: NonZeros, nonzero: Tensor, cells: CellTerms, lse: Tensor, s_at: Tensor, grad_r: Tensor | None
) -> Tensor:
    """Add the non-zeros' own part to the gradient of r, beside the dense part; return their weighted loss."""
    counts, row, r = filled.values, filled.row, cells.log_r
    if r.dim() == 1:
        # a shared dispersion is looked up: its gamma functions are made once per feature
        where = filled.column
        table = torch.stack([r, r.log(), *gamma_terms(r)])
        r_at, log_r, lgamma_r, digamma_r = table.index_select(1, where)
    else:
        where = nonzero
        r_at = r.reshape(-1).index_select(0, nonzero)
        log_r, (lgamma_r, digamma_r) = r_at.log(), gamma_terms(r_at)
    lgamma, digamma = gamma_terms(counts + r_at)
    log_mean = cells.logits.reshape(-1).index_select(0, nonzero)
    log_mean += (cells.log_library - lse).index_select(0, row)
    weights = cells.weight.index_select(0, row)
    value = lgamma_r - lgamma + torch.lgamma(counts + 1) - counts * (log_mean - log_r + torch.log(s_at))
    if grad_r is not None:
        slope = counts * s_at / r_at + digamma_r - digamma
        grad_r.view(-1).index_add_(0, where, slope.mul_(weights))
    return value @ weights


def gamma_terms(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return log gamma and digamma of z > 0.

    In single precision by Stirling's series at z + 6 and the recurrence down to z, at a fraction of the
    cost; the error of both is rounding error.
    """
    if z.dtype != torch.float32:
        return torch.lgamma(z), torch.digamma(z)
    # z (z + 5), (z + 1) (z + 4) and (z + 2) (z + 3) differ by constants
    a = z * (z + 5)
    b, c = a + 4, a + 6
    w = z + 6
    log_w, inverse = torch.log(w), torch.reciprocal(w)
    square = inverse * inverse
    digamma = log_w - inverse * 0.5 - square * (1 / 12 - square * (1 / 120 - square / 252))
    digamma -= (2 * z + 5) * (1 / a + 1 / b + 1 / c)
    series = inverse * (1 / 12 - square * (1 / 360 - square / 1260))
    lgamma = (w - 0.5) * log_w - w + _STIRLING + series - torch.log(a) - torch.log(b * c)
    return lgamma, digamma
