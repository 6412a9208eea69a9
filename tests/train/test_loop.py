import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from mocli.data.bundle import FeatureMatrix, LinkedFeatures, Modality, MultiOmics
from mocli.errors import InputError, Interrupted, NumericalError
from mocli.models.base import Losses, Schedule
from mocli.models.scmodal.model import Scmodal
from mocli.models.scmodal.params import ScmodalParams
from mocli.train.checkpoint import Checkpoints, Snapshot
from mocli.train.loop import Training, fit
from mocli.types import ModalityKind, Pairing

PARAMS = ScmodalParams(n_hidden=16, n_latent=4, batch_size=24, n_neighbors=4)


def make_bundle(*, poison=False):
    rng = np.random.default_rng(0)
    modalities, sides = {}, []
    for name, n, p in (("a", 30, 20), ("b", 40, 8)):
        x = rng.normal(size=(n, p)).astype(np.float32)
        if poison and name == "b":
            x[3, 2] = np.inf
        features = FeatureMatrix(x, tuple(map(str, range(p))))
        modalities[name] = Modality(
            name, ModalityKind.OTHER, features, tuple(f"{name}{i}" for i in range(n)), np.ones(n, np.float32)
        )
        sides.append(FeatureMatrix(rng.normal(size=(n, 5)).astype(np.float32), tuple("vwxyz")))
    rows = np.full((70, 2), -1)
    rows[:30, 0], rows[30:, 1] = np.arange(30), np.arange(40)
    links = (LinkedFeatures("a", "b", *sides, tuple("vwxyz")),)
    return MultiOmics(modalities, rows, tuple(map(str, range(70))), Pairing.UNPAIRED, links)


def build(bundle):
    torch.manual_seed(0)
    return Scmodal.from_bundle(bundle, PARAMS)


def train(bundle, steps, **kwargs):
    model = build(bundle)
    training = Training(torch.device("cpu"), seed=0, **kwargs)
    return model, fit(model, bundle, Schedule(max_steps=steps), training)


def weights(model):
    return torch.cat([w.flatten() for w in model.module.state_dict().values()])


def test_losses_fall_and_are_reported_by_term():
    _, done = train(make_bundle(), 150)
    assert done.steps == 150
    assert done.stop_reason == "steps"
    terms = done.losses["align"]
    assert {"critic", "adversarial", "reconstruction", "cycle", "mnn", "geometry"} == set(terms)
    for term in ("reconstruction", "cycle", "mnn"):
        assert terms[term]["last"] < terms[term]["first"]
    assert done.cells_drawn == 150 * 24 * 2


def test_the_same_seed_gives_the_same_bytes_and_another_does_not():
    bundle = make_bundle()
    first, second = train(bundle, 20)[0], train(bundle, 20)[0]
    assert torch.equal(weights(first), weights(second))
    other = build(bundle)
    fit(other, bundle, Schedule(max_steps=20), Training(torch.device("cpu"), seed=1))
    assert not torch.equal(weights(first), weights(other))


def interrupting(bundle, folder, at, signum):
    """Train until step `at`, where a signal arrives."""
    model = build(bundle)
    seen = 0
    original = model.prepare

    def prepare(batch):
        nonlocal seen
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signum)
        return original(batch)

    model.prepare = prepare
    checkpoints = Checkpoints(folder, fingerprint={"x": 1}, resume="auto")
    with pytest.raises(Interrupted) as error:
        fit(model, bundle, Schedule(max_steps=40), Training(torch.device("cpu"), 0, checkpoints))
    return error.value


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path, signum):
    bundle = make_bundle()
    error = interrupting(bundle, tmp_path / "c", 13, signum)
    assert error.exit_code == 128 + signum
    assert (tmp_path / "c" / "checkpoint.safetensors").exists()
    checkpoints = Checkpoints(tmp_path / "c", fingerprint={"x": 1}, resume="auto")
    resumed, done = train(bundle, 40, checkpoints=checkpoints)
    whole, undisturbed = train(bundle, 40)
    assert done.resumed_from_step == 13
    assert torch.equal(weights(resumed), weights(whole))
    assert done.losses == undisturbed.losses
    assert done.history == undisturbed.history
    assert signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler)


def test_time_that_is_over_ends_like_a_scheduler_warning(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", fingerprint={}, resume="auto")
    with pytest.raises(Interrupted, match="time allowed is over") as error:
        train(make_bundle(), 1000, checkpoints=checkpoints, max_time=0.05)
    assert error.value.exit_code == 138
    assert checkpoints.path.exists()


def test_checkpoints_come_by_time(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", fingerprint={}, resume="auto")
    steps, save = [], checkpoints.save

    def count(snapshot):
        steps.append(len(snapshot.tensors.get("history", ())))
        save(snapshot)

    checkpoints.save = count
    train(make_bundle(), 5, checkpoints=checkpoints, checkpoint_every=0.0)
    assert steps[:-1] == [0, 1, 2, 3, 4]
    assert checkpoints.load().meta["phase"] is None  # training is over, what follows is not


def test_a_term_that_is_not_finite_stops_training_before_the_weights_break():
    with pytest.raises(NumericalError) as error:
        train(make_bundle(poison=True), 50)
    assert error.value.term in {"reconstruction", "critic", "cycle", "geometry", "adversarial", "mnn"}


def test_a_loss_that_was_not_finite_once_starts_its_phase_again_at_lower_rates(caplog):
    bundle = make_bundle()
    model, steps = build(bundle), []
    original = model.losses

    def losses(prepared, group):
        found = original(prepared, group)
        steps.append(group)
        if len(steps) == 30:
            return Losses({**found.terms, "adversarial": torch.tensor(torch.nan)}, found.total)
        return found

    model.losses = losses
    done = fit(model, bundle, Schedule(max_steps=20), Training(torch.device("cpu"), seed=0))
    assert done.steps == 20
    assert done.slowed == {"phase": "align", "reason": "the loss is no longer finite", "lr_factor": 0.1}
    assert caplog.text.count("the phase starts again") == 1
    calm = build(bundle)
    (phase,) = calm.phases(Schedule(max_steps=20), bundle)
    slow = replace(phase, groups=tuple(replace(g, lr=0.1 * g.lr) for g in phase.groups))
    calm.phases = lambda schedule, bundle: [slow]
    torch.manual_seed(0)
    fit(calm, bundle, Schedule(max_steps=20), Training(torch.device("cpu"), seed=0))
    assert torch.equal(weights(model), weights(calm)), "as if it had been trained so from the start"


def spoiling(model, step):
    """Make a loss of that step, counted from where the model is, not finite; returns the model."""
    original, seen = model.prepare, []
    losses = model.losses

    def prepare(batch):
        seen.append(batch.step)
        return original(batch)

    def spoiled(prepared, group):
        found = losses(prepared, group)
        if len(seen) == step + 1:
            return Losses({**found.terms, "adversarial": torch.tensor(torch.nan)}, found.total)
        return found

    model.prepare, model.losses = prepare, spoiled
    return model


def test_a_phase_that_was_resumed_starts_again_from_where_it_began(tmp_path):
    bundle = make_bundle()
    schedule, training = Schedule(max_steps=40), Training(torch.device("cpu"), seed=0)
    whole = spoiling(build(bundle), 20)
    assert fit(whole, bundle, schedule, training).slowed
    interrupting(bundle, tmp_path / "c", 13, signal.SIGTERM)
    checkpoints = Checkpoints(tmp_path / "c", fingerprint={"x": 1}, resume="auto")
    resumed = spoiling(build(bundle), 20 - 13)
    done = fit(resumed, bundle, schedule, replace(training, checkpoints=checkpoints))
    assert done.resumed_from_step == 13
    assert done.slowed
    assert torch.equal(weights(resumed), weights(whole))


def test_all_weights_are_left_ready_to_learn_where_a_step_fails():
    bundle = make_bundle()
    model = build(bundle)
    model.losses = lambda prepared, group: 1 / 0
    with pytest.raises(ZeroDivisionError):
        fit(model, bundle, Schedule(max_steps=3), Training(torch.device("cpu"), seed=0))
    assert all(p.requires_grad for p in model.module.parameters())


def spoil(tensors, key, value):
    found = next(k for k in sorted(tensors) if key in k)
    return {**tensors, found: value(tensors[found])}


def test_a_checkpoint_whose_parts_do_not_fit_is_damaged(tmp_path):
    bundle = make_bundle()
    interrupting(bundle, tmp_path / "c", 13, signal.SIGTERM)
    checkpoints = Checkpoints(tmp_path / "c", fingerprint={"x": 1}, resume="auto")
    kept = checkpoints.load()
    fit_of = kept.meta["fit"]
    damages = [
        (spoil(kept.tensors, "module/", lambda t: t * torch.nan), kept.meta),
        (spoil(kept.tensors, "module/", lambda t: t[:1]), kept.meta),
        (spoil(kept.tensors, "begin/", lambda t: t[:1]), kept.meta),
        (spoil(kept.tensors, "exp_avg", lambda t: t[:1]), kept.meta),
        (spoil(kept.tensors, "history", lambda t: t[:, :1]), kept.meta),
        (spoil(kept.tensors, "average/", lambda t: t[:1]), kept.meta),
        (spoil(kept.tensors, "rng/cpu", lambda t: t[:9]), kept.meta),
        ({k: v for k, v in kept.tensors.items() if not k.startswith("batches/")}, kept.meta),
        (kept.tensors, {**kept.meta, "fit": {**fit_of, "nothing": 1}}),
        (kept.tensors, {**kept.meta, "fit": 3}),
        (kept.tensors, {k: v for k, v in kept.meta.items() if k != "history"}),
    ]
    for tensors, meta in damages:
        checkpoints.save(Snapshot(tensors, meta))
        with pytest.raises(InputError, match="damaged") as error:
            train(bundle, 40, checkpoints=checkpoints)
        assert error.value.exit_code == 3


def test_torch_generators_of_the_caller_are_untouched_by_settings():
    from mocli.train.device import torch_settings

    before, threads = torch.get_rng_state(), torch.get_num_threads()
    import sklearn  # noqa: F401

    pools = threadpool_info()
    with torch_settings(threads=threads + 1, deterministic=True):
        torch.manual_seed(5)
        torch.randn(3)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == threads + 1
        limits = {(pool["user_api"], pool["num_threads"]) for pool in threadpool_info()}
        # sums by BLAS would depend on the number; other libraries may have kinds of their own
        assert {limit for limit in limits if limit[0] in {"blas", "openmp"}} == {
            ("blas", 1),
            ("openmp", threads + 1),
        }
    assert threadpool_info() == pools
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
