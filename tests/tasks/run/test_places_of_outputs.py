"""Every path that a run writes to is checked before it, by one function."""

import os
from pathlib import Path

import pytest

from mocli.errors import UsageError
from mocli.tasks.run.options import OutputOptions, RunOptions
from mocli.tasks.run.paths import Paths
from mocli.tasks.run.request import Result


def paths(output, **options):
    run = RunOptions(checkpoint_dir=options.pop("checkpoint_dir", None))
    return Paths.of(OutputOptions(output, **options), run, suffixes=(".tsv",), beside=(".effects.tsv",))


NAMES = ("o.tsv", "o.effects.tsv", "o.report.json", "o.report.html", "o.log")


def test_nothing_there_is_fine(tmp_path):
    paths(tmp_path / "o.tsv").check(force=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_where_a_file_is_written(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match="is a folder") as caught:
        paths(tmp_path / "o.tsv")
    assert caught.value.file == str(tmp_path / name)


@pytest.mark.parametrize("name", [*NAMES, "o.model", "o.ckpt"])
@pytest.mark.parametrize("there", [True, False])
def test_a_symbolic_link_is_never_followed(tmp_path, name, there):
    target = tmp_path / "elsewhere"
    if there:
        target.mkdir() if name in {"o.model", "o.ckpt"} else target.write_text("kept")
    (tmp_path / name).symlink_to(target)
    with pytest.raises(UsageError, match="is a symbolic link"):
        paths(tmp_path / "o.tsv", force=True)


@pytest.mark.parametrize("name", ["o.model", "o.ckpt"])
def test_a_file_where_a_folder_is_written(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        paths(tmp_path / "o.tsv")


def test_a_file_as_folder_of_checkpoints(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        paths(tmp_path / "o.tsv", checkpoint_dir=tmp_path / "mine")


@pytest.mark.parametrize("stem", ["x" * 252, "\u00e9" * 120, "x" * 240])
def test_a_name_that_is_too_long_with_its_endings(tmp_path, stem):
    with pytest.raises(UsageError, match="too long"):
        paths(tmp_path / f"{stem}.tsv")


def test_a_name_that_is_not_utf8(tmp_path):
    with pytest.raises(UsageError, match="not UTF-8"):
        paths(tmp_path / os.fsdecode(b"caf\xe9.tsv"))


def test_a_pipe_takes_only_the_report(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert paths(tmp_path / "o.tsv", report=tmp_path / "pipe").report == tmp_path / "pipe"
    os.mkfifo(tmp_path / "p.tsv")
    with pytest.raises(UsageError, match="a pipe, socket or device"):
        paths(tmp_path / "p.tsv", force=True)


def test_a_notebook_shows_a_result_without_pages_of_report():
    result = Result(Path("out.h5mu"), {"metrics": {"kbet": 0.5}}, [], [Path("out.log")])
    assert "out.h5mu" in repr(result)
    assert "kbet" not in repr(result)
