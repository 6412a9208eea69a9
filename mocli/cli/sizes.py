"""Amounts of memory as people and schedulers write them."""

import re

from mocli.errors import UsageError

_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BINARY = {"K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def parse_size(text: str, option: str) -> float:
    """Return bytes from `16G`, `500MB`, `7.5GiB` or `8000000000`; `option` is named in the error.

    Raises
    ------
    UsageError
        If the text is none of these, or zero.
    """
    found = _SIZE.fullmatch(str(text).strip())
    n = 0.0
    if found is not None and not (found[3] and not found[2]):
        unit = found[2].upper()
        n = float(found[1]) * (_BINARY[unit] if found[3] else _UNITS[unit])
    if n <= 0:
        raise UsageError(
            f"{option} is not an amount of memory",
            field=option,
            found=repr(text),
            expected="bytes, such as 16G, 500MB or 7.5GiB",
        )
    return n
