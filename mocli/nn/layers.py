"""Networks shared by models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from mocli.nn.threads import BatchNorm
from mocli.types import NonZeros

UNITS = 1 << 16
"""Values of the sixteen bits that decide on a dropped unit."""


class MLP(nn.Module):
    """Linear layers with ReLU between them and a linear output, no norm, no dropout.

    `widths`: input, hidden and output widths.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, widths[0])` to `(B, widths[-1])`."""
        x = self.layers[0](x)
        return self.leave(x)

    def leave(self, x: Tensor) -> Tensor:
        """Return what follows the first linear layer, `(B, widths[1])` to `(B, widths[-1])`."""
        for layer in self.layers[1:]:
            x = layer(nn.functional.relu(x))
        return x


class InputLinear(nn.Module):
    """Linear layer whose input may be sparse; the weight is `(n_in, n_out)`, so that rows are read.

    Starts as PyTorch's `Linear` does.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(max(n_in, 1))
        self.weight = nn.Parameter(torch.empty(n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_out).uniform_(-bound, bound))

    def forward(self, x: Tensor | NonZeros) -> Tensor:
        """`(B, n_in)` or its non-zeros to `(B, n_out)`."""
        if isinstance(x, Tensor):
            return torch.addmm(self.bias, x, self.weight)
        if self.weight.device.type != "cpu":  # there the dense product is faster
            return torch.addmm(self.bias, x.dense, self.weight)
        bags = nn.functional.embedding_bag(
            x.column, self.weight, x.starts, mode="sum", per_sample_weights=x.values
        )
        return bags + self.bias


class Block(nn.Module):
    """Linear layer, normalisation, activation, dropout; a second input shares the linear layer.

    Args:
        sparse: Whether the first input may be sparse.
        n_side: Width of the second input; 0 for none. Concatenating it with the first would cost a copy.
        normalization: `layer` (without learned scale and shift), `batch` or `none`.
        activation: `leaky_relu` or `tanh`.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        n_side: int = 0,
        sparse: bool = False,
        normalization: str,
        activation: str,
        dropout: float,
    ) -> None:
        super().__init__()
        self.linear = InputLinear(n_in, n_out) if sparse else nn.Linear(n_in, n_out)
        self.side = nn.Linear(n_side, n_out, bias=False) if n_side else None
        self.norm: nn.Module = nn.Identity()
        if normalization == "layer":
            self.norm = nn.LayerNorm(n_out, elementwise_affine=False)
        elif normalization == "batch":
            self.norm = BatchNorm(n_out, eps=1e-3, momentum=0.01)
        self.activation = nn.Tanh() if activation == "tanh" else nn.LeakyReLU()
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor | NonZeros, side: Tensor | None = None) -> Tensor:
        """`(B, n_in)` and `(B, n_side)` to `(B, n_out)`."""
        return self.leave(self.enter(x, side))

    def enter(self, x: Tensor | NonZeros, side: Tensor | None = None) -> Tensor:
        """Return the linear part, `(B, n_out)`."""
        y: Tensor = self.linear(x)
        return y if self.side is None or side is None else y + self.side(side)

    def leave(self, y: Tensor) -> Tensor:
        """Return what follows the linear part, `(B, n_out)`."""
        # statistics of fewer than two rows mean nothing
        if not (self.training and isinstance(self.norm, nn.BatchNorm1d) and len(y) < 2):
            y = self.norm(y)
        return self.dropout(self.activation(y))


class Dropout(nn.Module):
    """Drop a share of units while training, and scale the others so that sums are kept.

    On the CPU sixteen random bits decide on a unit, which is four times as fast as a random number each; the
    share is met to 1 / 65,536.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """`(...)` to the same shape."""
        if not self.training or not self.share or x.device.type != "cpu":
            return nn.functional.dropout(x, self.share, self.training)
        dropped = min(round(self.share * UNITS), UNITS - 1)
        # 64 bits at a time: a draw costs the same whatever its width
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = bits.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - UNITS // 2
        return x * kept.to(x.dtype).mul_(UNITS / (UNITS - dropped))


class ContinuousResponse(nn.Module):
    """Embeds continuous covariates: the sum of a learned response to each times its learned direction.

    `form`: `sigmoid`: sigmoid(b x + c) of the standardised value; `log_sigmoid`: sigmoid(b log(1 + x) + c);
    `mlp`: a small network, then a sigmoid.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, n: int, n_out: int, form: str) -> None:
        super().__init__()
        self.form = form
        self.directions = nn.Parameter(torch.randn(n, n_out))
        self.slope, self.shift = nn.Parameter(torch.ones(n)), nn.Parameter(torch.zeros(n))
        self.networks = nn.ModuleList(MLP([1, 16, 1]) for _ in range(n if form == "mlp" else 0))
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("sd", torch.ones(n))

    def fit(self, values: Tensor) -> None:
        """Take mean and spread from the training cells, `(n_cells, n)`."""
        self.mean = values.mean(0)
        self.sd = values.std(0, correction=0).clamp_min(1e-6)

    def forward(self, values: Tensor) -> Tensor:
        """`(B, n)` to `(B, n_out)`."""
        if self.form == "log_sigmoid":
            scaled = torch.log1p(values.clamp_min(0))
        else:
            scaled = (values - self.mean) / self.sd
        if self.form == "mlp":
            scaled = torch.cat([f(scaled[:, i : i + 1]) for i, f in enumerate(self.networks)], dim=1)
        return torch.sigmoid(scaled * self.slope + self.shift) @ self.directions


def normal_init(module: nn.Module, sd: float) -> None:
    """Draw every weight and bias from N(0, sd^2), but not those without values, which will get saved ones."""
    for parameter in (p for p in module.parameters() if not p.is_meta):
        nn.init.normal_(parameter, 0.0, sd)
