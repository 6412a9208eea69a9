"""Cells held out: when training stops, which weights it leaves with, and that resuming changes nothing."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from mocli.data.bundle import FeatureMatrix, Modality, MultiOmics
from mocli.errors import Interrupted, NumericalError
from mocli.models.base import Group, Losses, Phase, Sampling, Schedule, Validation
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

    def __post_init__(self):
        self.module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.module.weight)
        self.seen = {True: set(), False: set()}

    def phases(self, schedule, bundle):
        group = Group("all", list(self.module.parameters()), lr=self.speed)
        validation = Validation(0.2, self.every, self.patience, {"reconstruction": 2.0})
        sampling = Sampling(4, independent=False, replacement=False)
        return [Phase("join", (group,), sampling, schedule.max_steps, validation=validation)]

    def prepare(self, batch):
        return batch

    def losses(self, prepared, group):
        training = self.module.training
        self.seen[training] |= set(prepared.cells.tolist())
        weight = self.module.weight.sum()
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


def test_a_resumed_run_stops_at_the_same_place_with_the_same_weights(tmp_path):
    whole = Slope()
    expected = run(whole)
    keep = Checkpoints(tmp_path / "c", fingerprint={}, resume="auto")
    interrupted = Slope()
    interrupted.losses_before = interrupted.losses
    calls = []

    def stop_early(prepared, group):
        calls.append(1)
        if len(calls) == 40:
            raise Interrupted(15, "stop")
        return interrupted.losses_before(prepared, group)

    interrupted.losses = stop_early
    with pytest.raises(Interrupted):
        run(interrupted, checkpoints=keep, checkpoint_every=0.0)
    resumed = Slope()
    done = run(resumed, checkpoints=keep)
    assert done.resumed_from_step
    assert torch.equal(resumed.module.weight, whole.module.weight)
    assert (done.steps, done.history, done.phases) == (expected.steps, expected.history, expected.phases)


def test_a_loss_that_is_not_finite_is_an_error_of_numbers():
    with pytest.raises(NumericalError, match="held-out"):
        run(Slope(target=float("nan")), steps=20)
