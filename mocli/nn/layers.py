"""Networks shared by models."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class MLP(nn.Module):
    """Linear layers with ReLU between them and a linear output, no norm, no dropout.

    Parameters
    ----------
    widths
        Input, hidden and output widths.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, widths[0])` to `(B, widths[-1])`."""
        *hidden, last = self.layers
        for layer in hidden:
            x = nn.functional.relu(layer(x))
        out: Tensor = last(x)
        return out


def normal_init(module: nn.Module, sd: float) -> None:
    """Draw every weight and bias from N(0, sd^2)."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0.0, sd)
