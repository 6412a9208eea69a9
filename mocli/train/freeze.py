"""Parts of a model that training does not change by a single bit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from torch import nn

from mocli.errors import UsageError, did_you_mean
from mocli.models.base import Phase


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
