"""Durations, scalars and pairs as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mocli.cli.durations import parse_duration
from mocli.cli.sizes import parse_size
from mocli.cli.values import Pairs, count, scalar, share_or_count, text
from mocli.errors import UsageError


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
    assert parse_duration(written, "--max-time") == seconds


@pytest.mark.parametrize(
    "written", ["", "0", "0m", "-5m", "m", "10x", "5m5m", "h3", "1:2:3:4", "inf", "nan", "ten"]
)
def test_bad_durations(written):
    with pytest.raises(UsageError, match="--max-time"):
        parse_duration(written, "--max-time")


@given(st.integers(0, 9), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_clock_and_units_agree(d, h, m, s):
    if d + h + m + s:
        clock = parse_duration(f"{d}-{h}:{m:02d}:{s:02d}", "-")
        assert clock == parse_duration(f"{d}d{h}h{m}m{s}s", "-") == ((d * 24 + h) * 60 + m) * 60 + s


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
    assert Pairs("MOD=LAYER", text).read(["a=x=y", "b=1", "a=z"], "--layer") == {"a": "z", "b": "1"}


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
    assert parse_size(written, "--max-memory") == n_bytes


@pytest.mark.parametrize("written", ["", "0", "0G", "-5G", "G", "10x", "5iB", "ten", "1.5.2G", "inf"])
def test_bad_sizes(written):
    with pytest.raises(UsageError, match="--max-memory"):
        parse_size(written, "--max-memory")
