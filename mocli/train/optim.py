"""Optimisers of a phase: one for each group, stepping in the group's own rhythm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.utils import clip_grad_norm_

from mocli.train.checkpoint import pack_optimizer, unpack_optimizer
from mocli.train.rows import RowAdam

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from torch.optim import Optimizer

    from mocli.models.base import Group


class Stepper:
    """The optimiser of one group; one that steps once an epoch adds up gradients until then."""

    def __init__(self, group: Group) -> None:
        self.group = group
        # all of a group may be frozen, and others still share its backward pass
        self.optimizer = _optimizer(group) if group.parameters else None
        self._sums = [torch.zeros_like(p) for p in group.parameters] if group.every == "epoch" else []

    def clear(self) -> None:
        """Forget the gradients of the last backward pass."""
        if self.optimizer is not None:
            self.optimizer.zero_grad(set_to_none=True)

    def step(self, *, epoch_over: bool) -> None:
        """Step, or add the gradients to those of this epoch if it is not over."""
        if self.optimizer is None:
            return
        if self._sums:
            for total, parameter in zip(self._sums, self.group.parameters, strict=True):
                if parameter.grad is not None:
                    total.add_(parameter.grad)
                parameter.grad = total
            if not epoch_over:
                return
        if self.group.clip_norm is not None:
            clip_grad_norm_(self.group.parameters, self.group.clip_norm)
        self.optimizer.step()
        for total in self._sums:
            total.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the optimiser's tensors by name, and gradients that wait for the end of an epoch."""
        if self.optimizer is None:
            return {}
        waiting = {f"waiting/{self.group.name}/{i}": total for i, total in enumerate(self._sums)}
        return pack_optimizer(self.group.name, self.optimizer) | waiting

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict`."""
        if self.optimizer is None:
            return
        unpack_optimizer(self.group.name, self.optimizer, tensors)
        for i, total in enumerate(self._sums):
            total.copy_(tensors[f"waiting/{self.group.name}/{i}"])


def turns_of(steppers: Sequence[Stepper]) -> list[list[Stepper]]:
    """Put each stepper that shares a backward pass with the one before into its turn."""
    turns: list[list[Stepper]] = []
    for stepper in steppers:
        if stepper.group.joins and turns:
            turns[-1].append(stepper)
        else:
            turns.append([stepper])
    return turns


def _optimizer(group: Group) -> Optimizer:
    if group.rows:
        return RowAdam(group.parameters, lr=group.lr, betas=group.betas, weight_decay=group.weight_decay)
    kind = torch.optim.AdamW if group.decoupled_decay else torch.optim.Adam
    return kind(group.parameters, lr=group.lr, betas=group.betas, weight_decay=group.weight_decay, fused=True)
