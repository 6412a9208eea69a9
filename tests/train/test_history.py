import numpy as np
import pytest
import torch

from mocli.errors import NumericalError
from mocli.models.base import Plateau
from mocli.train.checkpoint import History


def record(history, values, name="loss"):
    for value in values:
        history.record({name: torch.tensor(float(value))})


def record_until_bad(history, *, bad_step):
    for step in range(20):
        bad = torch.tensor(float("nan") if step == bad_step else 1.0)
        history.record({"good": torch.tensor(1.0), "bad": bad})


@pytest.mark.parametrize("interval", [1, 7])
def test_the_first_term_that_is_not_finite_is_named_with_its_step(interval):
    history = History(interval)
    with pytest.raises(NumericalError) as error:
        record_until_bad(history, bad_step=4)
    assert error.value.term == "bad"
    assert error.value.step == 4
    assert error.value.exit_code == 5


def test_curves_are_block_means_and_summary_first_and_last():
    history = History(1)
    record(history, range(1000))
    curves = history.curves(n_points=10)["loss"]
    assert curves["step"] == [100.0 * i for i in range(1, 11)]
    assert curves["value"] == pytest.approx([49.5 + 100 * i for i in range(10)])
    assert history.summary()["loss"] == {"first": 9.5, "last": 989.5, "min": 0.0}


def test_state_round_trip_keeps_every_value():
    history = History(50)
    record(history, np.random.default_rng(0).normal(size=120))
    meta, tensors = history.state()
    again = History(50)
    again.restore(meta, tensors)
    assert np.array_equal(again.values(), history.values())
    assert again.terms == history.terms


def stops_at(values, plateau):
    history = History(1)
    for n, value in enumerate(values, start=1):
        record(history, [value])
        if history.flat(plateau):
            return n
    return None


def test_plateau_stops_on_a_flat_loss_and_not_on_a_falling_one():
    plateau = Plateau({"loss": 1.0}, window=50, tolerance=0.01, min_steps=100)
    rng = np.random.default_rng(0)
    t = np.arange(2000)
    decay = 10 * np.exp(-t / 100) + rng.normal(scale=0.05, size=len(t))
    stopped = stops_at(decay, plateau)
    assert stopped is not None
    assert 300 < stopped < 1000
    assert stops_at(1000 - t * 0.5, plateau) is None


def test_plateau_does_not_care_about_sign_scale_or_unnamed_terms():
    rng = np.random.default_rng(1)
    t = np.arange(1500)
    curve = np.exp(-t / 100) + rng.normal(scale=0.005, size=len(t))
    plateau = Plateau({"loss": 1.0}, window=50, tolerance=0.01, min_steps=100)
    assert stops_at(curve, plateau) == stops_at(curve * 1000 - 5000, plateau)
    history = History(1)
    history.record({"loss": torch.tensor(1.0), "other": torch.tensor(5.0)})
    assert not history.flat(plateau)
