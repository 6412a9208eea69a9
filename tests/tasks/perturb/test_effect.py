"""Effects of perturbations against their formulas."""

import numpy as np
import pytest

from mocli.errors import UsageError
from mocli.tasks.perturb.cells import Effect

X = np.array([0.0, 1.0, 4.0, 10.0])
FACTOR = np.array([2.0, 0.5, 1.5, 0.0])


@pytest.mark.parametrize(
    ("text", "direction", "expected"),
    [
        ("scale=0.5", "up", 1.5 * X),
        ("scale=0.5", "down", 0.5 * X),
        ("scale", "down", 0.5 * X),
        ("knockout", "down", 0 * X),
        ("count-shift", "up", X + 1),
        ("count-shift=2", "down", [0, 0, 2, 8]),
        # cells without any signal (factor 0) stay as they are
        ("log-shift=1", "up", [(np.e - 1) / 2, (np.e * 1.5 - 1) / 0.5, (np.e * 7 - 1) / 1.5, 10]),
        ("log-shift=1", "down", [0, 0, (7 / np.e - 1) / 1.5, 10]),
    ],
)
def test_values_change_as_said(text, direction, expected):
    found = Effect.parse(text).apply(X, FACTOR, direction, logged=False)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_logged_values_are_shifted_as_they_are():
    found = Effect.parse("log-shift=1").apply(np.array([0.5, 3.0, -1.0]), np.ones(3), "down", logged=True)
    np.testing.assert_allclose(found, [0, 2, -2])


def test_zeros_change_only_where_something_is_added():
    assert Effect.parse("log-shift=1").reaches_zeros("up")
    assert not Effect.parse("log-shift=1").reaches_zeros("down")
    assert not Effect.parse("scale=0.5").reaches_zeros("up")


@pytest.mark.parametrize("text", ["scal=0.5", "scale=", "scale=-1", "scale=x", "knockout=1", "log-shift=nan"])
def test_what_cannot_be_meant_is_refused(text):
    with pytest.raises(UsageError):
        Effect.parse(text)


def test_directions():
    assert Effect.parse("scale").directions(None) == ("up", "down")
    assert Effect.parse("knockout").directions("both") == ("down",)
    assert Effect.parse("scale=2").directions("up") == ("up",)
    for text, direction in (("knockout", "up"), ("scale=2", "both"), ("scale", "sideways")):
        with pytest.raises(UsageError):
            Effect.parse(text).directions(direction)


def test_towards_takes_the_mean_logs_to_those_of_the_targets():
    effect = Effect.parse("towards")
    assert effect.directions(None) == ("towards",)
    up, direction = effect.of_feature(0.7, 0.4)
    assert (up, direction) == (Effect("log-shift", 0.7), "up")
    down, direction = effect.of_feature(-0.2, 0.8)
    assert direction == "down"
    factor = np.array([2.0, 0.5, 1.5, 1.0])
    before = np.log1p(X * factor)
    down, _ = effect.of_feature(-0.2, before.mean())
    after = np.log1p(down.apply(X, factor, "down", logged=False) * factor)
    assert after.mean() == pytest.approx(before.mean() - 0.2)
    half, _ = Effect.parse("towards=0.5").of_feature(0.7, 0.4)
    assert half.size == pytest.approx(0.35)
