"""How accurate a model's predictions were where they could be checked; kept in the model's folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mocli.errors import InputError
from mocli.metrics.conformal import Conformal
from mocli.metrics.imputation import FeatureAccuracy
from mocli.tasks.run.paths import CALIBRATION, read_part, write_part
from mocli.types import FloatArray

Key = tuple[str, str, str, str]
"""Source, target, scale, and the predictor's name; before there were several, `readout`."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Intervals and accuracy of one translation on one scale.

    Attributes:
        basis: The cells it was measured on, in words.
        accuracy: None where there were no true values.
        new_batch: Least width of the interval of a cell of a batch that training lacked, over that of other
            cells.
    """

    intervals: Conformal
    basis: str
    accuracy: FeatureAccuracy | None = None
    new_batch: float = 1.0


def fitting(
    calibrations: Mapping[Key, Calibration],
    key: Key,
    *,
    coverage: float | None,
    moments: tuple[FloatArray, FloatArray],
    warn: Callable[[str], None] = lambda _: None,
) -> Calibration | None:
    """Return the calibration of a translation; on `scaled`, made from that on `log` if need be.

    Args:
        coverage: The wanted coverage; a warning tells if the model's intervals have another.
        moments: Mean and deviation of the target's features on the scale `log`, `(n_vars,)` each.
    """
    source, target, scale, route = key
    calibration = calibrations.get(key)
    logged = calibrations.get((source, target, "log", route))
    if calibration is None and scale == "scaled" and logged is not None:
        mean, deviation = moments
        unit = np.where(deviation > 0, deviation, 1).astype(np.float32)
        intervals = logged.intervals
        floor = None if intervals.floor is None else (intervals.floor - mean) / unit
        offsets = replace(intervals, lower=intervals.lower / unit, upper=intervals.upper / unit, floor=floor)
        accuracy = logged.accuracy
        if accuracy is not None:
            accuracy = replace(accuracy, rmse=accuracy.rmse / unit, mae=accuracy.mae / unit)
        calibration = Calibration(offsets, logged.basis, accuracy, logged.new_batch)
    if calibration is not None and coverage is not None and calibration.intervals.coverage != coverage:
        warn(
            f"the model's intervals have a coverage of {calibration.intervals.coverage:g}, not "
            f"{coverage:g}; they are written as they are"
        )
    return calibration


def save_calibrations(folder: Path, calibrations: Mapping[Key, Calibration]) -> None:
    """Write beside the weights."""
    arrays: dict[str, Any] = {}
    facts = []
    for i, (key, c) in enumerate(calibrations.items()):
        tensors, described = c.intervals.state()
        arrays |= {f"{i}/{k}": v for k, v in tensors.items()}
        if c.accuracy is not None:
            arrays |= {f"{i}/accuracy/{f.name}": getattr(c.accuracy, f.name) for f in fields(c.accuracy)}
        facts.append({"key": list(key), "basis": c.basis, "intervals": described, "new_batch": c.new_batch})
    write_part(folder, CALIBRATION, arrays, facts)


def load_calibrations(folder: Path) -> dict[Key, Calibration]:
    """Read them back; none where the model has none.

    Raises:
        InputError: The file is damaged.
    """
    from safetensors import SafetensorError

    path = folder / CALIBRATION
    if not path.exists():
        return {}
    calibrations: dict[Key, Calibration] = {}
    try:
        facts, arrays = read_part(folder, CALIBRATION)
        for i, fact in enumerate(facts):
            of_one = {k.removeprefix(f"{i}/"): v for k, v in arrays.items() if k.startswith(f"{i}/")}
            measured = {
                k.removeprefix("accuracy/"): v for k, v in of_one.items() if k.startswith("accuracy/")
            }
            source, target, scale, *route = fact["key"]
            calibrations[source, target, scale, route[0] if route else "readout"] = Calibration(
                Conformal.from_state(of_one, fact["intervals"]),
                fact["basis"],
                FeatureAccuracy(**measured) if measured else None,
                fact.get("new_batch", 1.0),
            )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(
            "the model's calibration cannot be read",
            file=path,
            found=str(error),
            hint="copy the model's folder again, or delete this file to continue without intervals",
        ) from error
    return calibrations
