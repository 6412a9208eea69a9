"""Cells held out: when training stops, which weights it leaves with, and that resuming changes nothing."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from mocli.data.bundle import FeatureMatrix, Modality, MultiOmics
from mocli.errors import Interrupted, NumericalError
from mocli.models.base import Losses, Phase, Sampling, Schedule, StepGroup, Validation
from mocli.train.checkpoint import Checkpoints
from mocli.train.loop import Training, fit
from mocli.train.validation import split
from mocli.types import ModalityKind, Pairing


@dataclass
class Slope:
    """A model of one weight; `target` is what held-out cells want, reached and then passed."""

    speed: float = 0.05
    target: float = 1.0
    patience: int = 3
    every: int = 5
    lr_factor: float | None = None
    lr_patience: int = 2

    def __post_init__(self):
        self.module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.module.weight)
        self.path = []
        self.seen = {True: set(), False: set()}

    def phases(self, schedule, bundle):
        group = StepGroup("all", list(self.module.parameters()), lr=self.speed)
        validation = Validation(
            0.2,
            self.every,
            self.patience,
            {"reconstruction": 2.0},
            lr_factor=self.lr_factor,
            lr_patience=self.lr_patience,
        )
        sampling = Sampling(4, independent=False, replacement=False)
        return [Phase("join", (group,), sampling, schedule.max_steps, validation=validation)]

    def prepare(self, batch):
        return batch

    def losses(self, prepared, group):
        training = self.module.training
        self.seen[training] |= set(prepared.cells.tolist())
        weight = self.module.weight.sum()
        if training:
            self.path.append(float(weight.detach()))
        loss = -weight if training else (weight - self.target).square()
        return Losses({"reconstruction": loss}, loss)


def bundle(n=50):
    x = np.ones((n, 2), np.float32)
    m = Modality("rna", ModalityKind.RNA, FeatureMatrix(x, ("a", "b")), tuple(map(str, range(n))), x.sum(1))
    return MultiOmics({"rna": m}, np.arange(n)[:, None], m.obs_names, Pairing.PAIRED)


def run(model, steps=200, **kwargs):
    return fit(model, bundle(), Schedule(max_steps=steps), Training(torch.device("cpu"), seed=0, **kwargs))


def test_the_split_is_whole_seeded_and_of_the_size_asked():
    settings = Validation(0.1, 1, 1, {})
    kept, held_out = split(57, settings, 3)
    assert sorted([*kept, *held_out]) == list(range(57))
    assert len(held_out) == 6
    assert (np.diff(kept) > 0).all()
    np.testing.assert_array_equal(held_out, split(57, settings, 3)[1])
    assert list(split(57, settings, 4)[1]) != list(held_out)


def test_training_ends_when_held_out_cells_gain_nothing_and_keeps_the_best_weights():
    model = Slope()
    done = run(model)
    assert done.stop_reason == "validation"
    curve = done.history["join"]["validation"]
    best = int(np.argmin(curve["value"]))
    assert len(curve["value"]) == best + 1 + model.patience
    assert done.steps == curve["step"][-1] == (best + 4) * 5
    assert done.phases[0]["best_step"] == curve["step"][best]
    weight = float(model.module.weight.detach())
    assert 2 * (weight - model.target) ** 2 == pytest.approx(curve["value"][best], rel=1e-5, abs=1e-9)
    assert not model.seen[True] & model.seen[False]
    assert len(model.seen[False]) == 10


def test_the_end_of_the_steps_is_looked_at_too():
    model = Slope(every=1000)
    done = run(model, steps=7)
    assert done.stop_reason == "steps"
    assert done.history["join"]["validation"]["step"] == [7.0]
    assert done.phases[0]["best_step"] == 7


@pytest.mark.parametrize("lr_factor", [None, 0.1])
@pytest.mark.parametrize("stop", [40, 50])
def test_a_resumed_run_stops_at_the_same_place_with_the_same_weights(tmp_path, lr_factor, stop):
    whole = Slope(lr_factor=lr_factor, lr_patience=1)
    expected = run(whole)
    keep = Checkpoints(tmp_path / "c", fingerprint={}, resume="auto")
    interrupted = Slope(lr_factor=lr_factor, lr_patience=1)
    interrupted.losses_before = interrupted.losses
    calls = []

    def stop_early(prepared, group):
        calls.append(1)
        if len(calls) == stop:
            raise Interrupted(15, "stop")
        return interrupted.losses_before(prepared, group)

    interrupted.losses = stop_early
    with pytest.raises(Interrupted):
        run(interrupted, checkpoints=keep, checkpoint_every=0.0)
    resumed = Slope(lr_factor=lr_factor, lr_patience=1)
    done = run(resumed, checkpoints=keep)
    assert done.resumed_from_step
    assert ("lr_lowered" in done.phases[0]) == (lr_factor is not None)
    if lr_factor is not None and stop == 50:
        assert done.resumed_from_step > done.phases[0]["lr_lowered"][0]
    assert torch.equal(resumed.module.weight, whole.module.weight)
    assert (done.steps, done.history, done.phases) == (expected.steps, expected.history, expected.phases)


def test_rates_fall_on_a_plateau_before_training_ends():
    """Adam steps by the learning rate where the slope is constant: the path tells it."""
    model = Slope(lr_factor=0.1, lr_patience=2, patience=3)
    done = run(model)
    values, steps = (done.history["join"]["validation"][k] for k in ("value", "step"))
    best = int(np.argmin(values))
    lowered = done.phases[0]["lr_lowered"]
    # two looks in vain, then every two more; three after the first time end it
    assert lowered == [steps[best + 2], steps[best + 4]]
    assert done.steps == steps[best + 5]
    pace = np.diff(model.path)
    assert pace[: lowered[0] - 1] == pytest.approx(0.05, rel=1e-3)
    assert pace[lowered[0] : lowered[1] - 1] == pytest.approx(0.005, rel=1e-3)
    assert pace[lowered[1] :] == pytest.approx(0.0005, rel=1e-2)
    assert done.phases[0]["best_step"] == steps[best]


def test_an_end_needs_a_fall_of_rates_first_and_without_them_is_as_before():
    patient = run(Slope(lr_factor=0.5, lr_patience=6, patience=2))
    best = int(np.argmin(patient.history["join"]["validation"]["value"]))
    assert patient.phases[0]["lr_lowered"] == [5 * (best + 7)]
    assert patient.steps == 5 * (best + 9)
    assert "lr_lowered" not in run(Slope()).phases[0]


def test_a_loss_that_is_not_finite_is_an_error_of_numbers():
    with pytest.raises(NumericalError, match="held-out"):
        run(Slope(target=float("nan")), steps=20)
