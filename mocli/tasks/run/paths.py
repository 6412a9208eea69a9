"""Names of everything a run writes, the folder `OUT.model` among them; they depend on `-o` alone."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from mocli.data.write.outfile import check_place, check_writable, is_pipe
from mocli.errors import InputError, UsageError, did_you_mean
from mocli.leftovers import temporary_beside
from mocli.models.registry import available
from mocli.tasks.run.options import OutputOptions, RunOptions
from mocli.types import ModalityKind, Pairing, ValueKind


@dataclass(frozen=True)
class Paths:
    """The files of one run."""

    output: Path
    report: Path | None  # None: to standard output
    html: Path | None
    log: Path
    model: Path
    checkpoints: Path
    beside: tuple[Path, ...] = ()  # what only this task writes, after the output
    figures: Path | None = None

    @classmethod
    def of(
        cls,
        output: OutputOptions,
        run: RunOptions,
        *,
        suffixes: tuple[str, ...],
        beside: tuple[str, ...] = (),
    ) -> Paths:
        """Derive all names; `beside` holds the suffixes of files that only this task writes.

        Raises `UsageError` if the output's suffix is not one of `suffixes`; what `check_places` refuses.
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
        paths = cls(
            output=path,
            report=report,
            html=_sibling(stem, ".report.html") if output.html else None,
            log=_sibling(stem, ".log"),
            model=_sibling(stem, ".model"),
            checkpoints=run.checkpoint_dir or _sibling(stem, ".ckpt"),
            beside=tuple(_sibling(stem, suffix) for suffix in beside),
            figures=_sibling(stem, ".figures") if output.figures and output.html else None,
        )
        paths.check_places()
        return paths

    def check_places(self) -> None:
        """Make sure, first of all, that every name can be written; `UsageError` if not."""
        failed = _sibling(self.output.with_suffix(""), ".failed.report.json")
        for path in (self.output, *self.beside, self.html, self.log, self.multiqc, failed):
            if path is not None:
                check_place(path)
        # a pipe or device is written to directly
        report = self.report
        if report is not None and not is_pipe(report):
            check_place(report)
        for folder in (self.model, self.checkpoints, self.figures):
            if folder is not None:
                check_place(folder, folder=True)

    def results(self, *, trained: bool = True, calibrated: bool = False) -> list[Path]:
        """Return the files of a run that ends well, in the order of writing."""
        model = [self.model / WEIGHTS, self.model / DESCRIPTION] if trained else []
        model += [self.model / CALIBRATION] if calibrated else []
        files = [self.log, *model, self.output, *self.beside]
        return [*files, *(p for p in (self.figures, self.html, self.report, self.multiqc) if p is not None)]

    @property
    def model_parts(self) -> list[Path]:
        """Files that the model's folder now holds."""
        return sorted(self.model / name for name in FILES if (self.model / name).exists())

    @property
    def multiqc(self) -> Path | None:
        """The file that MultiQC finds by its name; None if the report has that name, or is not a file."""
        if self.report is None or self.report.name.endswith("_mqc.json") or is_pipe(self.report):
            return None
        return _sibling(self.output.with_suffix(""), "_mqc.json")

    def refuse_inputs(self, inputs: Iterable[Path]) -> None:
        """Make sure that no file of the run is one of its inputs.

        Raises `UsageError`: it would be overwritten.
        """
        refuse_inputs(self.results(), inputs)

    def check(self, *, force: bool, trained: bool = True, ours: Container[Path] = ()) -> None:
        """Check before the work that everything can be written after it.

        Args:
            trained: Whether the model's folder will be written.
            ours: Outputs of the same run that was stopped before it was done; these are replaced.

        Raises:
            UsageError: Something exists and `force` is not given; the model's folder is not mocli's.
            EnvironmentProblem: A folder is absent or not writable.
        """
        # of a run that was stopped while it wrote its reports, one may say that all is well
        finished = self._is_finished() and self.output.absolute() not in ours
        for path in (self.output, *self.beside):
            check_writable(path, force=force or path.absolute() in ours)
        for words in (self.report, self.html, self.multiqc):
            # a pipe or device is written to directly
            if words is not None and not is_pipe(words):
                check_writable(words, force=force or not finished or words.absolute() in ours)
        figures = self.figures
        replaced = force or figures is None or figures.absolute() in ours
        if not replaced and figures is not None and figures.exists() and any(figures.iterdir()):
            raise UsageError("the output exists", file=figures, hint="choose another name, or --force")
        if not (trained or force) and self._can_be_continued():
            raise UsageError(
                "a training with outputs of this name was stopped, and can be continued",
                file=self.checkpoints,
                hint="repeat its command, or choose another output",
            )
        if trained and self.model.exists():
            check_model_folder(self.model)
            stopped = not finished and any(self.checkpoints.glob("*"))
            if not (force or stopped or self.model.absolute() in ours or not any(self.model.iterdir())):
                raise UsageError(
                    "the output exists",
                    file=self.model,
                    hint="outputs with the same stem share a model's folder: choose another name, or --force",
                )

    def _is_finished(self) -> bool:
        """Say whether the existing report is of a run that was not stopped."""
        if self.report is None or is_pipe(self.report):
            return False
        try:
            return bool(json.loads(self.report.read_text(encoding="utf-8"))["status"] == "ok")
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _can_be_continued(self) -> bool:
        """Whether a training of these names was stopped."""
        return any(self.checkpoints.glob("*.safetensors"))

    def failure_report(self, *, replaced: bool, trained: bool = True) -> Path | None:
        """Return where a failed run writes its report: never over that of kept results or models.

        `replaced`: whether the run wrote its output before it failed.
        """
        stays = self.output.exists() or (not trained and self._can_be_continued())
        if self.report is None or replaced or not (stays and self.report.exists()):
            return self.report
        return _sibling(self.output.with_suffix(""), ".failed.report.json")


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Make sure that no input is among the outputs; `UsageError` if one is."""
    existing = [path for path in outputs if path.exists()]
    for source in inputs:
        if source.exists() and any(source.samefile(path) for path in existing):
            raise UsageError(
                "the run would overwrite its own input",
                file=source,
                hint="inputs are never changed: choose another output",
            )


def _sibling(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


def command_line() -> list[str]:
    """Return the command as typed."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


FORMAT_VERSION = 2
READS = (1, 2)
"""Versions of the format: the one written, and those that can be read."""

WEIGHTS = "weights.safetensors"
DESCRIPTION = "model.json"
CALIBRATION = "calibration.safetensors"
STACKS = "stacks.safetensors"
"""Ways to impute, added once cells are written; a model is whole without."""
FILES = frozenset((WEIGHTS, DESCRIPTION, CALIBRATION, STACKS))

_EVERY = "*"
_FORM: Any = {
    "pairing": Pairing,
    "seed?": int,
    "levels": {_EVERY: [str]},
    "columns?": {_EVERY: str},
    "continuous?": [str],
    "trained_on?": [str],
    "covariates?": [{"key": str, "column": str, "levels": [str]}],
    "modalities": [
        {
            "name": str,
            "kind": ModalityKind,
            "values": ValueKind,
            "layer": str,
            "likelihood?": str,
            "batches?": {"key": str, "levels": [str]},
            "var_names": [str],
        }
    ],
}
"""What a description says that nothing else checks: `[form]` of a list, `*` of any key, an Enum's
values. What is marked by `?` may be null or absent, nothing else may."""


def check_model_folder(folder: Path) -> None:
    """Make sure that a folder may be replaced by a saved model.

    Raises:
        UsageError: If it is a file, or holds anything that mocli does not write.
    """
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else [folder.name]
    # hidden files are the file manager's
    foreign = sorted(f for f in {*names} - FILES if not f.startswith("."))
    if foreign:
        raise UsageError(
            "the model's folder holds other files",
            file=folder,
            found=", ".join(foreign[:3]),
            hint="move them away, or choose another output",
        )


def write_part(folder: Path, name: str, arrays: Mapping[str, Any], facts: Sequence[Any]) -> None:
    """Write a file of arrays and facts that JSON can hold into the folder, under a temporary name first."""
    import numpy as np
    from safetensors.numpy import save_file

    temporary = temporary_beside(folder / name)
    try:
        save_file(
            {k: np.ascontiguousarray(v) for k, v in sorted(arrays.items())},
            temporary,
            metadata={"mocli": json.dumps(facts, sort_keys=True)},
        )
        # safetensors lets nobody else read its files, whatever the user's umask
        beside = folder / DESCRIPTION
        if beside.exists():
            shutil.copymode(beside, temporary)
        temporary.replace(folder / name)
    finally:
        temporary.unlink(missing_ok=True)


def read_part(folder: Path, name: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the facts and arrays of such a file; errors are those of safetensors, JSON and the disk."""
    from safetensors import safe_open

    with safe_open(folder / name, framework="numpy") as stored:
        facts = json.loads((stored.metadata() or {})["mocli"])
        return facts, {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118


def read_description(folder: Path) -> dict[str, Any]:
    """Read and check `model.json` alone, without the weights.

    Raises:
        InputError: There is none, it has another format version, or its model is unknown.
    """
    if not folder.exists():
        beside = [p.name for p in folder.parent.glob("*.model")] if folder.parent.is_dir() else []
        raise InputError(
            "the folder does not exist",
            file=folder,
            expected="an OUT.model folder that mocli wrote",
            hint=did_you_mean(folder.name, beside, "models in that folder"),
        )
    if folder.is_file():
        raise InputError(
            "a file is no model",
            file=folder,
            expected="an OUT.model folder that mocli wrote",
            hint="name the folder OUT.model that lies beside the output",
        )
    try:
        text = (folder / DESCRIPTION).read_text(encoding="utf-8")
        description = json.loads(text, parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(folder, error) from error
    version = description.get("format_version") if isinstance(description, dict) else None
    if version not in READS:
        raise InputError(
            "the model has another format version",
            file=folder / DESCRIPTION,
            field="format_version",
            found=version,
            expected=" or ".join(map(str, READS)),
            hint="use the version of mocli that wrote it: " + str(dict(description).get("mocli"))
            if isinstance(description, dict)
            else None,
        )
    if description.get("model") not in list(available()):
        raise InputError(
            "the model has an unknown kind",
            file=folder / DESCRIPTION,
            field="model",
            found=description.get("model"),
            expected=", ".join(available()),
        )
    if (wrong := _not_of_form(description, _FORM, "")) is not None:
        raise InputError(
            "the saved model is damaged: its description is not of the form that mocli writes",
            file=folder / DESCRIPTION,
            field=wrong[0],
            found=wrong[1],
            hint="copy the folder once more from where it was written, or train the model again",
        )
    return {key: part for key, part in description.items() if part is not None}


def _not_of_form(value: Any, form: Any, where: str) -> tuple[str, str] | None:
    """Return where, and what is there, that is not of a form; None where all is."""
    if isinstance(form, type) and issubclass(form, Enum):
        return None if value in [member.value for member in form] else (where, repr(value)[:100])
    if isinstance(form, type):
        return None if isinstance(value, form) and value is not True else (where, repr(value)[:100])
    if not isinstance(value, type(form)):
        return where, repr(value)[:100]
    if isinstance(form, list):
        parts = [(inner, form[0], f"{where}[{i}]") for i, inner in enumerate(value)]
    elif _EVERY in form:
        parts = [(inner, form[_EVERY], f"{where}.{key}") for key, inner in value.items()]
    else:
        parts = [
            (value.get(key.rstrip("?")), inner, f"{where}.{key.rstrip('?')}".lstrip("."))
            for key, inner in form.items()
            if not (key.endswith("?") and value.get(key.rstrip("?")) is None)
        ]
    return next((wrong for part in parts if (wrong := _not_of_form(*part)) is not None), None)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not a number")


def unreadable(folder: Path, error: BaseException) -> InputError:
    """Return the error of a folder whose files cannot be read."""
    return InputError(
        "this folder holds no readable model",
        file=folder,
        found=str(error)[:300],
        expected=f"{DESCRIPTION} and {WEIGHTS}",
        hint="name an OUT.model folder that mocli wrote",
    )
