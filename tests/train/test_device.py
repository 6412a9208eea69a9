import pytest
import torch

from mocli.errors import EnvironmentProblem, UsageError
from mocli.train.device import choose_device, choose_threads


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_cuda_asked_for_and_absent_is_an_error(name):
    with pytest.raises(EnvironmentProblem, match="not available") as error:
        choose_device(name)
    assert error.value.exit_code == 4


def test_unknown_device_is_a_usage_error():
    with pytest.raises(UsageError) as error:
        choose_device("cdua")
    assert "cuda" in error.value.hint
    with pytest.raises(UsageError, match="'mps' is not a device"):
        choose_device("mps")  # which has no double precision


def test_threads_come_from_the_scheduler_else_from_affinity(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "7")
    assert choose_threads(None) == 7
    assert choose_threads(3) == 3
    monkeypatch.delenv("SLURM_CPUS_PER_TASK")
    assert choose_threads(None) >= 1
    with pytest.raises(UsageError):
        choose_threads(0)
