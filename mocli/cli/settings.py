"""Resolved settings of one invocation: values, the origin of each, and their YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from mocli.cli.config import (
    ACTIONS,
    COMMAND_LINE,
    CONFIG_META,
    DEFAULT,
    config_origin,
    merge_pairs,
    origin_of,
    rank,
)
from mocli.errors import UsageError
from mocli.options import OptionField
from mocli.tasks.run.options import AUTO, NAMED_PARAMS, UNNAMED

if TYPE_CHECKING:
    import typer


@dataclass(frozen=True)
class Settings:
    """The settings of one subcommand.

    Attributes:
        values: By field name; KEY=VALUE options are mappings, durations still text.
        origins: By field name: `default`, `config file F`, `environment MOCLI_X` or `command line`; for a
            mapping, the origin of each key.
        declared: The options, in the order of the help.
    """

    ctx: typer.Context
    values: Mapping[str, Any]
    origins: Mapping[str, Any]
    declared: Mapping[str, OptionField]

    @classmethod
    def resolve(
        cls, ctx: typer.Context, raw: Mapping[str, Any], declared_options: Mapping[str, OptionField]
    ) -> Settings:
        """Merge command line, environment, config file and defaults."""
        params: dict[str, Any] = {str(param.name): param for param in ctx.command.params}
        values: dict[str, Any] = {}
        origins: dict[str, Any] = {}
        for name, value in raw.items():
            if declared_options[name].is_mapping:
                values[name], origins[name] = _merged(ctx, params[name], declared_options[name], value)
            else:
                values[name], origins[name] = value, origin_of(ctx, params[name])
        return cls(ctx, values, origins, declared_options)._settle_params()

    def _settle_params(self) -> Settings:
        """Let the later layer win if a hyper-parameter is given by its option and by --set."""
        values, origins = dict(self.values), dict(self.origins)
        params = dict(values.get("params") or {})
        for name in set(NAMED_PARAMS) & params.keys():
            by_option, by_set = rank(origins[name]), rank(origins["params"][name])
            if by_option == by_set:
                option = f"--{self.key(name)}"
                raise UsageError(
                    f"{option} and --set {name} both give the same hyper-parameter",
                    field=option,
                    found=f"{values[name]} and {params[name]}, {origins[name]}",
                    hint="keep one",
                )
            if by_option > by_set:
                del params[name]
            else:
                values[name], origins[name] = None, DEFAULT
        if "params" in values:
            values["params"] = params
        return replace(self, values=values, origins=origins)

    def key(self, name: str) -> str:
        """Return the key of an option in a config file: its long name, without dashes."""
        declared = self.declared[name]
        return declared.long.removeprefix("--") if declared.option.names else name

    def to_yaml(self) -> str:
        """Return a `--config` file of these settings; a comment names the origin of every line."""
        lines: list[str] = []
        for name, value, origin in self._entries():
            lines.extend(_yaml_lines(self.key(name), value, origin))
        return "\n".join(lines) + "\n"

    def _entries(self) -> Iterator[tuple[str, Any, Any]]:
        defaults = self._model_defaults()
        for name, value in self.values.items():
            if name in ACTIONS:
                continue
            if name == "params":
                rest = {k: v for k, v in defaults.items() if k not in NAMED_PARAMS and k not in value}
                source = dict.fromkeys(rest, self._model_origin())
                yield name, {**value, **rest}, {**self.origins[name], **source}
            elif value is None and name in defaults and name not in self.values["params"]:
                yield name, defaults[name], self._model_origin()
            else:
                yield name, value, self.origins[name]

    def _model_origin(self) -> str:
        return f"default of {self.values.get('model', AUTO)}"  # a benchmark names several

    def _model_defaults(self) -> dict[str, Any]:
        """Return the checked hyper-parameters of a named model; nothing if the run chooses the model."""
        model = self.values.get("model", AUTO)
        if model in UNNAMED:
            return {}
        from mocli.models.parameters import as_dict, resolve
        from mocli.models.registry import traits_of

        traits = traits_of(model)
        params = dict(self.values["params"])
        defaults = as_dict(resolve(traits, params))
        named = {n: self.values[n] for n in NAMED_PARAMS if n in defaults and self.values[n] is not None}
        return as_dict(resolve(traits, {**params, **named}))


def _merged(
    ctx: typer.Context, param: Any, declared: OptionField, command_line: list[str] | None
) -> tuple[dict[str, Any], dict[str, str]]:
    layers: list[tuple[str, Mapping[str, Any]]] = []
    config = ctx.meta.get(CONFIG_META)
    if config is not None and param.name in config.pairs:
        where = f"{declared.long} ({config_origin(ctx)})"
        layers.append((config_origin(ctx), declared.read(config.pairs[param.name], where)))
    variable = param.value_from_envvar(ctx)
    if variable:
        origin = f"environment {param.envvar}"
        where = f"{declared.long} ({origin})"
        layers.append((origin, declared.read(read_pairs(variable, declared, where), where)))
    if origin_of(ctx, param) == COMMAND_LINE:
        layers.append((COMMAND_LINE, declared.read(read_pairs(command_line or [], declared, declared.long))))
    return merge_pairs(layers)


def read_pairs(items: Sequence[str], declared: OptionField, where: str) -> dict[str, str]:
    """Return the mapping that `KEY=VALUE` items spell; a later key replaces an earlier one."""
    pairs: dict[str, str] = {}
    form = declared.option.metavar
    for item in items:
        key, equals, value = item.partition("=")
        if not (key.strip() and equals and value.strip()):
            raise UsageError(f"{where} takes {form}", field=where, found=repr(item), expected=form)
        pairs[key.strip()] = value.strip()
    return pairs


def _yaml_lines(key: str, value: Any, origin: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if not value:
            yield f"{key}: {{}}  # {DEFAULT}"
            return
        yield f"{key}:"
        for name, inner in value.items():
            yield f"  {yaml_value(name)}: {yaml_value(inner)}  # {origin[name]}"
    elif isinstance(value, (list, tuple)) and value:
        yield f"{key}:  # {origin}"
        for item in value:
            yield f"- {yaml_value(item)}  # {origin}"
    else:
        yield f"{key}: {yaml_value(value)}  # {origin}"


def yaml_value(value: Any) -> str:
    """Return a value as one line of YAML."""
    import yaml

    plain = str(value) if isinstance(value, PurePath) else list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10**9, allow_unicode=True)
    return str(text).removesuffix("\n").removesuffix("\n...").rstrip()
