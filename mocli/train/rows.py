"""Adam for tables with a row per cell: only rows that have a gradient step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn


class RowAdam(Optimizer):
    """Adam (Kingma and Ba 2015) with L2 decay whose rows count their own steps.

    A row without a gradient keeps its value and its moments, so that a step costs what its minibatch
    does. Where every row has a gradient, it is Adam. Gradients are sparse with rows as their one sparse
    dimension, or dense: then rows of zeros have none.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        settings = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": eps}
        super().__init__(parameters, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step the rows that have a gradient."""
        if closure is not None:
            raise ValueError("no closure is taken")
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._step(table, *_rows_of(table.grad), group)

    def _step(self, table: Tensor, rows: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[table]
        if not state:
            state["mean"], state["square"] = torch.zeros_like(table), torch.zeros_like(table)
            state["steps"] = torch.zeros(len(table), 1, dtype=table.dtype, device=table.device)
        first, second = group["betas"]
        value = table[rows]
        gradient = gradient + group["weight_decay"] * value
        steps = state["steps"][rows] + 1
        mean = torch.lerp(gradient, state["mean"][rows], first)
        square = torch.lerp(gradient.square(), state["square"][rows], second)
        state["steps"][rows], state["mean"][rows], state["square"][rows] = steps, mean, square
        scale = (square / (1 - second**steps)).sqrt_().add_(group["eps"])
        table[rows] = value - group["lr"] * mean / (1 - first**steps) / scale


def _rows_of(gradient: Tensor) -> tuple[Tensor, Tensor]:
    if gradient.is_sparse:
        gradient = gradient.coalesce()
        return gradient.indices()[0], gradient.values()
    rows = gradient.any(1).nonzero().squeeze(1)
    return rows, gradient[rows]
