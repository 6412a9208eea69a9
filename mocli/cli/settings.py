"""Settings of one invocation: the `--config` file, the resolved values, the origin of each, their YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from mocli.cli.parameters import COMMAND_LINE, CONFIG_META, DEFAULT, config_origin, origin_of
from mocli.errors import UsageError, did_you_mean
from mocli.options import OptionField
from mocli.tasks.run.options import AUTO, NAMED_PARAMS, UNNAMED

if TYPE_CHECKING:
    import typer


# not part of a configuration: they say what to do with it
MAX_DEPTH, MAX_LENGTH = 10, 1_000_000
ACTIONS = frozenset({"config", "print_config", "dry_run", "help_all"})


def rank(origin: str) -> int:
    """Return the precedence of an origin; higher wins."""
    order = [DEFAULT, "config file", "environment", COMMAND_LINE]
    return next(i for i, start in enumerate(order) if origin.startswith(start))


@dataclass(frozen=True)
class Config:
    """The content of a config file, by parameter name: plain values, and mappings separately."""

    path: Path
    plain: dict[str, Any] = field(default_factory=dict)
    pairs: dict[str, dict[str, Any]] = field(default_factory=dict)


def load_config(ctx: typer.Context, path: Path, declared_options: Mapping[str, OptionField]) -> None:
    """Make the file's values the defaults of this command.

    Raises `UsageError` for an unreadable file, an unknown key, or a value of the wrong shape.
    """
    config = Config(path)
    params = {str(param.name): param for param in ctx.command.params}
    keys, gone = _keys(params.values()), getattr(ctx.command.callback, "gone", {})
    for written, value in _read(path).items():
        key = str(written).replace("_", "-")
        if key not in keys:
            raise UsageError(
                f"unknown key '{written}' in the config file",
                file=path,
                field=str(written),
                hint=gone.get(f"--{key}") or did_you_mean(key, keys, "keys"),
            )
        name, negated = keys[key]
        if value is None:
            continue
        if declared_options[name].is_mapping:
            config.pairs[name] = _mapping(value, path, key)
        else:
            config.plain[name] = _plain(params[name], value, path, key, negated=negated)
    ctx.meta[CONFIG_META] = config
    ctx.default_map = {**(ctx.default_map or {}), **config.plain}


def _read(path: Path) -> dict[Any, Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        _check_size(text, path)
        content = yaml.safe_load(text)
    except OSError as error:
        raise UsageError(
            "the config file cannot be read", file=path, field="--config", found=error.strerror
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise UsageError(
            "the config file is not YAML",
            file=path,
            field=None if mark is None else f"line {mark.line + 1}",
            found=getattr(error, "problem", None) or str(error),
        ) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(
            "the config file must hold keys and values",
            file=path,
            found=f"a {type(content).__name__}",
            expected="lines such as 'seed: 0'",
        )
    return content


def _check_size(text: str, path: Path) -> None:
    """Refuse files that cannot be a configuration before they cost memory: depth, length, references."""
    import yaml

    depth = deepest = aliases = 0
    for event in yaml.parse(text[: MAX_LENGTH + 1], Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        deepest, aliases = max(deepest, depth), aliases + isinstance(event, yaml.AliasEvent)
        if deepest > MAX_DEPTH or aliases:
            break
    excess = (
        f"{deepest} levels of values in values" if deepest > MAX_DEPTH
        else "values repeated by reference (*name)" if aliases
        else f"{len(text):,} characters" if len(text) > MAX_LENGTH
        else None
    )  # fmt: skip
    if excess is not None:
        raise UsageError(
            "the config file is not one for mocli",
            file=path,
            found=excess,
            expected=f"lines such as 'seed: 0', up to {MAX_DEPTH} levels, {MAX_LENGTH:,} characters",
        )


def _keys(params: Any) -> dict[str, tuple[str, bool]]:
    """Map every key a config may have to (parameter name, written in the negative)."""
    keys: dict[str, tuple[str, bool]] = {}
    for param in params:
        if param.name in ACTIONS:
            continue
        if param.param_type_name == "argument":
            keys[str(param.name)] = (param.name, False)
        for opts, negated in ((param.opts, False), (param.secondary_opts, True)):
            keys.update({opt[2:]: (param.name, negated) for opt in opts if opt.startswith("--")})
    return keys


def _mapping(value: Any, path: Path, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(
            f"'{key}' takes a mapping", file=path, field=key, found=repr(value), expected="NAME: VALUE"
        )
    return {str(name): inner for name, inner in value.items()}


def _plain(param: Any, value: Any, path: Path, key: str, *, negated: bool) -> Any:
    """Return the value in the shape the command line would give it."""
    many = getattr(param, "multiple", False) or param.nargs == -1
    if many:
        items = value if isinstance(value, list) else [value]
        return [_text(item, path, key) for item in items]
    if getattr(param, "is_flag", False):
        if not isinstance(value, bool):
            raise UsageError(
                f"'{key}' is true or false", file=path, field=key, found=repr(value), expected="true or false"
            )
        return value is not negated
    text = _text(value, path, key)
    return value if getattr(param, "count", False) and isinstance(value, int) else text


def _text(value: Any, path: Path, key: str) -> str:
    if isinstance(value, (bool, dict, list)) or value is None:
        hint = "put the value in quotes" if isinstance(value, bool) else None
        raise UsageError(f"'{key}' takes one value", file=path, field=key, found=repr(value), hint=hint)
    return str(value)


def merge_pairs(layers: list[tuple[str, Mapping[str, Any]]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Merge mappings key by key, later layers winning; return values and the origin of each."""
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, mapping in layers:
        merged.update(mapping)
        origins.update(dict.fromkeys(mapping, origin))
    return merged, origins


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
        from mocli.models.registry import as_dict, resolve, traits_of

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
