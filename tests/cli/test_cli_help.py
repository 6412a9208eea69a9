"""Help texts are committed files; nothing heavy is imported to show them.

After a wanted change: UPDATE_SNAPSHOTS=1 python -m pytest tests/cli
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mocli import __version__
from mocli.cli.app import app
from mocli.cli.command import SHARED, options_of
from mocli.cli.parameters import MOST_FORM
from mocli.options import MISSING, declared_by

SNAPSHOTS = Path(__file__).parent / "snapshots"
ENVIRONMENT = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "TERMINAL_WIDTH": "", "FORCE_COLOR": ""}
COMMANDS = [
    "",
    "integrate",
    "impute",
    "simulate",
    "perturb",
    "gene2peak",
    "benchmark",
    "models",
    "params",
    "links",
    "links build",
    "links check",
    "demo",
    "doctor",
    "export",
]
SUBCOMMANDS = ["integrate", "impute", "simulate", "perturb", "gene2peak", "benchmark"]


def words(text: str) -> list[str]:
    """Return the words, without what differs between versions of typer: boxes and brackets."""
    plain = re.sub(r"[╭╮╰╯─│]", " ", text)
    return re.sub(r"[{}\[\]]|\.\.\.", "", plain).split()


def show(*args: str) -> str:
    result = CliRunner().invoke(app, list(args), env=ENVIRONMENT, prog_name="mocli")
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("command", SUBCOMMANDS)
def test_no_word_of_a_choice_is_broken_in_a_narrow_terminal(command):
    narrow = {**ENVIRONMENT, "COLUMNS": "80"}
    text = CliRunner().invoke(app, [command, "--help-all"], env=narrow, prog_name="mocli").stdout
    forms = {d.option.metavar for d in declared_by((options_of(command), *SHARED)).values()}
    choices = [form for form in forms if re.fullmatch(r"[a-z]+(\|[a-z]+)+", form)]
    assert choices
    assert [form for form in choices if len(form) <= MOST_FORM and form not in text] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_the_committed_one(command):
    text = show(*command.split(), "--help")
    file = SNAPSHOTS / f"{command.replace(' ', '-') or 'mocli'}.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        file.write_text("\n".join(line.rstrip() for line in text.splitlines()).strip() + "\n")
    assert words(text) == words(file.read_text())


def test_every_command_has_a_snapshot():
    names = {file.stem for file in SNAPSHOTS.glob("*.txt")}
    assert names == {"mocli", *(command.replace(" ", "-") for command in COMMANDS)} - {""}
    assert registered(app) == names - {"mocli"}


def registered(group: typer.Typer) -> set[str]:
    """Every command, those of a group as `group-command`."""
    names = {c.name or c.callback.__name__ for c in group.registered_commands}
    for inner in group.registered_groups:
        names |= {inner.name, *(f"{inner.name}-{name}" for name in registered(inner.typer_instance))}
    return names


def test_short_and_long_help_agree():
    assert show("integrate", "-h") == show("integrate", "--help")


@pytest.mark.parametrize("command", SUBCOMMANDS)
def test_help_is_short_and_starts_with_what_the_subcommand_alone_has(command):
    group = options_of(command)
    own = next(d for d in declared_by((group,)).values() if d.option.panel == group.PANEL)
    text = show(command, "-h")
    shown = re.findall(r"^│ +(--[a-z-]+)", text, re.MULTILINE)
    assert shown[0] == own.long
    assert len(shown) <= 32
    assert {"--output", "--links", "--help-all", "--help"} <= set(shown)


@pytest.mark.parametrize("command", SUBCOMMANDS)
def test_all_options_and_their_defaults_are_shown_on_request(command):
    text = " ".join(words(show(command, "--help-all")))
    for declared in declared_by((options_of(command), *SHARED)).values():
        said = declared.option
        assert "[" not in said.help, "the help text takes it for markup"
        assert declared.long in text
        assert " ".join(words(said.help))[:20] in text
        if said.shown is not None:
            assert said.shown.split()[0] in text
        if said.shown is not None or declared.default not in (None, (), {}, MISSING, False, 0):
            assert "default:" in text


def test_no_default_is_lost():
    """As many as there are: markup swallows what stands in brackets."""
    for command in SUBCOMMANDS:
        text = " ".join(words(show(command, "--help-all")))
        options = declared_by((options_of(command), *SHARED)).values()
        counted = [d for d in options if d.option.more.get("count")]
        least = [d for d in options if d.option.shown or isinstance(d.default, (str, int, float))]
        flags = [d for d in least if d.default is False and not d.option.shown]
        assert text.count("default:") == len(least) - len(flags) - len(counted)


def test_no_types_of_python_are_shown():
    for command in COMMANDS:
        for flag in ("--help", *(["--help-all"] if command in SUBCOMMANDS else [])):
            assert not re.search(r"<(bool|str|int|list|path)|INTEGER|TEXT", show(*command.split(), flag))


def test_no_arguments_show_the_help():
    assert words(show()) == words(show("-h"))


def test_version_is_the_bare_number():
    assert show("--version") == f"{__version__}\n"


def test_subcommands_stand_in_workflow_order():
    names = [c.name or c.callback.__name__ for c in app.registered_commands]
    workflow = [name for name in names if name in SUBCOMMANDS]
    assert workflow == [name for name in SUBCOMMANDS if name in workflow]
    assert names[: len(workflow)] == workflow


def test_options_without_a_function_are_absent():
    text = show("integrate", "--help")
    for name in ("--precision", "--backed", "--from-model", "--max-epochs"):
        assert name not in text


def test_the_command_line_imports_nothing_heavy():
    heavy = [
        "torch",
        "numpy",
        "scipy",
        "pandas",
        "anndata",
        "mudata",
        "scanpy",
        "sklearn",
        "h5py",
        "pydantic",
    ]
    code = f"import sys, mocli.cli.app; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_list_of_commands_does_without_their_options():
    code = (
        "import sys; from mocli.__main__ import main; main(['-h'])\n"
        "sys.exit(99 if {'mocli.options', 'mocli.models.registry', 'mocli.log'} & set(sys.modules) else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_help_of_a_process_imports_nothing_heavy_and_writes_only_stdout():
    code = (
        "import sys; from mocli.__main__ import main; code = main(['integrate', '-h'])\n"
        "heavy = {'torch', 'numpy', 'pandas', 'anndata', 'scanpy'} & set(sys.modules)\n"
        "sys.exit(99 if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "Usage:" in done.stdout
