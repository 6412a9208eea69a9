"""Find the models, and read, check and describe the hyper-parameters of any.

A model's parameters are one frozen pydantic dataclass. The command line,
`--config`, `mocli params` and the report all come from it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib import import_module
from typing import Any, ClassVar, Protocol, runtime_checkable

import mocli.models
from mocli.errors import UsageError, did_you_mean
from mocli.models.base import Traits
from mocli.types import Preset


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


@runtime_checkable
class Sized(Protocol):
    """Parameters that foretell how large a model will be and how long it will train."""

    STEP_MS: ClassVar[float]
    """Milliseconds of a step by default, on one CPU thread, without what features add: see RESULTS.md."""

    batch_size: int

    def weights_per_feature(self, n_features: int) -> float:
        """Return the weights that each of so many features of a modality adds."""

    def steps(self, n_cells: int, preset: Preset) -> int:
        """Return how many steps training on so many cells takes at most."""

    def usual_steps(self, n_cells: int) -> int:
        """Return after how many steps of the auto preset the loss has mostly stopped falling."""


def params_class(traits: Traits) -> Any:
    """Return the parameter dataclass of a model."""
    return load_class(traits.params)


def presets(traits: Traits) -> dict[str, dict[str, object]]:
    """Return the defaults that each preset changes: `PRESETS` beside the parameter class."""
    from importlib import import_module

    return dict(getattr(import_module(traits.params.partition(":")[0]), "PRESETS", {}))


def saved_params(traits: Traits, params: Mapping[str, object], format_version: int) -> dict[str, object]:
    """Return a saved model's parameters, adding those its older format lacks: `BEFORE` beside the class."""
    from importlib import import_module

    before: dict[int, dict[str, object]] = getattr(
        import_module(traits.params.partition(":")[0]), "BEFORE", {}
    )
    then: dict[str, object] = {}
    for version, values in before.items():
        if format_version < version:
            then |= values
    return then | dict(params)


def resolve(traits: Traits, overrides: Mapping[str, object], preset: str = "auto") -> Any:
    """Return checked parameters: the defaults, a preset's changes, then `overrides`.

    Values may be strings, as the command line gives them.

    Raises `UsageError` for a name the model does not have, or a value out of range.
    """
    from pydantic import ValidationError

    cls = params_class(traits)
    names = [f.name for f in fields(cls)]
    for key in overrides:
        if key not in names:
            raise UsageError(
                f"{traits.name} has no hyper-parameter '{key}'",
                field=f"--set {key}",
                hint=did_you_mean(key, names, "hyper-parameters")
                + f"; `mocli params {traits.name}` lists them",
            )
    try:
        return cls(**{**presets(traits).get(preset, {}), **overrides})
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "?"
        raise UsageError(
            f"the hyper-parameter '{key}' has a value that {traits.name} cannot take",
            field=f"--set {key}",
            found=repr(first.get("input")),
            expected=str(first["msg"]),
            hint=f"`mocli params {traits.name}` lists every range",
        ) from None


def as_dict(params: Any) -> dict[str, Any]:
    """Return the parameters as plain values, ready for JSON."""
    return asdict(params)


def describe(traits: Traits) -> list[dict[str, Any]]:
    """Return name, type, default, range and help of every hyper-parameter, in order."""
    from pydantic import TypeAdapter

    cls = params_class(traits)
    schema = TypeAdapter(cls).json_schema()
    defaults = asdict(cls())
    return [
        {
            "name": name,
            "type": _type_of(entry),
            "default": defaults[name],
            "range": _range_of(entry),
            "help": entry.get("description", ""),
        }
        for name, entry in schema["properties"].items()
    ]


def _type_of(entry: Mapping[str, Any]) -> str:
    if "enum" in entry:
        return " | ".join(map(str, entry["enum"]))
    if "anyOf" in entry:
        return " | ".join(_type_of(option) for option in entry["anyOf"])
    if entry.get("type") == "array":
        return "list of numbers"
    if entry.get("type") == "object":
        return "table of numbers"
    return {"integer": "int", "number": "float", "boolean": "bool", "string": "str", "null": "none"}.get(
        str(entry.get("type")), "?"
    )


def _range_of(entry: Mapping[str, Any]) -> str:
    for option in entry.get("anyOf", []):
        if text := _range_of(option):
            return text
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    return ", ".join(f"{sign} {entry[key]}" for key, sign in signs.items() if key in entry)
