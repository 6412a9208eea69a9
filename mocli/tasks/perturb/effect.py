"""How a perturbation changes a feature: by a share, completely, or by a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mocli.errors import UsageError, did_you_mean
from mocli.types import DoubleArray

KINDS = ("towards", "scale", "knockout", "log-shift", "count-shift")
UP, DOWN, TOWARDS = "up", "down", "towards"
DIRECTIONS = (UP, DOWN, "both")
_DEFAULT_SIZES = {"towards": 1.0, "scale": 0.5, "log-shift": 1.0, "count-shift": 1.0}


@dataclass(frozen=True)
class Effect:
    """What happens to the values of a feature.

    ============= ======================================== =============================
    kind          up                                       down
    ============= ======================================== =============================
    scale         `x (1 + size)`                           `x (1 - size)`
    knockout                                               `0`
    log-shift     `log1p(x f) + size`, turned back          `max(log1p(x f) - size, 0)`
    count-shift   `x + size`                               `max(x - size, 0)`
    ============= ======================================== =============================

    f is the cell's normalising factor. Values that are logs already are shifted directly.

    `towards` gives a feature what the target cells have: with d the difference of the mean normalised logs of
    target and perturbed cells, `log-shift=d` upwards where d is above 0; where it is below, logs are scaled
    down so that their mean falls by d (`log-scale`). Its size is the share of the way.
    """

    kind: str
    size: float

    @classmethod
    def parse(cls, text: str, option: str = "--effect") -> Effect:
        """Read `towards`, `scale=0.5`, `knockout`, `log-shift=1`, `count-shift=1`; sizes may be left out.

        Raises `UsageError`: the effect does not exist, or its size is invalid.
        """
        kind, equals, number = text.partition("=")
        kind = kind.strip()
        if kind not in KINDS or (kind == "knockout" and equals):
            raise UsageError(
                f"there is no effect '{text}'",
                field=option,
                expected="towards, scale=0.5, knockout, log-shift=1 or count-shift=1",
                hint=did_you_mean(kind, KINDS, "effects"),
            )
        try:
            size = float(number) if equals else _DEFAULT_SIZES.get(kind, 0.0)
        except ValueError:
            size = float("nan")
        if kind != "knockout" and not (np.isfinite(size) and size > 0):
            raise UsageError(
                f"the size of '{kind}' is a positive number", field=option, found=text, hint=f"{kind}=0.5"
            )
        return cls(kind, size)

    def directions(self, wanted: str | None) -> tuple[str, ...]:
        """Return the directions that are asked for, by default all that the effect has.

        Raises `UsageError`: the effect does not have this direction, or lowers by more than all of it.
        """
        if wanted is not None and wanted not in DIRECTIONS:
            raise UsageError(
                f"'{wanted}' is not a direction",
                field="--direction",
                expected=", ".join(DIRECTIONS),
                hint=did_you_mean(wanted, DIRECTIONS, "directions"),
            )
        if self.kind == TOWARDS:
            return (TOWARDS,)
        if self.kind == "knockout":
            if wanted == UP:
                raise UsageError(
                    "a knock-out only lowers",
                    field="--direction",
                    found=wanted,
                    hint="leave --direction out, or choose --effect scale=0.5",
                )
            return (DOWN,)
        directions = (UP, DOWN) if wanted in {None, "both"} else (str(wanted),)
        if self.kind == "scale" and self.size > 1 and DOWN in directions:
            raise UsageError(
                "nothing can be lowered by more than all of it",
                field="--effect",
                found=f"scale={self.size:g}",
                expected="a share of at most 1",
                hint="choose a smaller share, or --direction up",
            )
        return directions

    def of_feature(self, difference: float, level: float) -> tuple[Effect, str]:
        """Return the effect and direction with which `towards` changes a feature.

        Args:
            difference: Mean normalised log in the target cells less that in the perturbed ones.
            level: The latter.
        """
        size = self.size * abs(difference)
        if difference >= 0:
            return Effect("log-shift", size), UP
        # cells without the feature cannot have less of it: those that have it make up for them
        return (Effect("log-scale", min(size / level, 1.0)) if level > 0 else Effect("log-shift", size)), DOWN

    def reaches_zeros(self, direction: str) -> bool:
        """Say whether values of 0 change as well."""
        return direction == UP and self.kind in {"log-shift", "count-shift"}

    def apply(self, x: DoubleArray, factor: DoubleArray, direction: str, *, logged: bool) -> DoubleArray:
        """Return changed raw values, `(n,)`.

        Args:
            factor: Of each value's cell, `(n,)`; 0 for a cell without any signal, which stays as it is.
            logged: Whether raw values are logs already.
        """
        sign = 1.0 if direction == UP else -1.0
        if self.kind == "knockout":
            return np.zeros_like(x)
        if self.kind == "scale":
            return x * (1 + sign * self.size)
        if self.kind == "log-scale" and logged:
            return x * (1 + sign * self.size)
        if self.kind == "count-shift" or logged:
            moved = x + sign * self.size
            return np.where(x >= 0, np.maximum(moved, 0), moved)
        logs = np.log1p(np.maximum(x, 0) * factor)
        logs = logs * (1 + sign * self.size) if self.kind == "log-scale" else logs + sign * self.size
        shifted = np.expm1(np.maximum(logs, 0))
        return np.divide(shifted, factor, out=x.astype(np.float64, copy=True), where=factor > 0)

    def words(self, direction: str) -> str:
        """Describe the change, as the end of a sentence."""
        if direction == TOWARDS:
            share = "" if self.size == 1 else f" {self.size:.0%} of the way"
            return f"moved{share} to what the target cells have"
        verb = "raised" if direction == UP else "lowered"
        if self.kind == "knockout":
            return "set to 0"
        if self.kind == "scale":
            return f"{verb} by {self.size:.0%}"
        unit = "on the log scale" if self.kind == "log-shift" else "raw units"
        return f"{verb} by {self.size:g} {unit}"
