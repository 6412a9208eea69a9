"""Lines of text files: plain or gzipped, UTF-8 or UTF-16, up to a sensible size."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mocli.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd  # heavy

MOST = 1 << 29
"""Most characters of a table that is read into memory; a longer one is not a table of names."""

LONGEST = 1 << 24
"""Most characters of a line."""

_TABLES = frozenset({".tsv", ".csv", ".txt", ".bedpe", ".gtf", ".gff3", ".bed", ".gmt"})
_BOMS = (b"\xff\xfe", b"\xfe\xff")


def text_lines(
    path: str | Path, what: str, *, expected: str | None = None, most: int = MOST
) -> Iterator[tuple[int, str]]:
    """Yield numbered lines, from 1, without their ends; `-` is standard input.

    Args:
        what: What the file is, for messages: `the link table`.
        expected: What it should hold, for messages.
        most: It is refused after this many characters, as a gzip file can unpack to any size.

    Raises:
        InputError: The file is absent, a folder, a spreadsheet, no text, damaged, or far too long.
    """
    file = "standard input" if str(path) == "-" else str(path)
    number = 0
    try:
        with sys.stdin.buffer if str(path) == "-" else Path(path).open("rb") as raw, _unpacked(raw) as data:
            head = data.peek(4)[:4]
            if head == b"PK\x03\x04":
                hint = "save it as tab-separated text"
                raise InputError(f"{what} is a spreadsheet", file=file, expected=expected, hint=hint)
            encoding = "utf-16" if head[:2] in _BOMS else "utf-8-sig"
            stream, total = io.TextIOWrapper(data, encoding=encoding), 0
            for number in count(1):
                line = stream.readline(LONGEST + 1)
                total += len(line)
                if len(line) > LONGEST or total > most:
                    raise InputError(
                        f"{what} is too long to be one",
                        file=file,
                        found=f"more than {min(total, most):,} characters"
                        + (" in one line" if len(line) > LONGEST else ""),
                        expected=expected,
                    )
                if not line:
                    return
                yield number, line.rstrip("\r\n")
    except FileNotFoundError:
        raise absent(Path(path), what, _TABLES, "tables") from None
    except IsADirectoryError:
        raise InputError(f"a folder was given for {what}", file=file, hint="name the file inside") from None
    except UnicodeError:
        hint = "save it as UTF-8"
        found = f"line {max(number, 1)} or the lines after it hold other bytes"
        raise InputError(f"{what} is not UTF-8 text", file=file, found=found, hint=hint) from None
    except (OSError, EOFError, zlib.error) as error:
        hint = "copy or write it again"
        raise InputError(f"{what} cannot be read", file=file, found=error, hint=hint) from error


def tab_separated(
    path: str | Path, what: str, *, expected: str, fewest: int, most: int | None = None
) -> pd.DataFrame:
    """Read columns of text without a header, named 0, 1, ...; empty lines and those after `#` are left out.

    Args:
        what, expected: As for `text_lines`.
        fewest, most: Columns that there must be.

    Raises:
        InputError: As `text_lines` raises it; or a line has fewer columns, or more.
    """
    import pandas as pd  # heavy

    rows: list[list[str]] = []
    for number, line in text_lines(path, what, expected=expected):
        if line.strip() and not line.startswith("#"):
            rows.append(line.split("\t"))
            if not fewest <= len(rows[-1]) <= (most or len(rows[-1])):
                found = f"line {number} has {len(rows[-1])}"
                raise InputError(
                    f"{what} has another number of columns", file=path, found=found, expected=expected
                )
    if not rows:
        raise InputError(f"{what} is empty", file=path, expected=expected)
    return pd.DataFrame(rows).fillna("")


def _unpacked(stream: Any) -> io.BufferedReader:
    raw = io.BufferedReader(stream)
    if raw.peek(2)[:2] != b"\x1f\x8b":
        return raw
    unpacked: Any = gzip.GzipFile(fileobj=raw)
    return io.BufferedReader(unpacked)


def absent(path: Path, what: str, suffixes: Collection[str], others: str) -> InputError:
    """Return the error for a file that is not there, with the nearest names of files with such suffixes.

    Args:
        what, others: What the file is, and those beside it, for the message.
    """
    if not path.parent.is_dir():
        found, hint = f"no folder {path.parent}", "paths are relative to the working folder"
    else:
        found, names = None, []
        with suppress(OSError):
            names = sorted(p.name for p in path.parent.iterdir() if {*p.suffixes} & {*suffixes})
        hint = did_you_mean(path.name, names, f"{others} in that folder")
    return InputError(f"{what} does not exist", file=path, found=found, hint=hint)
