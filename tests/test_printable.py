"""Names in files cannot write to the terminal: nothing printed or logged holds a control character."""

import io
import json
import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mocli import log
from mocli.cli import output
from mocli.cli.output import emit
from mocli.errors import InputError, printable

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
names = st.text(st.characters(exclude_categories=()))


@given(names)
def test_nothing_but_tabs_and_ends_of_lines_is_left(name):
    shown = printable(name)
    assert not CONTROL.search(shown)
    assert isinstance(shown.encode(), bytes)
    if not CONTROL.search(name) and name.isprintable():
        assert shown == name


def test_an_escape_is_shown_as_it_is_written():
    assert printable("a\x1b[31mred\x07\u202eb\n\tc") == "a\\x1b[31mred\\x07\\u202eb\n\tc"


@given(names)
@pytest.mark.parametrize("formatter", [log.TextFormatter(), log.JsonFormatter()])
def test_no_record_holds_one(formatter, name):
    record = logging.LogRecord("mocli", logging.INFO, "", 0, "%s", (name,), None)
    record.fields = {"name": name}
    line = formatter.format(record)
    assert not CONTROL.search(line)
    if isinstance(formatter, log.JsonFormatter):
        assert set(json.loads(line)) >= {"message", "name"}
        assert "\n" not in line


@given(names)
@pytest.mark.parametrize("argv", [[], ["--log-format", "json"]])
def test_no_error_holds_one(argv, name):
    with pytest.MonkeyPatch.context() as patch:
        stderr = io.StringIO()
        patch.setattr("sys.stderr", stderr)
        error = InputError(f"no '{name}'", file=name, field=name, found=name, expected=name, hint=name)
        assert output.fail(error, argv) == 3
        assert output.fail(ValueError(name), argv) == 1
    assert stderr.getvalue()
    assert not CONTROL.search(stderr.getvalue())


@given(names)
def test_no_output_holds_one(name):
    with pytest.MonkeyPatch.context() as patch:
        stdout = io.StringIO()
        patch.setattr("sys.stdout", stdout)
        emit(name)
    assert not CONTROL.search(stdout.getvalue())


def test_data_for_programs_stays_as_it_is(capsys):
    emit('{"name": "a\x9bb"}', data=True)
    assert json.loads(capsys.readouterr().out) == {"name": "a\x9bb"}
