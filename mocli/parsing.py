"""Parse values: choices, names, numbers, durations, sizes; each error names the option.

A parser takes a value (text of the command line, a value of a config file, or one from Python) and the name
of its option, and returns the value or raises `UsageError`.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mocli.errors import InputError, UsageError, did_you_mean

MOST = 2**31 - 1
"""Of whole numbers, such as seeds: what every library takes."""

Parser = Callable[[Any, str], Any]

_DURATIONS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(d|h|m|s)")
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?")
_SIZES = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BINARY = {"K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def one_of(value: Any, choices: Sequence[str], option: str) -> str:
    """Return `value` if it is a choice; else a usage error with the nearest ones."""
    if value not in choices:
        raise UsageError(
            f"{option.split(' (')[0]} does not accept '{value}'",
            field=option,
            expected=", ".join(choices),
            hint=did_you_mean(str(value), choices),
        )
    return str(value)


def among(*choices: str) -> Parser:
    """Return a parser that takes one of `choices`."""
    return lambda value, option: one_of(value, choices, option)


def text(value: Any, option: str) -> str:
    """Take text."""
    if isinstance(value, (bool, dict, list)) or value is None:
        raise UsageError(
            f"{option} takes text", field=option, found=repr(value), hint="put the value in quotes"
        )
    return str(value)


def count(value: Any, option: str) -> int:
    """Take a whole number above zero, and of at most `MOST`."""
    if not isinstance(value, bool) and re.fullmatch(r"\+?\d+", str(value)) and 0 < int(value) <= MOST:
        return int(value)
    raise UsageError(f"{option} takes a whole number from 1 to {MOST:,}", field=option, found=repr(value))


def positive(value: Any, option: str) -> float:
    """Take a finite number above zero."""
    number = _number(value)
    if number is None or not 0 < number < math.inf:
        raise UsageError(f"{option} must be above zero", field=option, found=str(value))
    return value if isinstance(value, (int, float)) else number


def positive_or_none(value: Any, option: str) -> float | None:
    """Take a finite number above zero, or `none`."""
    return None if str(value).lower() == "none" else positive(value, option)


def column_or_none(value: Any, option: str) -> str:
    """Take the name of a column; `none` is the empty name."""
    name = text(value, option)
    return "" if name.lower() == "none" else name


def between(value: Any, option: str, *, ends: bool) -> float:
    """Take a number from 0 to 1; the two ends themselves only if `ends`."""
    number = _number(value)
    if number is None or not (0 <= number <= 1) or (not ends and number in {0, 1}):
        raise UsageError(
            f"{option} takes a number between 0 and 1", field=option, found=str(value), hint="such as 0.9"
        )
    return number


share, share_or_end = partial(between, ends=False), partial(between, ends=True)


def share_or_count(value: Any, option: str) -> float:
    """Take a share of the cells, below one, or a whole number of them."""
    number = _number(value)
    if number is not None and 0 < number < 1:
        return number
    if number is not None and 1 <= number < math.inf and number == number // 1:
        return int(number)
    raise UsageError(
        f"{option} takes a share of the cells or a number of them",
        field=option,
        found=repr(value),
        expected="a number below one such as 0.01, or a whole one such as 10",
    )


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def numbers(value: Any, option: str, *, whole: bool = False, most: float | None = None) -> tuple[Any, ...]:
    """Take `0,1,2`, or numbers as they are; none is negative, and all are below `most`."""
    items = value.split(",") if isinstance(value, str) else [value] if _number(value) is not None else value
    values: list[float] = []
    for item in items:
        number = _number(item)
        if (
            number is None
            or not 0 <= number < math.inf
            or (whole and (number != int(number) or number > MOST))
            or (most is not None and not 0 < number < most)
        ):
            kind = "whole numbers" if whole else "numbers" + (" between 0 and 1" if most else "")
            raise UsageError(
                f"{option} takes {kind} separated by commas",
                field=option,
                found=repr(str(item)),
                hint="such as " + ("0,1,2" if whole else "0.1,0.5"),
            )
        values.append(int(number) if whole else number)
    return tuple(dict.fromkeys(values))


whole_numbers, shares = partial(numbers, whole=True), partial(numbers, most=1.0)


def names(value: str | Path | Sequence[str], option: str) -> tuple[str, ...]:
    """Take names from `A,B`, from a file (also gzip-compressed) with one a line, or as they are.

    Raises `UsageError` or `InputError`: there is no name; the file is not text.
    """
    if isinstance(value, (str, Path)):
        path = Path(value)
        lines = _lines(path, option) if _is_file(path) else str(value).split(",")
        value = [line.strip() for line in lines if line.strip()]
        if not value:
            raise UsageError(f"{option} holds no name", field=option, file=path if _is_file(path) else None)
    return tuple(dict.fromkeys(str(name) for name in value))


def is_table(path: Path) -> bool:
    """Say whether a file has columns, like a gene table, and not one name a line."""
    if not _is_file(path):
        return False
    lines = [line for line in _lines(path, "--genes") if line.strip() and not line.startswith("#")]
    return bool(lines) and all("\t" in line for line in lines[:10])


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a list of names may be longer than a name of a file
        return False


def _lines(path: Path, option: str) -> list[str]:
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig").splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(
            "the file of names cannot be read as text",
            file=path,
            field=option,
            found=getattr(error, "strerror", None) or str(error),
            expected="one name a line, plain or gzip-compressed",
        ) from None


def words(value: str | Sequence[str], _option: str) -> tuple[str, ...]:
    """Take words separated by commas, or a sequence of words."""
    items = value.split(",") if isinstance(value, str) else list(value)
    return tuple(dict.fromkeys(item.strip() for item in items if item.strip()))


def scalar(value: Any, _option: str) -> Any:
    """Take a number, true, false, null or a JSON list as such; anything else as text.

    `1e-3` is a number here, though YAML 1.1 reads it as text.
    """
    if not isinstance(value, str):
        return value
    meanings: dict[str, Any] = {"true": True, "false": False, "none": None, "null": None}
    if value.lower() in meanings:
        return meanings[value.lower()]
    if re.fullmatch(r"[+-]?\d+", value):
        return int(value)
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value):
        return float(value)
    if value[:1] in '[{"':
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def device(value: Any, option: str) -> str:
    """Take `auto`, `cpu`, `cuda`, `cuda:N`; whether it exists is for the run to find."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(value)):
        raise UsageError(
            f"'{value}' is not a device",
            field=option,
            expected="auto, cpu, cuda or cuda:N",
            hint=did_you_mean(str(value), ["auto", "cpu", "cuda", "cuda:0"]),
        )
    return str(value)


def duration(value: Any, option: str) -> float:
    """Return seconds from `10m`, `3h50m`, `1.5h`, `90` (seconds), `3:50:00` or SLURM's `1-12:00:00`.

    Two fields with a colon are hours and minutes.

    Raises `UsageError` if the text is none of these, or zero.
    """
    seconds = _seconds(str(value).strip().lower())
    if seconds is None or seconds <= 0:
        raise UsageError(
            f"{option} is not a duration",
            field=option,
            found=repr(value),
            expected="a positive duration such as 90s, 10m, 3h50m or 3:50:00",
        )
    return seconds


def _seconds(written: str) -> float | None:
    if re.fullmatch(r"\d+(\.\d+)?", written):
        return float(written)
    clock = _CLOCK.fullmatch(written)
    if clock:
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return days * 86400.0 + hours * 3600.0 + minutes * 60.0 + seconds
    if re.fullmatch(f"(?:{_PART.pattern})+", written):
        parts = _PART.findall(written)
        units = [unit for _, unit in parts]
        if len(set(units)) == len(units):
            return sum(float(number) * _DURATIONS[unit] for number, unit in parts)
    return None


def size(value: Any, option: str) -> float:
    """Return bytes from `16G`, `500MB`, `7.5GiB` or `8000000000`.

    Raises `UsageError` if the text is none of these, or zero.
    """
    parts = _SIZE.fullmatch(str(value).strip())
    n = 0.0
    if parts is not None and not (parts[3] and not parts[2]):
        unit = parts[2].upper()
        n = float(parts[1]) * (_BINARY[unit] if parts[3] else _SIZES[unit])
    if n <= 0:
        raise UsageError(
            f"{option} is not an amount of memory",
            field=option,
            found=repr(value),
            expected="bytes, such as 16G, 500MB or 7.5GiB",
        )
    return n
