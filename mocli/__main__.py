"""The entry point: run the command line and turn whatever happens into an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mocli` with `argv` (else the process's arguments) and return the exit code.

    No exception leaves this function: see `mocli.errors` for the codes.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    _open_streams()
    try:
        return _run(argv)
    except KeyboardInterrupt:
        return _interrupted(argv)
    except Exception as error:  # noqa: BLE001 - the one place where every exception ends
        return _failed(error, argv)


def _failed(error: Exception, argv: list[str]) -> int:
    try:
        from mocli.cli.output import fail

        return fail(error, argv)
    except MemoryError:
        # there is not even enough to load what words it
        os.write(2, b"mocli: error: there is too little memory, not even enough to start (ulimit -v?)\n")
        return 137


def _open_streams() -> None:
    """Give closed streams a place: the next file that is opened would take it, and what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def _run(argv: list[str]) -> int:
    # threads that wait must sleep: spinning ones slow a shared node several times over
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import typer

    from mocli.cli.app import build, needed

    try:
        app = build(needed(argv, os.environ))
        code = app(args=argv, prog_name="mocli", standalone_mode=False, obj={"argv": argv})
    except typer.Abort:
        code = 130
    except SystemExit as error:
        # so end completions of a shell; and typer and rich when a pipe was closed: the reader has seen enough
        code = 0 if isinstance(error.__context__, OSError) else error.code
    if code == 130:
        return _interrupted(argv)
    return code if isinstance(code, int) else 0


def _interrupted(argv: list[str]) -> int:
    from signal import SIGINT

    from mocli.cli.output import fail
    from mocli.errors import Interrupted

    return fail(Interrupted(SIGINT, "interrupted"), argv)


if __name__ == "__main__":
    sys.exit(main())
