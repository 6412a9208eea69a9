"""The running mean of the weights: what a slow loop gives, after any interruption, or nothing at all."""

import copy
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from mocli.data.bundle import FeatureMatrix, LinkedFeatures, Modality, MultiOmics
from mocli.errors import Interrupted
from mocli.models.base import Schedule
from mocli.models.scmodal.model import Scmodal
from mocli.models.scmodal.params import ScmodalParams
from mocli.train.checkpoint import Checkpoints
from mocli.train.loop import Training, fit
from mocli.train.optim import WeightAverage
from mocli.types import ModalityKind, Pairing

PARAMS = ScmodalParams(n_hidden=8, n_latent=3, batch_size=16, n_neighbors=4, weight_average=0.9)
STEPS = 25


@pytest.fixture(scope="module")
def bundle():
    rng = np.random.default_rng(0)
    modalities, sides = {}, []
    for name, n, p in (("a", 24, 9), ("b", 30, 6)):
        x = rng.normal(size=(n, p)).astype(np.float32)
        features = FeatureMatrix(x, tuple(map(str, range(p))))
        cells = tuple(f"{name}{i}" for i in range(n))
        modalities[name] = Modality(name, ModalityKind.OTHER, features, cells, np.ones(n, np.float32))
        sides.append(FeatureMatrix(rng.normal(size=(n, 4)).astype(np.float32), tuple("wxyz")))
    rows = np.full((54, 2), -1)
    rows[:24, 0], rows[24:, 1] = np.arange(24), np.arange(30)
    links = (LinkedFeatures("a", "b", *sides, tuple("wxyz")),)
    return MultiOmics(modalities, rows, tuple(map(str, range(54))), Pairing.UNPAIRED, links)


def build(bundle, params=PARAMS):
    torch.manual_seed(0)
    return Scmodal.from_bundle(bundle, params)


def train(bundle, *, params=PARAMS, steps=STEPS, seen=None, **kwargs):
    """Train; `seen` collects the weights after every step."""
    model = build(bundle, params)
    if seen is not None:
        original = model.prepare

        def prepare(batch):
            seen.append(snapshot(model))
            return original(batch)

        model.prepare = prepare
    done = fit(model, bundle, Schedule(max_steps=steps), Training(torch.device("cpu"), seed=0, **kwargs))
    return model, done


def snapshot(model):
    return {name: w.detach().clone() for name, w in model.module.named_parameters()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in b)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.98])
def test_it_equals_a_slow_loop(decay):
    torch.manual_seed(1)
    module = torch.nn.Linear(3, 2)
    average = WeightAverage(module, decay)
    expected = {name: np.zeros(tuple(w.shape)) for name, w in module.named_parameters()}
    for step in range(60):
        with torch.no_grad():
            for w in module.parameters():
                w.add_(torch.randn_like(w))
        average.update(step)
        kept = min(decay, step / (step + 1))
        for name, w in module.named_parameters():
            expected[name] = kept * expected[name] + (1 - kept) * w.detach().double().numpy()
    last = copy.deepcopy(module.state_dict())
    assert same(module.state_dict(), last)  # nothing is replaced until asked for
    average.replace_weights()
    for name, w in module.named_parameters():
        np.testing.assert_allclose(w.detach().numpy(), expected[name], rtol=1e-4, atol=1e-5)


def test_at_first_it_is_the_plain_mean():
    module = torch.nn.Linear(1, 1, bias=False)
    average = WeightAverage(module, 0.98)
    for step in range(40):
        torch.nn.init.constant_(module.weight, float(step))
        average.update(step)
        assert average.mean["weight"].item() == pytest.approx(step / 2, rel=1e-5)


def test_without_decay_nothing_is_kept_or_changed():
    module = torch.nn.Linear(3, 2)
    before = copy.deepcopy(module.state_dict())
    average = WeightAverage(module, 0)
    average.update(0)
    average.replace_weights()
    assert same(module.state_dict(), before)
    assert average.state_dict() == {}
    average.load_state_dict({})


def test_training_ends_with_the_mean_of_all_its_steps(bundle):
    """Weights never change course: only what is kept at the end differs."""
    seen = []
    averaged, _ = train(bundle, seen=seen)
    last, _ = train(bundle, params=replace(PARAMS, weight_average=0.0))
    seen = [*seen[1:], snapshot(last)]
    assert len(seen) == STEPS
    mean = {name: w.double() for name, w in seen[0].items()}
    for step, weights in enumerate(seen):
        kept = min(0.9, step / (step + 1))
        mean = {name: kept * mean[name] + (1 - kept) * w.double() for name, w in weights.items()}
    for name, w in snapshot(averaged).items():
        torch.testing.assert_close(w.double(), mean[name], rtol=1e-4, atol=1e-5)
    assert not same(snapshot(averaged), snapshot(last))


def test_one_step_is_its_own_mean(bundle):
    averaged, last = (train(bundle, params=replace(PARAMS, weight_average=d), steps=1)[0] for d in (0.9, 0.0))
    assert same(snapshot(averaged), snapshot(last))


@pytest.mark.parametrize("at", [1, 12, STEPS])
def test_an_interrupted_mean_goes_on_to_the_same_bytes(bundle, tmp_path, at):
    model = build(bundle)
    steps = 0
    original = model.prepare

    def prepare(batch):
        nonlocal steps
        steps += 1
        if steps == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(batch)

    model.prepare = prepare

    def checkpoints():
        return Checkpoints(tmp_path / "c", fingerprint={"x": 1}, resume="auto")

    training = Training(torch.device("cpu"), 0, checkpoints())
    if at < STEPS:
        with pytest.raises(Interrupted):
            fit(model, bundle, Schedule(max_steps=STEPS), training)
        resumed, done = train(bundle, checkpoints=checkpoints())
        assert done.resumed_from_step == at
    else:  # a signal in the last step finds nothing left to interrupt
        fit(model, bundle, Schedule(max_steps=STEPS), training)
        resumed = model
    whole, _ = train(bundle)
    assert same(snapshot(resumed), snapshot(whole))
