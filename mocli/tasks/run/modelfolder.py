"""The folder `OUT.model`: the files of a saved model, and its description."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from mocli.errors import InputError, UsageError, did_you_mean
from mocli.leftovers import temporary_beside
from mocli.models.registry import available
from mocli.types import ModalityKind, Pairing, ValueKind

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

    Raises
    ------
    UsageError
        If it is a file, or holds anything that mocli does not write.
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

    Raises
    ------
    InputError
        There is none, it has another format version, or its model is unknown.
    """
    if not folder.exists():
        beside = [p.name for p in folder.parent.glob("*.model")] if folder.parent.is_dir() else []
        raise InputError(
            "the folder does not exist",
            file=folder,
            expected="an OUT.model folder that mocli wrote",
            hint=did_you_mean(folder.name, beside, "models in that folder"),
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
