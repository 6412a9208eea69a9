"""One declaration of an option, from which follow command line, environment, config, Python and fingerprint.

A group of options is a frozen dataclass whose fields are options:

    @dataclass(frozen=True)
    class RunOptions(Options):
        seed: int = option("--seed N", "Seed of everything random", default=0, least=0)

The field's name is the keyword argument in Python; the long name is the key of a `--config` file and, after
`MOCLI_`, the environment variable. Values are read and checked wherever they come from, when the dataclass
is made. Nothing heavy is imported here: `mocli -h` waits for it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from mocli.errors import UsageError, did_you_mean
from mocli.parsing import MOST, Parser, one_of

NATIVE = (bool, int, float, Path, str)
MARKS = {
    "trains": "only training uses it: it does not change a model that is trained already",
    "identifies": "a checkpoint only belongs to runs with the same value",
    "volatile": "it does not change the result of a finished run",
    "advanced": "shown by --help-all only",
    "text": "on the command line it stays as written, for --print-config",
}


@dataclass(frozen=True)
class Option:
    """The declaration of an option.

    Attributes:
        names: Long name first (`--html/--no-html` for a switch that is on), then others; none for the inputs.
        help, metavar, panel: For the help text; `shown` stands there for a default that the data decide.
        parse: From a value as written to the one stored, or `module:name` of the parser where its module is
            heavy.
        each: The same for every item of a repeatable option, or every value of a KEY=VALUE one.
        marks: Some of `MARKS`.
        more: What the command line alone needs to know, such as `count` or `is_eager`.
    """

    names: tuple[str, ...]
    help: str
    metavar: str = ""
    panel: str = ""
    choices: tuple[str, ...] = ()
    parse: Parser | str | None = None
    each: Parser | None = None
    least: int | None = None
    shown: str | None = None
    marks: frozenset[str] = frozenset()
    more: Mapping[str, Any] = field(default_factory=dict)


def option(usage: str, help: str, *, default: Any = None, marks: str = "", **about: Any) -> Any:
    """Declare an option by how it is used, such as `--output -o FILE`; the inputs have no dashes.

    Args:
        default: As written, it is parsed when the dataclass is made; `MISSING` where the option is needed.
        marks: Some of `MARKS`, with spaces between.
        about: Other fields of `Option`.
    """
    words = usage.split()
    names = tuple(word for word in words if word.startswith("-"))
    metavar = " ".join(words[len(names) :]) or "|".join(about.get("choices", ()))
    declared = Option(names, help, metavar, marks=frozenset(marks.split()), **about)
    if not declared.marks <= MARKS.keys():
        raise ValueError(f"{usage} has a mark that there is not: {marks}")
    if default == {}:
        return field(default_factory=dict, metadata={"option": declared})
    return field(default=default, metadata={"option": declared})


@dataclass(frozen=True)
class OptionField:
    """A field of a group of options: its name, the type of its values, its default, its option."""

    name: str
    type: Any
    default: Any
    option: Option

    @property
    def long(self) -> str:
        """The name that a user types: `--links`; `INPUT` for the inputs."""
        return self.option.names[0].split("/")[0] if self.option.names else self.option.metavar

    @property
    def base(self) -> Any:
        """The type without None."""
        kinds = [kind for kind in get_args(self.type) if kind is not NoneType]
        return kinds[0] if kinds and self.may_be_none else self.type

    @property
    def may_be_none(self) -> bool:
        """Say whether None is a value, written `none`, and not only the absence of one."""
        return NoneType in get_args(self.type)

    @property
    def is_mapping(self) -> bool:
        """Say whether it takes KEY=VALUE, repeatedly."""
        return get_origin(self.base) is not None and issubclass(get_origin(self.base), Mapping)

    @property
    def is_repeatable(self) -> bool:
        """Say whether it is given once for each value, as a `Sequence` is; a tuple is one list."""
        return get_origin(self.base) is Sequence

    @property
    def cli(self) -> Any:
        """Type on the command line."""
        if self.is_mapping:
            return list[str]
        if self.is_repeatable:
            return list[get_args(self.base)[0]]  # type: ignore[misc]
        return self.base if self.base in NATIVE and "text" not in self.option.marks else str

    def read(self, value: Any, where: str | None = None) -> Any:
        """Return the value to store; `where` names the option and the origin of the value for errors.

        Raises `UsageError`: the option does not accept the value.
        """
        option, where = self.option, where or self.long
        if value is None or value is MISSING:
            return value
        if self.is_mapping:
            if not isinstance(value, Mapping):
                raise UsageError(
                    f"{self.long} takes a mapping", field=where, found=repr(value), expected="{NAME: VALUE}"
                )
            return {str(k): option.each(v, where) if option.each else v for k, v in dict(value).items()}
        if self.is_repeatable:
            if isinstance(value, Mapping):  # {"rna": FILE} for rna=FILE
                value = [f"{name}={given}" for name, given in value.items()]
            items = [value] if isinstance(value, (str, int, Path)) else value
            kind = get_args(self.base)[0]
            return tuple(option.each(item, where) if option.each else kind(item) for item in items)
        if option.choices:
            value = one_of(value, option.choices, where)
        if isinstance(option.parse, str):
            # what is read already stays as it is
            value = _resolved(option.parse)(value, where) if isinstance(value, (str, int, float)) else value
        elif option.parse is not None:
            value = option.parse(value, where)
        elif self.base in {Path, str}:
            value = self.base(value)
        if option.least is not None and value < option.least:
            raise UsageError(f"{self.long} must be {option.least} or more", field=where, found=value)
        if self.base is int and option.parse is None and value > MOST:
            raise UsageError(f"{self.long} must be {MOST:,} or less", field=where, found=value)
        return value

    def words(self, value: Any) -> Iterator[str]:
        """Return the value as arguments of a command line."""
        if self.is_mapping:
            for key, inner in value.items():
                yield from (self.long, f"{key}={inner if isinstance(inner, str) else json.dumps(inner)}")
        elif self.is_repeatable:
            for item in value:
                yield from (self.long, str(item)) if self.option.names else (str(item),)
        elif isinstance(value, bool):
            yield self.long if value else self.option.names[0].split("/")[1]
        elif isinstance(value, tuple):
            yield from (self.long, ",".join(map(str, value)))
        elif isinstance(value, float):
            yield from (self.long, f"{value:f}" if "e" in repr(value) else repr(value))
        else:
            yield from (self.long, "none" if value in (None, "") else str(value))


@cache
def _resolved(path: str) -> Parser:
    module, _, name = path.partition(":")
    value: Any = import_module(module)
    for part in name.split("."):
        value = getattr(value, part)
    return value


class Options:
    """Base of all groups of options; values are parsed and checked however a group is made.

    Attributes:
        PANEL: The panel of the help, for options that a class declares and that name no other.
        LACKS: Shared options that the subcommand does not take, by field name.
        GONE: Options of earlier versions, and what to use now.
    """

    PANEL: ClassVar[str] = ""
    LACKS: ClassVar[frozenset[str]] = frozenset()
    GONE: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        """Parse every value that is written text."""
        for name, declared in declared_in(type(self)).items():
            object.__setattr__(self, name, declared.read(getattr(self, name)))
        self.check_together()

    @property
    def compared(self) -> frozenset[str]:
        """Columns of obs whose values are compared."""
        return frozenset()

    def check_together(self) -> None:
        """Refuse combinations of options that mean nothing."""

    def given(self, mark: str | None = None) -> dict[str, OptionField]:
        """Return the options whose value is not the default, all or those of a mark, by field name."""
        return {
            name: declared
            for name, declared in declared_in(type(self)).items()
            if (mark is None or mark in declared.option.marks)
            and getattr(self, name) != declared.read(declared.default)
        }

    def words(self, *, without: Collection[str] = ()) -> list[str]:
        """Return the arguments of a command line that give these options."""
        return [
            word
            for name, declared in self.given().items()
            if name not in without
            for word in declared.words(getattr(self, name))
        ]

    def identity(self) -> dict[str, Any]:
        """Return what identifies the run, as plain values."""
        return {name: plain(getattr(self, name)) for name in self.given("identifies")}


def plain(value: Any) -> Any:
    """Return a value as JSON restores it."""
    return json.loads(json.dumps(value, default=str))


def declared_in(group: Any) -> Mapping[str, OptionField]:
    """Return the options of a group by field name, in the order of the fields."""
    return _declared_in(group)


@cache
def _declared_in(group: Any) -> Mapping[str, OptionField]:
    kinds = get_type_hints(group)
    options: dict[str, OptionField] = {}
    for f in fields(group):
        declared = f.metadata.get("option")
        if declared is not None:
            default = f.default if f.default_factory is MISSING else f.default_factory()
            owner = next(c for c in group.__mro__ if f.name in vars(c).get("__annotations__", {}))
            placed = replace(declared, panel=declared.panel or owner.PANEL)
            options[f.name] = OptionField(f.name, kinds[f.name], default, placed)
    return options


def declared_by(groups: Sequence[type]) -> dict[str, OptionField]:
    """Return the options of several groups, without those that one of them says it lacks."""
    lacking = frozenset().union(*(group.LACKS for group in groups if issubclass(group, Options)))
    return {n: d for group in groups for n, d in declared_in(group).items() if n not in lacking}


def gone_from(groups: Sequence[type]) -> dict[str, str]:
    """Return the options of earlier versions and what to use now."""
    return {k: v for group in groups if issubclass(group, Options) for k, v in group.GONE.items()}


def sort_into(groups: Sequence[type[Options]], arguments: Mapping[str, Any], *, task: str) -> list[Any]:
    """Make every group of options from the keyword arguments of a Python call.

    Raises `UsageError`: a keyword argument is unknown or missing, or an option does not accept its value.
    """
    declared_options, gone = declared_by(groups), gone_from(groups)
    for name in arguments:
        if name not in declared_options:
            raise UsageError(
                f"{task} has no option '{name}'",
                field=name,
                hint=gone.get("--" + name.replace("_", "-"))
                or did_you_mean(name, declared_options, "options"),
            )
    for name, declared in declared_options.items():
        if declared.default is MISSING and arguments.get(name) is None:
            raise UsageError(f"{declared.long} is needed", field=declared.long, hint=declared.option.help)
    values = {
        n: value for n, value in arguments.items() if value is not None or declared_options[n].may_be_none
    }
    return [group(**{n: values[n] for n in declared_in(group) if n in values}) for group in groups]


def signature_of(groups: Sequence[type[Options]]) -> inspect.Signature:
    """Return the signature of a subcommand's Python function: inputs first, all others by keyword."""
    parameters = []
    for name, declared in declared_by(groups).items():
        kind = (
            inspect.Parameter.KEYWORD_ONLY
            if declared.option.names
            else inspect.Parameter.POSITIONAL_OR_KEYWORD
        )
        default = inspect.Parameter.empty if declared.default is MISSING else declared.default
        parameters.append(inspect.Parameter(name, kind, default=default, annotation=declared.type))
    extra = {"dry_run": False, "command": None}
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters += [inspect.Parameter(name, keyword, default=value) for name, value in extra.items()]
    return inspect.Signature(
        sorted(parameters, key=lambda p: (p.kind, p.default is not inspect.Parameter.empty))
    )


def parameters_section(groups: Sequence[type[Options]]) -> str:
    """Return the section of a docstring that explains every option."""
    lines = [f"    {name}: {declared.option.help}." for name, declared in declared_by(groups).items()]
    dry_run = "    dry_run: Check everything and say what would be done; write nothing."
    return "\n".join(["Args:", *lines, dry_run])
