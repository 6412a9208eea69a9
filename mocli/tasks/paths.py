"""Names of everything a run writes; they depend on `-o` alone."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mocli.errors import UsageError

if TYPE_CHECKING:
    from mocli.tasks.options import OutputOptions, RunOptions


@dataclass(frozen=True)
class Paths:
    """The files of one run."""

    output: Path
    report: Path | None  # None: to standard output
    html: Path | None
    log: Path
    model: Path
    checkpoints: Path

    @classmethod
    def of(cls, output: OutputOptions, run: RunOptions, *, suffixes: tuple[str, ...]) -> Paths:
        """Derive all names.

        Raises
        ------
        UsageError
            If the output's suffix is not one of `suffixes`.
        """
        path = output.output
        if path.suffix not in suffixes:
            raise UsageError(
                f"the output must end in {' or '.join(suffixes)}",
                field="--output",
                found=path.name,
                hint=f"for example -o {path.stem or 'out'}{suffixes[0]}",
            )
        stem = path.with_suffix("")
        report: Path | None = output.report or _sibling(stem, ".report.json")
        if output.report is not None and str(output.report) == "-":
            report = None
        return cls(
            output=path,
            report=report,
            html=_sibling(stem, ".report.html") if output.html else None,
            log=_sibling(stem, ".log"),
            model=_sibling(stem, ".model"),
            checkpoints=run.checkpoint_dir or _sibling(stem, ".ckpt"),
        )

    def results(self) -> list[Path]:
        """Return what an undisturbed run leaves behind, in the order of writing."""
        files = [self.log, self.model / "weights.safetensors", self.model / "model.json", self.output]
        return [*files, *(p for p in (self.html, self.report) if p is not None)]

    def failure_report(self, *, force: bool) -> Path | None:
        """Return where a failed run reports: never over the report of results that stay."""
        if self.report is None or force or not (self.output.exists() and self.report.exists()):
            return self.report
        return _sibling(self.output.with_suffix(""), ".failed.report.json")


def _sibling(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


def command_line() -> list[str]:
    """Return the command as typed."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]
