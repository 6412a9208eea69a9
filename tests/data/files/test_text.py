"""Lines of text files, plain, packed or damaged."""

import gzip

import pytest

from mocli.data.files import text
from mocli.data.files.text import text_lines
from mocli.errors import InputError


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lines_come_with_their_numbers_however_they_are_stored(tmp_path, pack, encoding):
    (tmp_path / "names").write_bytes(pack("CD4\r\nß\n\nlast".encode(encoding)))
    assert list(text_lines(tmp_path / "names", "it")) == [(1, "CD4"), (2, "ß"), (3, ""), (4, "last")]


def test_a_small_file_that_unpacks_to_a_large_one_is_refused_while_it_is_read(tmp_path, monkeypatch):
    (tmp_path / "bomb.tsv.gz").write_bytes(gzip.compress(b"a\tb\n" * 1_000_000))
    with pytest.raises(InputError, match="too long to be one"):
        list(text_lines(tmp_path / "bomb.tsv.gz", "the link table", most=100_000))
    (tmp_path / "line.gz").write_bytes(gzip.compress(b"a" * 1_000_000))
    monkeypatch.setattr(text, "LONGEST", 1000)
    with pytest.raises(InputError) as error:
        list(text_lines(tmp_path / "line.gz", "the link table"))
    assert "in one line" in error.value.found


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\x03\x04spreadsheet", "is a spreadsheet"),
        (b"a\n\xff\xff\xff", "is not UTF-8 text"),
        (gzip.compress(b"a\n" * 1000, mtime=0)[:-20], "cannot be read"),
        (b"\x1f\x8bnot gzip", "cannot be read"),
    ],
)
def test_what_is_no_text_is_said(tmp_path, content, says):
    (tmp_path / "table").write_bytes(content)
    with pytest.raises(InputError, match=says):
        list(text_lines(tmp_path / "table", "the table"))


def test_absent_files_and_folders_are_said(tmp_path):
    (tmp_path / "links.tsv").touch()
    with pytest.raises(InputError, match="does not exist") as error:
        list(text_lines(tmp_path / "link.tsv", "the link table"))
    assert "links.tsv" in error.value.hint
    with pytest.raises(InputError, match="a folder"):
        list(text_lines(tmp_path, "the link table"))
