"""Learning rates that fall where the loss of training is flat: when, how far, and the same after a resume."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from mocli.data.bundle import FeatureMatrix, Modality, MultiOmics
from mocli.errors import Interrupted
from mocli.models.base import Losses, Phase, Plateau, Sampling, Schedule, StepGroup
from mocli.train.checkpoint import Checkpoints, History, due
from mocli.train.loop import Training, fit
from mocli.train.optim import Flatness
from mocli.types import ModalityKind, Pairing


@dataclass
class Rise:
    """A model of one weight that moves by its learning rate, with a loss that never falls."""

    lr_factor: float | None = 0.1
    lr_patience: int = 2
    ends: bool = True

    def __post_init__(self):
        self.module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.module.weight)
        self.path = []

    def phases(self, schedule, bundle):
        groups = (StepGroup("all", list(self.module.parameters()), lr=0.05),)
        plateau = Plateau(
            {"rising": 1.0}, window=10, tolerance=0.01, min_steps=20,
            lr_factor=self.lr_factor, lr_patience=self.lr_patience, ends=self.ends,
        )  # fmt: skip
        sampling = Sampling(4, independent=True, replacement=True)
        return [Phase("only", groups, sampling, schedule.max_steps, plateau=plateau)]

    def prepare(self, batch):
        return batch

    def losses(self, prepared, group):
        weight = self.module.weight.sum()
        self.path.append(float(weight.detach()))
        return Losses({"rising": weight}, -weight)


def bundle(n=20):
    x = np.ones((n, 2), np.float32)
    m = Modality("rna", ModalityKind.RNA, FeatureMatrix(x, ("a", "b")), tuple(map(str, range(n))), x.sum(1))
    return MultiOmics({"rna": m}, np.arange(n)[:, None], m.obs_names, Pairing.PAIRED)


def run(model, steps=100, **kwargs):
    return fit(model, bundle(), Schedule(max_steps=steps), Training(torch.device("cpu"), seed=0, **kwargs))


def test_without_a_factor_training_ends_at_the_first_flat_look():
    done = run(Rise(lr_factor=None))
    assert (done.steps, done.stop_reason) == (20, "plateau")
    assert "lr_lowered" not in done.phases[0]


def test_rates_fall_once_before_training_ends():
    """Adam steps by the learning rate where the slope is constant: the path tells it."""
    model = Rise()
    done = run(model)
    # flat at 20 and 21; then two windows of steps have to be known anew
    assert done.phases[0]["lr_lowered"] == [21]
    assert (done.steps, done.stop_reason) == (41, "plateau")
    pace = np.diff(model.path)
    assert pace[:20] == pytest.approx(0.05, rel=1e-3)
    assert pace[21:] == pytest.approx(0.005, rel=1e-3)


def test_rates_fall_each_time_where_the_steps_are_fixed():
    model = Rise(ends=False)
    done = run(model, steps=70)
    assert done.phases[0]["lr_lowered"] == [21, 42, 63]
    assert (done.steps, done.stop_reason) == (70, "steps")
    assert np.diff(model.path)[-1] == pytest.approx(0.00005, rel=1e-2)


@pytest.mark.parametrize("stop", [21, 30, 43])
def test_a_resumed_run_has_the_same_rates_and_bytes(tmp_path, stop):
    whole = Rise(ends=False)
    expected = run(whole, steps=70)
    keep = Checkpoints(tmp_path / "c", fingerprint={}, resume="auto")
    interrupted = Rise(ends=False)
    original = interrupted.losses

    def losses(prepared, group):
        if len(interrupted.path) == stop:
            raise Interrupted(15, "stop")
        return original(prepared, group)

    interrupted.losses = losses
    with pytest.raises(Interrupted):
        run(interrupted, steps=70, checkpoints=keep, checkpoint_every=0.0)
    resumed = Rise(ends=False)
    done = run(resumed, steps=70, checkpoints=keep)
    assert done.resumed_from_step == stop
    assert torch.equal(resumed.module.weight, whole.module.weight)
    assert (done.history, done.phases) == (expected.history, expected.phases)


@pytest.mark.parametrize("interval", [1, 50])
@pytest.mark.parametrize("checkpoint", [None, 437])
def test_when_to_look_depends_neither_on_the_device_nor_on_checkpoints(interval, checkpoint):
    history, looks = History(interval), []
    plateau = Plateau({"loss": 1.0}, window=10, tolerance=0.01, min_steps=20, lr_factor=0.1, lr_patience=999)
    flatness = Flatness(plateau, history, [])
    for step in range(1, 600):
        history.record({"loss": torch.tensor(1.0 / step)})
        before = flatness._seen
        flatness.look()
        looks += [step] if flatness._seen != before else []
        if step == checkpoint:
            history.state()
    expected = [n for n in range(1, 600) if due(plateau, n)]
    assert looks == expected
    assert len(expected) > 10
