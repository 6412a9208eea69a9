"""Resolved settings of one invocation: values, where each came from, and their YAML."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar

from mocli.cli.config import merge_pairs
from mocli.cli.options import ACTIONS, NAMED_PARAMS, QUANTITIES, CommandOptions
from mocli.cli.origin import COMMAND_LINE, CONFIG_META, DEFAULT, config_origin, origin_of, rank
from mocli.cli.values import Pairs, option_name
from mocli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import typer

Group = TypeVar("Group")


@dataclass(frozen=True)
class Settings:
    """What one subcommand was asked to do.

    Attributes
    ----------
    values
        By field name; KEY=VALUE options are mappings, durations still text.
    origins
        By field name: `default`, `config file F`, `environment MOCLI_X` or
        `command line`; for a mapping, the origin of each key.
    keys
        Long option name of each field, in the order of the help.
    """

    ctx: typer.Context
    values: Mapping[str, Any]
    origins: Mapping[str, Any]
    keys: Mapping[str, str]

    @classmethod
    def resolve(cls, ctx: typer.Context, raw: Mapping[str, Any], pairs: Mapping[str, Pairs]) -> Settings:
        """Merge command line, environment, config file and defaults."""
        params: dict[str, Any] = {str(param.name): param for param in ctx.command.params}
        values: dict[str, Any] = {}
        origins: dict[str, Any] = {}
        for name, value in raw.items():
            if name in pairs:
                values[name], origins[name] = _merged(ctx, params[name], pairs[name], value)
            else:
                values[name], origins[name] = value, origin_of(ctx, params[name])
        keys = {name: option_name(params[name]).removeprefix("--") for name in raw}
        return cls(ctx, values, origins, keys)._settle_params()

    def _settle_params(self) -> Settings:
        """Let the later layer win where a hyper-parameter was given by its option and by --set."""
        values, origins = dict(self.values), dict(self.origins)
        given = dict(values.get("params") or {})
        for name in NAMED_PARAMS & given.keys():
            by_option, by_set = rank(origins[name]), rank(origins["params"][name])
            if by_option == by_set:
                option = f"--{self.keys[name]}"
                raise UsageError(
                    f"{option} and --set {name} both give the same hyper-parameter",
                    field=option,
                    found=f"{values[name]} and {given[name]}, {origins[name]}",
                    hint="keep one",
                )
            if by_option > by_set:
                del given[name]
            else:
                values[name], origins[name] = None, DEFAULT
        if "params" in values:
            values["params"] = given
        return replace(self, values=values, origins=origins)

    def of(self, group: type[Group]) -> Group:
        """Return one group of options as its dataclass."""
        return group(**{f.name: self.values[f.name] for f in fields(group)})  # type: ignore[arg-type]

    def task_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of a task function: everything that is not the command's own."""
        own = {f.name for f in fields(CommandOptions)}
        arguments = {name: value for name, value in self.values.items() if name not in own}
        for name, read in QUANTITIES.items():
            if arguments.get(name) is not None:
                arguments[name] = read(arguments[name], f"--{self.keys[name]}")
        # by the command's own options: one of the same name may be repeatable elsewhere
        params: list[Any] = list(self.ctx.command.params)
        for param in params:
            many = getattr(param, "multiple", False) or param.nargs == -1
            if many and param.name in arguments and not isinstance(arguments[param.name], dict):
                arguments[param.name] = list(arguments[param.name] or ())
        return arguments

    def to_yaml(self) -> str:
        """Return a `--config` file of these settings; a comment names the origin of every line."""
        lines: list[str] = []
        for name, value, origin in self._entries():
            lines.extend(_yaml_lines(self.keys[name], value, origin))
        return "\n".join(lines) + "\n"

    def _entries(self) -> Iterator[tuple[str, Any, Any]]:
        own = self._model_defaults()
        for name, value in self.values.items():
            if name in ACTIONS:
                continue
            if name == "params":
                rest = {k: v for k, v in own.items() if k not in NAMED_PARAMS and k not in value}
                source = dict.fromkeys(rest, self._model_origin())
                yield name, {**value, **rest}, {**self.origins[name], **source}
            elif value is None and name in own and name not in self.values["params"]:
                yield name, own[name], self._model_origin()
            else:
                yield name, value, self.origins[name]

    def _model_origin(self) -> str:
        return f"default of {self.values.get('model', 'auto')}"  # a benchmark names several

    def _model_defaults(self) -> dict[str, Any]:
        """Return the checked hyper-parameters of a model that was named; nothing for `auto`."""
        model = self.values.get("model", "auto")
        if model == "auto":
            return {}
        from mocli.models.parameters import as_dict, resolve
        from mocli.models.registry import traits_of

        traits = traits_of(model)
        given = dict(self.values["params"])
        known = as_dict(resolve(traits, given))
        named = {n: self.values[n] for n in NAMED_PARAMS & known.keys() if self.values[n] is not None}
        return as_dict(resolve(traits, {**given, **named}))


def _merged(
    ctx: typer.Context, param: Any, pairs: Pairs, written: list[str] | None
) -> tuple[dict[str, Any], dict[str, str]]:
    option = option_name(param)
    layers: list[tuple[str, Mapping[str, Any]]] = []
    config = ctx.meta.get(CONFIG_META)
    if config is not None and param.name in config.pairs:
        place = f"{option} ({config_origin(ctx)})"
        found = {key: pairs.parse(value, place) for key, value in config.pairs[param.name].items()}
        layers.append((config_origin(ctx), found))
    variable = param.value_from_envvar(ctx)
    if variable:
        origin = f"environment {param.envvar}"
        layers.append((origin, pairs.read(variable, f"{option} ({origin})")))
    if origin_of(ctx, param) == COMMAND_LINE:
        layers.append((COMMAND_LINE, pairs.read(written or [], option)))
    return merge_pairs(layers)


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
    """Return a value as it stands in one line of YAML."""
    import yaml

    plain = str(value) if isinstance(value, PurePath) else list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10**9, allow_unicode=True)
    return str(text).removesuffix("\n").removesuffix("\n...").rstrip()
