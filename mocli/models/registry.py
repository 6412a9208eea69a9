"""Find the models: every package inside `mocli.models` that declares `TRAITS`."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any

import mocli.models
from mocli.errors import UsageError, did_you_mean
from mocli.models.base import Traits


def available() -> dict[str, Traits]:
    """Return the traits of every model by name, without importing torch."""
    traits_by_name: dict[str, Traits] = {}
    for module in pkgutil.iter_modules(mocli.models.__path__):
        if module.ispkg:
            traits = getattr(import_module(f"mocli.models.{module.name}"), "TRAITS", None)
            if isinstance(traits, Traits):
                traits_by_name[traits.name] = traits
    return dict(sorted(traits_by_name.items()))


def traits_of(name: str) -> Traits:
    """Return the traits of one model; raises `UsageError` with the nearest names."""
    models = available()
    if name not in models:
        raise UsageError(
            f"there is no model '{name}'", field="--model", hint=did_you_mean(name, models, "models")
        )
    return models[name]


def load_class(path: str) -> Any:
    """Import `package.module:Class`."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def models_that(*capabilities: type) -> str:
    """Name the models whose class has all of the given capabilities (protocols of `base`), for hints."""
    able = [name for name, traits in available().items() if _has(load_class(traits.model), capabilities)]
    return " or ".join(able) or "another model"


def _has(model: type, capabilities: tuple[type, ...]) -> bool:
    return all(issubclass(model, one) for one in capabilities)
