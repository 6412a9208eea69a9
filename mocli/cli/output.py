"""Write requested data to standard output: text, and aligned columns of text."""

import os
import sys
from collections.abc import Sequence

import typer

from mocli.errors import printable


def emit(text: str, *, data: bool = False) -> None:
    """Write text; if the reader stops (`| head`), the command ends quietly.

    Control characters are shown, not sent; those of `data` only where a person reads it.

    Raises `typer.Exit` with code 0 if the reader has stopped.
    """
    if not data or sys.stdout.isatty():
        text = printable(text)
    try:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        silence()
        raise typer.Exit(0) from None


def silence() -> None:
    """Send what is still buffered to nowhere, so that the interpreter's last flush cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return `header` and `rows` with two blanks between columns; nothing is cut or wrapped."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    padded = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)
    return "\n".join(padded)
