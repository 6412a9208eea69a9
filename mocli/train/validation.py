"""Cells held out of training: when to stop, and which weights to keep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mocli.data.batches import BundleRows
from mocli.errors import NumericalError
from mocli.models.base import Model, Phase, Validation
from mocli.train.optim import Rates, Stepper
from mocli.train.ranks import ALONE, Ranks
from mocli.types import IntArray


def split(n_cells: int, validation: Validation, seed: int) -> tuple[IntArray, IntArray]:
    """Return the cells to train on and those held out, each ascending; the same for the same seed."""
    order = torch.randperm(n_cells, generator=torch.Generator().manual_seed(seed)).numpy()
    n = validation.n_held_out(n_cells)
    held_out, training = order[:n], order[n:]
    held_out.sort()
    training.sort()
    return training, held_out


class Watch:
    """The loss of held-out cells over the steps of a phase, and the weights where it was least.

    Args:
        source: The reader that training cells are also cut from.
        cells: Held out.
        steppers: The optimisers of the phase's groups.
        ranks: The processes of the run, which all measure the same, and go by the first.
    """

    def __init__(
        self,
        model: Model,
        source: BundleRows,
        phase: Phase,
        cells: IntArray,
        steppers: Sequence[Stepper] = (),
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        if phase.validation is None:
            raise ValueError("this phase holds no cells out")
        self.model, self.source, self.phase, self.settings = model, source, phase, phase.validation
        self.cells = torch.from_numpy(cells)
        learns = phase.validation.learns
        # a table that is frozen does not learn held-out cells either
        self.rates = Rates(steppers, phase.validation.lr_factor)
        self.learner = next((s for s in steppers if s.group.name == learns and s.group.parameters), None)
        self.steps: list[int] = []
        self.values: list[float] = []
        self._best: dict[str, Tensor] = {}

    @property
    def best(self) -> int:
        """Number of the best check."""
        return min(range(len(self.values)), key=self.values.__getitem__)

    @property
    def over(self) -> bool:
        """Say whether the last checks were no better, also since learning rates fell."""
        if not self.values or (self.settings.lr_factor is not None and not self.lowered):
            return False
        return self._in_vain(self.lowered[:1]) >= self.settings.patience

    def _in_vain(self, lowered: Sequence[int]) -> int:
        return len(self.values) - 1 - max(self.best, *lowered, 0)

    def look(self, step: int) -> None:
        """Measure, and keep the weights if none were better; raises `NumericalError` if not finite."""
        value = self.ranks.first(self._measure(step))
        if not math.isfinite(value):
            raise NumericalError(
                "the loss of held-out cells is not finite",
                term="validation",
                step=step,
                hint="lower --lr, or check for extreme values in the input",
            )
        self.steps.append(step)
        self.values.append(value)
        if self.best == len(self.values) - 1:
            self._best = {k: v.detach().clone() for k, v in self.model.module.state_dict().items()}

    def lower_rates(self) -> bool:
        """Lower the learning rates if the last checks were no better; return whether it did."""
        if self.settings.lr_factor is None or self._in_vain(self.lowered) < self.settings.lr_patience:
            return False
        self.rates.lower(len(self.values) - 1)
        return True

    @property
    def lowered(self) -> list[int]:
        """Numbers of the checks after which learning rates fell."""
        return self.rates.lowered

    def due(self, step: int) -> bool:
        """Say whether a check is due after this many steps."""
        return step % self.settings.every == 0 and (not self.steps or self.steps[-1] != step)

    def restore_best(self) -> int:
        """Put the best weights back; returns their step."""
        self.model.module.load_state_dict(self._best)
        return self.steps[self.best]

    def _measure(self, step: int) -> float:
        module = self.model.module
        total = torch.zeros((), dtype=torch.float64, device=self.source.device)
        module.eval()
        with self._only_rows_learn():
            for cells in torch.split(self.cells, self.phase.sampling.batch_size):
                prepared = self.model.prepare(self.source.take_cells(cells, step))
                for group in self.phase.groups:
                    if group.joins:
                        continue
                    losses = self.model.losses(prepared, group.name)
                    seen = {k: w for k, w in self.settings.weights.items() if k in losses.terms}
                    weighted = [w * losses.terms[k].detach().double() for k, w in seen.items()]
                    total += len(cells) / len(self.cells) * sum(weighted, torch.zeros_like(total))
                    if self.learner:
                        torch.autograd.backward(losses.total)
        module.train()
        return total.item()

    @contextmanager
    def _only_rows_learn(self) -> Iterator[None]:
        """Freeze everything but the rows of held-out cells, and step those at the end."""
        if self.learner is None:
            with torch.no_grad():
                yield
            return
        row_parameters = {id(p) for p in self.learner.group.parameters}
        others = [
            p for p in self.model.module.parameters() if p.requires_grad and id(p) not in row_parameters
        ]
        for parameter in others:
            parameter.requires_grad = False
        # what waits for the end of an epoch is of other rows
        waiting = [p.grad for p in self.learner.group.parameters]
        self.learner.clear()
        yield
        if self.learner.optimizer is not None:
            self.learner.optimizer.step()
        for parameter, gradient in zip(self.learner.group.parameters, waiting, strict=True):
            parameter.grad = gradient
        for parameter in others:
            parameter.requires_grad = True

    def curve(self) -> dict[str, list[float]]:
        """Return the checks as a curve of the history."""
        return {"step": [float(s) for s in self.steps], "value": list(self.values)}

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what a checkpoint keeps."""
        meta = {"steps": self.steps, "values": self.values, "lowered": self.lowered}
        return meta, {f"best/{k}": v for k, v in self._best.items()}

    def restore(self, meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Put `state` back."""
        self.steps, self.values = list(meta["steps"]), list(meta["values"])
        # checkpoints of an earlier version have none
        self.rates.restore(meta.get("lowered", []))
        device = self.source.device
        self._best = {
            k.removeprefix("best/"): v.to(device) for k, v in tensors.items() if k.startswith("best/")
        }
        if len(self.steps) != len(self.values) or not all(map(math.isfinite, self.values)):
            raise ValueError("the checks of held-out cells are not finite")
        shapes = {k: v.shape for k, v in self.model.module.state_dict().items()} if self.steps else {}
        if {k: v.shape for k, v in self._best.items()} != shapes:
            raise ValueError("the best weights are of other networks")
