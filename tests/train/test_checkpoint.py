import pytest
import torch

from mocli.errors import EnvironmentProblem, InputError, UsageError
from mocli.train.checkpoint import Checkpoints, Snapshot, pack_optimizer, unpack_optimizer


def make(folder, resume="auto", **fingerprint):
    return Checkpoints(folder, fingerprint={"seed": 0, "inputs": ["abc"], **fingerprint}, resume=resume)


def test_round_trip_and_removal(tmp_path):
    checkpoints = make(tmp_path / "run.ckpt")
    assert checkpoints.load() is None
    tensors = {"a": torch.randn(3, 2), "step": torch.tensor(7.0), "rng": torch.get_rng_state()}
    checkpoints.save(Snapshot(tensors, {"phase": "align", "fit": {"steps": 3}}))
    loaded = checkpoints.load()
    assert loaded.meta == {"phase": "align", "fit": {"steps": 3}}
    assert all(torch.equal(loaded.tensors[k], v) for k, v in tensors.items())
    assert [p.name for p in (tmp_path / "run.ckpt").iterdir()] == ["checkpoint.safetensors"]
    checkpoints.remove()
    assert not (tmp_path / "run.ckpt").exists()


def test_another_run_is_refused_field_by_field(tmp_path):
    make(tmp_path / "c").save(Snapshot({"a": torch.zeros(1)}, {}))
    with pytest.raises(UsageError) as error:
        make(tmp_path / "c", seed=1, inputs=["xyz"]).load()
    assert "seed: 0 then, 1 now" in str(error.value)
    assert 'inputs: ["abc"] then, ["xyz"] now' in str(error.value)
    assert make(tmp_path / "c", resume="never", seed=1).load() is None


def test_always_demands_a_checkpoint(tmp_path):
    with pytest.raises(UsageError, match="no checkpoint"):
        make(tmp_path / "none", resume="always").load()


def test_damaged_checkpoint_is_said(tmp_path):
    checkpoints = make(tmp_path / "c")
    checkpoints.save(Snapshot({"a": torch.zeros(100)}, {}))
    checkpoints.path.write_bytes(checkpoints.path.read_bytes()[:60])
    with pytest.raises(InputError, match="damaged") as caught:
        checkpoints.load()
    assert "--resume never" in caught.value.hint


def test_a_tuple_in_the_parameters_is_the_list_that_json_keeps(tmp_path):
    def with_params():
        return make(tmp_path / "c", params={"betas": (0.5, 0.7), "weights": {"rna": 1}})

    with_params().save(Snapshot({"a": torch.zeros(1)}, {}))
    assert with_params().load() is not None


def test_a_folder_that_cannot_be_is_an_environment_problem(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="could not be written"):
        make(tmp_path / "file" / "c").save(Snapshot({"a": torch.zeros(1)}, {}))


def test_an_optimizer_continues_with_the_same_bytes():
    torch.manual_seed(0)
    w = [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(3))]
    v = [torch.nn.Parameter(p.detach().clone()) for p in w]
    a = torch.optim.Adam(w, lr=0.1, weight_decay=0.01, fused=True)

    def step(parameters, optimizer):
        optimizer.zero_grad()
        sum((p**2).sum() for p in parameters).backward()
        optimizer.step()

    for _ in range(3):
        step(w, a)
    for p, q in zip(w, v, strict=True):
        q.data.copy_(p)
    b = torch.optim.Adam(v, lr=0.1, weight_decay=0.01, fused=True)
    unpack_optimizer("g", b, {k: t.clone() for k, t in pack_optimizer("g", a).items()})
    for _ in range(3):
        step(w, a)
        step(v, b)
    assert all(torch.equal(p, q) for p, q in zip(w, v, strict=True))
