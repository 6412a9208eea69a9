"""Steps that are recorded and repeated give the losses and weights of steps that are not."""

import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from tape import Tapes

import mocli
import mocli.tasks.trained.train
from mocli.cli.doctor import step_times
from mocli.data.bundle import Minibatch
from mocli.train.captured import MANY, MOST, WAITING, WARM, Captured, CudaGraphs
from mocli.train.checkpoint import History

SMALL = {"n_hidden": 16, "n_latent": 4, "batch_size": 32}
STEPS = 30
MODELS = {
    # phases whose losses depend on the number of the step for some steps
    "multigrate": {"kl_warmup": 0.5, "modality_dropout": 0.5},
    "multidgd": {},
    "sccross": {"dropout": 0.2, "noise_share": 0.5},
    "scmodal": {"n_neighbors": 3},
}


@pytest.fixture
def trained(accelerator, monkeypatch, paired, unpaired, tmp_path):
    """Return the losses of every step, the latent and the recorder of a training on the accelerator."""

    def run(model, *, graphs, **more):
        losses, recorder = [], Tapes()
        monkeypatch.setattr(mocli.tasks.trained.train, "CudaGraphs", lambda device: recorder)
        finish = History.flush

        def flush(history):
            finish(history)
            losses.append(history.values().copy())

        monkeypatch.setattr(History, "flush", flush)
        apart = [unpaired / "rna.h5ad", unpaired / "prot.h5ad"], unpaired / "links.tsv"
        inputs, links = apart if model == "scmodal" else ([paired / "data.h5mu"], paired / "links.tsv")
        output = tmp_path / f"{model}-{graphs}.h5mu"
        mocli.integrate(
            inputs, links=[links], model=model, output=output, device="cuda", cuda_graphs=graphs, umap=False,
            metrics="none", html=False, threads=1, params=SMALL | MODELS[model], max_steps=STEPS, force=True,
            **more,
        )  # fmt: skip
        monkeypatch.setattr(History, "flush", finish)
        with h5py.File(output) as file:
            return losses, file[f"obsm/X_{model}"][()], recorder

    return run


@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_the_same_with_recorded_steps(trained, monkeypatch, model):
    monkeypatch.setattr("mocli.train.captured.WARM", 1)
    losses, latent, recorder = trained(model, graphs=True)
    assert 1 <= recorder.recorded <= MOST
    assert recorder.replayed >= STEPS // 4
    # the same minibatches, padded, one operation at a time
    monkeypatch.setattr(Tapes, "record", lambda self, work: (None, work()))
    monkeypatch.setattr("mocli.train.captured.WARM", 10**9)
    expected, latent_expected, recorder = trained(model, graphs=True)
    assert recorder.warmed >= STEPS // 3
    for found, wanted in zip(losses, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(latent, latent_expected)


class Counted(Tapes):
    """Records nothing really: repeating does the work again."""

    def record(self, work):
        self.recorded += 1
        return work, work()


def minibatch(n, value=1.0):
    return Minibatch(x={"rna": torch.full((n, 2), value)}, links={}, rows={"rna": torch.arange(n)})


def doubled(batch, epoch_over):
    return {"sum": 2 * batch.x["rna"].sum(), "over": torch.tensor(float(epoch_over))}


def test_each_form_is_recorded_once_it_keeps_coming():
    recorder = Counted()
    step = Captured(doubled, recorder)
    for value in range(WARM + 3):
        for n in (3, 4):
            terms = step(minibatch(n, float(value)), epoch_over=n == 4, rates=(0.1,))
            assert terms["over"] == (n == 4)
    assert (recorder.warmed, recorder.recorded) == (2 * WARM, 2)
    # a recording has the learning rates built in
    for _ in range(2):
        step(minibatch(3), epoch_over=False, rates=(0.01,))
    assert recorder.recorded == 3
    for n in range(5, 5 + MOST):
        for _ in range(WARM + 2):
            step(minibatch(n), epoch_over=False, rates=(0.01,))
    assert recorder.recorded == 2 + MOST


def test_what_is_repeated_reads_the_new_minibatch():
    read = []

    def work(batch, _epoch_over):
        read.append(batch.x["rna"])
        return {"sum": batch.x["rna"].sum()}

    step = Captured(work, Counted())
    for value in range(WARM + 3):
        step(minibatch(3, float(value)), epoch_over=False, rates=())
        assert read[-1].sum() == 6 * value
    # always from one place
    assert read[-1] is read[-2]


@pytest.mark.parametrize("why", ["refused", "shapes"])
def test_steps_that_cannot_be_recorded_run_as_usual_and_it_is_said_once(caplog, why):
    class Refusing(Counted):
        def record(self, work):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    recorder = Refusing()
    caplog.set_level("WARNING", logger="mocli")
    for _phase in range(2):
        step = Captured(doubled, recorder)
        for k in range(MANY + 9):
            n = k + 1 if why == "shapes" else 3
            assert step(minibatch(n), epoch_over=False, rates=())["sum"] == 4 * n
    assert [r.getMessage().count("one operation at a time") for r in caplog.records] == [1]


@pytest.fixture
def cuda(monkeypatch):
    """Stand in for what `torch.cuda` does to streams and generators around a recording."""
    second = torch.device("cuda", 1)
    home, side = (SimpleNamespace(device=second, wait_stream=lambda _: None) for _ in range(2))
    state = SimpleNamespace(home=home, current=home, mode="default", graphs=0, restored=[])

    @contextmanager
    def stream(other):
        before, state.current = state.current, other
        yield
        state.current = before

    @contextmanager
    def graph(_graph, stream):
        # as torch does, which does not leave the stream of a recording that fails
        state.current = stream
        yield
        state.current = home

    def made():
        state.graphs += 1
        return SimpleNamespace(replay=lambda: None)

    generator = SimpleNamespace(clone_state=lambda: "clean", graphsafe_set_state=state.restored.append)
    stand_in = {
        "Stream": lambda _: side, "stream": stream, "graph": graph, "CUDAGraph": made,
        "current_stream": lambda _: state.current, "set_stream": lambda s: setattr(state, "current", s),
        "set_sync_debug_mode": lambda mode: setattr(state, "mode", mode),
        "default_generators": [None, generator],
    }  # fmt: skip
    for name, value in stand_in.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return state


def test_a_recording_that_fails_leaves_stream_and_generator_as_they_were(cuda):
    recorder = CudaGraphs(torch.device("cuda", 1))
    assert recorder.record(lambda: 7)[1] == 7
    assert not cuda.restored

    def refused():
        assert cuda.current is not cuda.home
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        recorder.record(refused)
    assert cuda.current is cuda.home
    assert cuda.restored == ["clean"]


def test_a_step_that_waits_for_the_device_is_not_recorded(cuda):
    recorder = CudaGraphs(torch.device("cuda", 1))

    def waiting():
        assert cuda.mode == "warn"
        warnings.warn(WAITING, stacklevel=1)
        return 3

    assert recorder.warm(waiting) == 3
    assert (cuda.mode, cuda.current) == ("default", cuda.home)
    with pytest.raises(RuntimeError, match=r"test_captured.py:\d+ waits for the device"):
        recorder.record(waiting)
    assert cuda.graphs == 0
    recorder.warm(lambda: 4)
    assert recorder.record(lambda: 5)[1] == 5


def test_the_option_is_told_to_change_nothing_on_the_processor(paired, tmp_path):
    result = mocli.integrate(
        [paired / "data.h5mu"], model="multigrate", output=tmp_path / "o.h5mu", max_steps=2, metrics="none",
        html=False, umap=False, device="cpu", cuda_graphs=True, params=SMALL,
    )  # fmt: skip
    assert any("--cuda-graphs changes nothing" in line for line in result.report["warnings"])


def test_doctor_times_recorded_steps_too(accelerator, monkeypatch):
    recorder = Tapes()
    monkeypatch.setattr(mocli.tasks.trained.train, "CudaGraphs", lambda device: recorder)
    times = step_times("cuda", models=["multigrate"], n_cells=80, steps=12)["models"]["multigrate"]
    assert recorder.replayed > 0
    assert {"ms_per_step", "ms_per_step_cuda_graphs"} <= times.keys()
