"""From the arguments of a subcommand's Python function to its request, its identity, what it returns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from inspect import cleandoc
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mocli import __version__
from mocli.data.files.inputs import sha256
from mocli.data.files.source import parse_source
from mocli.data.links.route import link_files
from mocli.models.registry import as_dict, available, resolve
from mocli.options import Options, declared_in, parameters_section, plain, signature_of, sort_into
from mocli.tasks.run.options import UNNAMED, DataOptions, OutputOptions, RunOptions, TrainOptions
from mocli.tasks.run.paths import command_line

SHARED: tuple[type[Options], ...] = (DataOptions, OutputOptions, TrainOptions, RunOptions)
Own = TypeVar("Own", bound=Options, contravariant=True)


@dataclass(frozen=True)
class Request:
    """The options of data, training, run and output, and those of one subcommand alone."""

    data: DataOptions
    train: TrainOptions
    run: RunOptions
    output: OutputOptions
    own: Options | None = None

    def tell_unused(self, warn: Callable[[str], None]) -> None:
        """Warn of options that have no effect where no model is trained."""
        if self.of_training:
            warn(f"the model is already trained, so these have no effect: {', '.join(self.of_training)}")

    @property
    def groups(self) -> tuple[Options, ...]:
        """All options, group by group."""
        of_verb = () if self.own is None else (self.own,)
        return self.data, self.train, self.run, self.output, *of_verb

    @property
    def compared(self) -> frozenset[str]:
        """Columns of obs whose values the subcommand compares, which no batch may take off."""
        return frozenset() if self.own is None else self.own.compared

    @property
    def of_training(self) -> list[str]:
        """Options given that matter to training alone."""
        of_groups = (group.given("trains") for group in (self.data, self.train))
        return [declared.long for options in of_groups for declared in options.values()]

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies the training of this request; see `mocli.options.Option`."""
        return {**self.data.identity(), **self.train.identity(), **self.run.identity()}


@dataclass(frozen=True)
class Result:
    """What a task returns to Python.

    Attributes:
        output: The file written (or, after a dry run, the one that would be).
        report: The report as written to JSON; empty after a dry run.
        plan: What a dry run says, line by line.
        files: Every file written or to be written.
    """

    output: Path
    report: dict[str, Any] = field(repr=False)  # pages of it, where a notebook shows the result
    plan: list[str]
    files: list[Path]


def requested(inputs: str | Path | Sequence[str | Path], **given: Any) -> Request:
    """Sort the arguments that all subcommands share, named as the command line's options, into groups."""
    data, output, train, run = sort_into(SHARED, {"inputs": inputs, **given}, task="the request")
    return Request(data, train, run, output)


class Work(Protocol[Own]):
    """The body of a subcommand, called with its options in groups."""

    __name__: str

    def __call__(self, request: Request, options: Own, /, *, dry_run: bool, command: Sequence[str]) -> Result:
        """Do the work, or report what would be done."""
        ...


def subcommand(group: type[Own]) -> Callable[[Work[Own]], Callable[..., Result]]:
    """Make the Python function of a subcommand: its options as keyword arguments, all documented.

    Raises `UsageError`: a call has an option that does not exist, or a value that an option does not accept.
    """
    groups: tuple[type[Options], ...] = (*SHARED, group)

    def decorate(work: Work[Own]) -> Callable[..., Result]:
        def function(
            inputs: str | Path | Sequence[str | Path] | Mapping[str, str | Path] = (),
            *,
            dry_run: bool = False,
            command: Sequence[str] | None = None,
            **given: Any,
        ) -> Result:
            data, output, train, run, options = sort_into(
                groups, {"inputs": inputs, **given}, task=work.__name__
            )
            request = Request(data, train, run, output, options)
            return work(request, options, dry_run=dry_run, command=command or command_line())

        function.__name__ = function.__qualname__ = work.__name__
        function.__module__ = work.__module__
        function.__signature__ = signature_of(groups)  # type: ignore[attr-defined]
        function.__doc__ = f"{cleandoc(work.__doc__ or '')}\n\n{parameters_section(groups)}\n"
        return function

    return decorate


Origin = dict[str, Any]
"""`words` of the options that shape the result, hash of `defaults`, `files` with theirs, `version`."""

TRAINED = ("from_model", "reference")
"""Options that name a trained model, which keeps its own hyper-parameters."""


def files_read(groups: Sequence[Options]) -> list[Path]:
    """Return every file that options name to be read, in their order; of a folder, the files in it."""
    return list(dict.fromkeys(path for group in groups for path in _files_of(group)))


def _files_of(group: Options) -> Iterator[Path]:
    for name, declared in declared_in(type(group)).items():
        value = getattr(group, name)
        if not value or "volatile" in declared.option.marks:
            continue
        if name == "inputs":
            yield from (parse_source(text).path for text in value)
        elif name == "links":
            yield from link_files(value)
        elif declared.base is Path:
            yield from sorted(value.glob("*")) if value.is_dir() else [value]


def origin_of(task: str, groups: Sequence[Options]) -> Origin:
    """Return what a result is made from; equal only if the same result would be made again.

    Options that do not change a result (`volatile`) do not count; a pipe has no contents to compare, so its
    hash is None.
    """
    words = [task]
    for group in groups:
        declared = declared_in(type(group))
        words += group.words(without={n for n, d in declared.items() if "volatile" in d.option.marks})
    files = {str(path): contents_of(path) for path in files_read(groups)}
    defaults = hashlib.sha256(json.dumps(_defaults(groups), sort_keys=True).encode()).hexdigest()
    return {"words": words, "defaults": defaults, "files": files, "version": __version__}


def contents_of(path: Path) -> str | None:
    """Return the hash of a file; None if it is not a file or cannot be read."""
    try:
        return sha256(path) if path.is_file() else None
    except OSError:  # the run itself will say what is wrong with it
        return None


def _defaults(groups: Sequence[Options]) -> dict[str, Any]:
    """Return the defaults of options, and of the models that may be trained."""
    defaults = {
        name: plain(declared.default)
        for group in groups
        for name, declared in declared_in(type(group)).items()
        if "volatile" not in declared.option.marks and declared.default is not MISSING
    }
    if any(getattr(group, name, None) is not None for group in groups for name in TRAINED):
        return defaults
    for train in (group for group in groups if isinstance(group, TrainOptions)):
        models = [t for name, t in available().items() if train.model in (name, *UNNAMED)]
        defaults |= {f"model {t.name}": plain(as_dict(resolve(t, {}, train.preset))) for t in models}
    return defaults


def made_from(report: Path, origin: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the report of a run of this origin, ended well or not; None where there is none."""
    try:
        record: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("made_from") == origin else None


def is_whole(report: Mapping[str, Any] | None, output: Path) -> bool:
    """Say whether a run ended well and all its outputs have the sizes that the report gives."""
    if report is None or report["status"] != "ok" or None in report["made_from"]["files"].values():
        return False
    sizes = {o["path"]: o["bytes"] for o in report["outputs"]}
    return str(output) in sizes and all(_size(Path(path)) == size for path, size in sizes.items())


def _size(path: Path) -> int | None:
    """Return the bytes of a file, or of those in a folder; None where there is neither."""
    files = list(path.iterdir()) if path.is_dir() else [path]
    return sum(f.stat().st_size for f in files) if all(f.is_file() for f in files) else None
