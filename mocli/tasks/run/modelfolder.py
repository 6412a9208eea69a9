"""The folder `OUT.model`: which files a saved model has."""

from __future__ import annotations

from pathlib import Path

from mocli.errors import UsageError

WEIGHTS = "weights.safetensors"
DESCRIPTION = "model.json"
CALIBRATION = "calibration.safetensors"


def check_model_folder(folder: Path) -> None:
    """Make sure that a folder may be replaced by a saved model.

    Raises
    ------
    UsageError
        If it is a file, or holds anything that mocli does not write.
    """
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else [folder.name]
    # hidden files are the file manager's
    foreign = sorted(f for f in {*names} - {WEIGHTS, DESCRIPTION, CALIBRATION} if not f.startswith("."))
    if foreign:
        raise UsageError(
            "the model's folder holds other files",
            file=folder,
            found=", ".join(foreign[:3]),
            hint="move them away, or choose another output",
        )
