"""Data that was asked for, to standard output."""

import os
import sys

import typer


def emit(text: str) -> None:
    """Write text; a reader that has seen enough (`| head`) ends the command quietly.

    Raises
    ------
    typer.Exit
        With code 0 where the reader has gone.
    """
    try:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        silence()
        raise typer.Exit(0) from None


def silence() -> None:
    """Send what is still buffered to nowhere, so that the interpreter's last flush cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
