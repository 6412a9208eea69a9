"""Durations as people and schedulers write them."""

import re

from mocli.errors import UsageError

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(d|h|m|s)")
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?")


def parse_duration(text: str, option: str) -> float:
    """Return seconds from `10m`, `3h50m`, `1.5h`, `90` (seconds), `3:50:00` or SLURM's `1-12:00:00`.

    Two fields with a colon are hours and minutes; `option` is named in the error.

    Raises
    ------
    UsageError
        If the text is none of these, or zero.
    """
    seconds = _seconds(text.strip().lower())
    if seconds is None or seconds <= 0:
        raise UsageError(
            f"{option} is not a duration",
            field=option,
            found=repr(text),
            expected="a positive duration such as 90s, 10m, 3h50m or 3:50:00",
        )
    return seconds


def _seconds(text: str) -> float | None:
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    clock = _CLOCK.fullmatch(text)
    if clock:
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return days * 86400.0 + hours * 3600.0 + minutes * 60.0 + seconds
    if re.fullmatch(f"(?:{_PART.pattern})+", text):
        parts = _PART.findall(text)
        units = [unit for _, unit in parts]
        if len(set(units)) == len(units):
            return sum(float(number) * _UNITS[unit] for number, unit in parts)
    return None
