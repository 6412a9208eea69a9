"""Names, numbers, durations, sizes and pairs as people write them."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mocli.cli.settings import read_pairs
from mocli.errors import InputError, UsageError
from mocli.options import declared_in
from mocli.parsing import count, duration, names, numbers, scalar, share_or_count, size, whole_numbers
from mocli.tasks.run.options import DataOptions


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("10m", 600),
        ("1.5h", 5400),
        ("3h50m", 13800),
        ("1d2h", 93600),
        ("2H5M10S", 7510),
        ("3:50", 13800),
        ("3:50:00", 13800),
        ("00:10:00", 600),
        ("1-12:00:00", 129600),
        (" 10m ", 600),
    ],
)
def test_durations(written, seconds):
    assert duration(written, "--max-time") == seconds


@pytest.mark.parametrize(
    "written", ["", "0", "0m", "-5m", "m", "10x", "5m5m", "h3", "1:2:3:4", "inf", "nan", "ten"]
)
def test_bad_durations(written):
    with pytest.raises(UsageError, match="--max-time"):
        duration(written, "--max-time")


@given(st.integers(0, 9), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_clock_and_units_agree(d, h, m, s):
    if d + h + m + s:
        clock = duration(f"{d}-{h}:{m:02d}:{s:02d}", "-")
        assert clock == duration(f"{d}d{h}h{m}m{s}s", "-") == ((d * 24 + h) * 60 + m) * 60 + s


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1", 1),
        ("-2", -2),
        ("1e-3", 1e-3),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("true", True),
        ("False", False),
        ("none", None),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ("kaiming", "kaiming"),
        ("no", "no"),
        ("1-2", "1-2"),
        ('"5"', "5"),
        ("[1, 2", "[1, 2"),
        ("nan", "nan"),
        (3, 3),
        ([1], [1]),
    ],
)
def test_scalars(written, value):
    got = scalar(written, "--set")
    assert got == value
    assert type(got) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_survive(number):
    assert scalar(repr(number), "--set") == number


def test_pairs_keep_equal_signs_and_take_the_last():
    layer = declared_in(DataOptions)["layer"]
    assert read_pairs(["a=x=y", "b=1", "a=z"], layer, "--layer") == {"a": "z", "b": "1"}


@pytest.mark.parametrize("value", [True, 0, -1, 1.5, "x", None])
def test_counts_refuse(value):
    with pytest.raises(UsageError, match="whole number"):
        count(value, "--hvg")


@pytest.mark.parametrize(("value", "found"), [("0.01", 0.01), (0.5, 0.5), ("10", 10), (3.0, 3), ("1", 1)])
def test_shares_and_counts(value, found):
    assert share_or_count(value, "--seen-in") == found


@pytest.mark.parametrize("value", [True, 0, -1, 1.5, "x", None, "inf", "nan"])
def test_shares_and_counts_refuse(value):
    with pytest.raises(UsageError, match="share of the cells or a number"):
        share_or_count(value, "--seen-in")


@pytest.mark.parametrize(
    ("written", "n_bytes"),
    [
        ("16G", 16e9),
        ("500MB", 5e8),
        ("7.5GiB", 7.5 * 2**30),
        ("8000000000", 8e9),
        ("64k", 64e3),
        (" 1 T ", 1e12),
    ],
)
def test_sizes(written, n_bytes):
    assert size(written, "--max-memory") == n_bytes


@pytest.mark.parametrize("written", ["", "0", "0G", "-5G", "G", "10x", "5iB", "ten", "1.5.2G", "inf"])
def test_bad_sizes(written):
    with pytest.raises(UsageError, match="--max-memory"):
        size(written, "--max-memory")


def test_names_from_text_files_and_lists(tmp_path):
    plain, packed = tmp_path / "names.txt", tmp_path / "names.txt.gz"
    plain.write_text("A\n\nB \nA\n")
    packed.write_bytes(gzip.compress(b"A\nB\n"))
    for text in ("A, B,A", str(plain), packed, ["A", "B"]):
        assert names(text, "--features") == ("A", "B")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x01", b"\x1f\x8b broken"])
def test_a_file_of_names_that_is_no_text(tmp_path, content):
    (tmp_path / "names").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as text"):
        names(tmp_path / "names", "--features")


def test_a_long_list_of_names_is_no_file():
    assert len(names(",".join(f"gene{i}" for i in range(2000)), "--genes")) == 2000


@pytest.mark.parametrize(("given", "read"), [("0,1,1", (0, 1)), ([3, 2], (3, 2)), (4, (4,))])
def test_whole_numbers(given, read):
    assert whole_numbers(given, "--seeds") == read


@pytest.mark.parametrize("given", ["", "0,x", "-1", "1.5", "inf"])
def test_bad_whole_numbers(given):
    with pytest.raises(UsageError, match="--seeds takes whole numbers"):
        whole_numbers(given, "--seeds")


def test_shares_lie_below_one():
    assert numbers("0.1,0.5", "--corrupt", most=1.0) == (0.1, 0.5)
    with pytest.raises(UsageError, match="between 0 and 1"):
        numbers("0.1,1", "--corrupt", most=1.0)
