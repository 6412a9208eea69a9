"""From the arguments of a subcommand's Python function to its request, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mocli.options import Options, parameters_section, signature_of, sort_into
from mocli.tasks.run.options import DataOptions, OutputOptions, RunOptions, TrainOptions
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
        own = () if self.own is None else (self.own,)
        return self.data, self.train, self.run, self.output, *own

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

    Attributes
    ----------
    output
        The file written (or, after a dry run, the one that would be).
    report
        The report as written to JSON; empty after a dry run.
    plan
        What a dry run says, line by line.
    files
        Every file written or to be written.
    """

    output: Path
    report: dict[str, Any]
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

    Raises
    ------
    UsageError
        A call has an option that does not exist, or a value that an option does not accept.
    """
    groups: tuple[type[Options], ...] = (*SHARED, group)

    def decorate(work: Work[Own]) -> Callable[..., Result]:
        def function(
            inputs: str | Path | Sequence[str | Path] = (),
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
