"""What a step changes: frozen parts, optimisers of a phase, rates, the running mean of weights.

Learning rates fall when a loss no longer does, judged by the loss of training.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from mocli.errors import UsageError, did_you_mean
from mocli.models.base import Phase, Plateau, StepGroup
from mocli.train.checkpoint import History, due, pack_optimizer, unpack_optimizer


def parts_of(module: nn.Module) -> list[str]:
    """Return the parts that can be frozen: first words of parameter names, and members of lists, `a.0`."""
    parts: dict[str, None] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            first, _, rest = name.partition(".")
            parts[first] = None
            if rest.partition(".")[0].isdigit():
                parts[f"{first}.{rest.partition('.')[0]}"] = None
    return list(parts)


def names_of(module: nn.Module, parts: Sequence[str], modalities: Sequence[str]) -> frozenset[str]:
    """Return the names of all parameters of some parts.

    `parts`: whole words of names from their start, `encoders` or `encoders.0.layers`; where a list has a
    member for each modality, the modality's name can be used for its number, `encoders.rna`. Raises
    `UsageError`: a part without parameters, or nothing that is left to train.
    """
    learned = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    names: set[str] = set()
    for part in parts:
        names_of_part = [name for name in learned if _within(name, _numbered(module, part, modalities))]
        if not names_of_part:
            choices = parts_of(module)
            listed = [p for p in choices if "." not in p]
            raise UsageError(
                f"the model has no part '{part}'",
                field="--freeze",
                expected=f"{', '.join(listed)}, or a member such as {_example(choices, listed)}",
                hint=did_you_mean(part, choices, "parts"),
            )
        names.update(names_of_part)
    if names and names.issuperset(learned):
        raise UsageError(
            "everything would be frozen: there is nothing left to train",
            field="--freeze",
            found=", ".join(parts),
            hint="name fewer parts: " + ", ".join(p for p in parts_of(module) if "." not in p),
        )
    return frozenset(names)


def freeze(module: nn.Module, names: Collection[str]) -> None:
    """Exclude parameters from training; a normalisation that is frozen completely keeps its statistics."""
    for name, parameter in module.named_parameters():
        if name in names:
            parameter.requires_grad = False
    for part in module.modules():
        parameters = list(part.parameters())
        if (
            names
            and isinstance(part, nn.BatchNorm1d)
            and parameters
            and not any(p.requires_grad for p in parameters)
        ):
            # the loop switches all parts to training between its steps
            part.register_forward_pre_hook(_keep_statistics)


def trainable(phases: Iterable[Phase]) -> list[Phase]:
    """Return the phases without frozen parameters; phases with nothing to train are dropped.

    A group that is frozen stays without parameters, as others may share its backward pass.
    """
    remaining = []
    for phase in phases:
        groups = tuple(
            replace(group, parameters=[p for p in group.parameters if p.requires_grad])
            for group in phase.groups
        )
        if any(group.parameters for group in groups):
            remaining.append(replace(phase, groups=groups))
    return remaining


def _keep_statistics(part: nn.Module, _inputs: object) -> None:
    part.eval()


def _within(name: str, part: str) -> bool:
    return name == part or name.startswith(part + ".")


def _numbered(module: nn.Module, part: str, modalities: Sequence[str]) -> str:
    first, _, rest = part.partition(".")
    members = getattr(module, first, None)
    if not isinstance(members, nn.ModuleList) or len(members) != len(modalities):
        return part
    for number, name in enumerate(modalities):
        # a name may hold a dot
        if _within(rest, name):
            return f"{first}.{number}{rest.removeprefix(name)}"
    return part


def _example(choices: Sequence[str], listed: Sequence[str]) -> str:
    return next((p for p in choices if "." in p), listed[0])


class Stepper:
    """The optimiser of one group; one that steps once an epoch adds up gradients until then."""

    def __init__(self, group: StepGroup) -> None:
        self.group = group
        # all of a group may be frozen, and others still share its backward pass
        self.optimizer = _optimizer(group) if group.parameters else None
        self._sums = [torch.zeros_like(p) for p in group.parameters] if group.every == "epoch" else []

    def clear(self) -> None:
        """Clear the gradients of the last backward pass."""
        for parameter in self.group.parameters:
            parameter.grad = None

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
    """Group steppers that share a backward pass into turns."""
    turns: list[list[Stepper]] = []
    for stepper in steppers:
        if stepper.group.joins and turns:
            turns[-1].append(stepper)
        else:
            turns.append([stepper])
    return turns


def _optimizer(group: StepGroup) -> Optimizer:
    if group.rows:
        return RowAdam(group.parameters, lr=group.lr, betas=group.betas, weight_decay=group.weight_decay)
    return Adam(
        group.parameters,
        lr=group.lr,
        betas=group.betas,
        weight_decay=group.weight_decay,
        decoupled_decay=group.decoupled_decay,
    )


class _Uncompiled(Optimizer, ABC):
    """An optimiser of Adam's settings, without the wrappers that keep torch's compiler out.

    To keep it out they load it: nothing here is compiled, and it takes 80 MB and seconds of every start.
    """

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        eps: float = 1e-8,
        **more: bool,
    ) -> None:
        super().__init__(
            parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": eps, **more}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step what has a gradient."""
        if closure is not None:
            raise ValueError("no closure is taken")
        for group in self.param_groups:
            self._step(group)

    @abstractmethod
    def _step(self, group: dict[str, Any]) -> None:
        """Step the parameters of a group that have a gradient."""


class Adam(_Uncompiled):
    """Adam (Kingma and Ba 2015), with L2 decay or decoupled decay (Loshchilov and Hutter 2019).

    torch's fused steps, and the state of torch's own class.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], *, decoupled_decay: bool = False, **settings: Any
    ) -> None:
        super().__init__(parameters, fused=True, **settings)
        self._fused = torch._fused_adamw_ if decoupled_decay else torch._fused_adam_

    def _step(self, group: dict[str, Any]) -> None:
        used = [p for p in group["params"] if p.grad is not None]
        for p in used:
            if not self.state[p]:
                self.state[p]["step"] = torch.zeros((), device=p.device)
                self.state[p]["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        if not used:
            return
        steps, means, squares = (
            [self.state[p][key] for p in used] for key in ("step", "exp_avg", "exp_avg_sq")
        )
        torch._foreach_add_(steps, 1)
        self._fused(
            used,
            [p.grad for p in used],
            means,
            squares,
            [],
            steps,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )


class RowAdam(_Uncompiled):
    """Adam (Kingma and Ba 2015) with L2 decay whose rows count their own steps.

    A row without a gradient keeps its value and its moments, so that the cost of a step depends on the
    minibatch alone. Where every row has a gradient, it is Adam. Gradients are sparse with rows as their one
    sparse dimension, or dense: then rows of zeros have none.
    """

    def _step(self, group: dict[str, Any]) -> None:
        for table in group["params"]:
            if table.grad is not None:
                self._step_rows(table, *_rows_of(table.grad), group)

    def _step_rows(self, table: Tensor, rows: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
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
    if gradient.is_sparse and gradient.device.type != "cpu":
        # rows drawn twice both get the sum: how many there are would have to be waited for
        rows, values = gradient._indices()[0], gradient._values()
        return rows, torch.zeros(gradient.shape, device=gradient.device).index_add_(0, rows, values)[rows]
    if gradient.is_sparse:
        gradient = gradient.coalesce()
        return gradient.indices()[0], gradient.values()
    rows = gradient.any(1).nonzero().squeeze(1)
    return rows, gradient[rows]


def rates_of(steppers: Sequence[Stepper]) -> tuple[float, ...]:
    """Return the learning rates of all that steps."""
    return tuple(g["lr"] for s in steppers if s.optimizer is not None for g in s.optimizer.param_groups)


class WeightAverage:
    """Mean of a module's weights with exponential forgetting; nothing is kept where `decay` is 0.

    An adversarial game circles around its equilibrium, and its mean lies nearer (Polyak averaging; Yazici
    et al. 2019, arXiv:1806.04498). Until 1 / (1 - decay) steps it is the plain mean, so that the initial
    weights do not count.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        learned = {name: w for name, w in module.named_parameters() if w.requires_grad}
        self.weights = learned if decay else {}
        self.mean = {name: w.detach().clone() for name, w in self.weights.items()}
        self._means, self._lasts = tuple(self.mean.values()), tuple(self.weights.values())

    def update(self, step: int) -> None:
        """Add the weights after a step, counted from 0."""
        if self.mean:
            decay = min(self.decay, step / (step + 1))
            with torch.no_grad():
                torch._foreach_lerp_(self._means, self._lasts, 1 - decay)

    def replace_weights(self) -> None:
        """Replace the last weights by the mean."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(self.mean[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Means by name."""
        return dict(self.mean)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict`."""
        for name, mean in self.mean.items():
            if state[name].shape != mean.shape:
                raise ValueError(f"the mean of {name} has shape {tuple(state[name].shape)}")
            mean.copy_(state[name])


class Rates:
    """Learning rates of all groups of a phase.

    `lowered`: when they fell, in the caller's count.
    """

    def __init__(self, steppers: Sequence[Stepper], factor: float | None) -> None:
        self.steppers, self.factor = steppers, factor
        self.lowered: list[int] = []

    def lower(self, when: int) -> None:
        """Multiply all of them by the factor."""
        self.restore([*self.lowered, when])

    def restore(self, lowered: Sequence[int]) -> None:
        """Set them to what they are after falls at some times."""
        self.lowered = list(lowered)
        scale = (self.factor or 1.0) ** len(self.lowered)
        for stepper in self.steppers if self.lowered else ():
            for group in stepper.optimizer.param_groups if stepper.optimizer is not None else ():
                group["lr"] = stepper.group.lr * scale


class Flatness:
    """Detects that the loss of training has stopped falling: learning rates fall first, then training ends.

    After a fall, only steps since then say whether the loss is flat.
    """

    def __init__(self, plateau: Plateau, history: History, steppers: Sequence[Stepper]) -> None:
        self.plateau, self.history = plateau, history
        self.rates = Rates(steppers, plateau.lr_factor)
        self._seen = self._in_vain = 0

    def look(self) -> None:
        """Count checks in a row at which the loss was flat; the loop calls it after every step."""
        n = len(self.history)
        if n == self._seen or not due(self.plateau, n):
            return
        self.history.flush()  # on a GPU, too: when to look must not depend on when values were fetched
        self._seen = n
        since = self.rates.lowered[-1] if self.rates.lowered else 0
        self._in_vain = self._in_vain + 1 if self.history.flat(self.plateau, since) else 0

    @property
    def over(self) -> bool:
        """Whether training ends: the loss is flat, and was before rates fell if they do."""
        plateau = self.plateau
        waits = plateau.lr_factor is not None and not self.rates.lowered
        return plateau.ends and not waits and self._in_vain > 0

    def lower_rates(self) -> bool:
        """Lower the learning rates if the loss was flat at the last checks; return whether it did."""
        if self.plateau.lr_factor is None or self._in_vain < self.plateau.lr_patience:
            return False
        self.rates.lower(self._seen)
        self._in_vain = 0
        return True

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"lowered": self.rates.lowered, "seen": self._seen, "in_vain": self._in_vain}

    def restore(self, meta: Mapping[str, Any]) -> None:
        """Put `state` back; checkpoints of an earlier version have none."""
        self.rates.restore(meta.get("lowered", []))
        self._seen, self._in_vain = int(meta.get("seen", 0)), int(meta.get("in_vain", 0))
