"""Our Adam is torch's, without loading torch's compiler."""

import subprocess
import sys

import pytest
import torch

from mocli.train.optim import Adam


def trained(make):
    """Parameters and optimiser after some steps, one of them after the state was put back."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in ((30, 20), (7,), (3,))]
    optimizer = make(parameters)
    for step in range(12):
        for p in parameters:
            p.grad = None
        a, b, c = parameters
        # the last has a gradient now and then
        (a.square().sum() + (b**3).sum() + (c.sum() if step % 3 else 0)).backward()
        if step == 5:
            optimizer.param_groups[0]["lr"] = 3e-4
        if step == 8:
            state, optimizer = optimizer.state_dict(), make(parameters)
            optimizer.load_state_dict(state)
        optimizer.step()
    return parameters, optimizer.state_dict()["state"]


@pytest.mark.parametrize("decoupled", [False, True])
def test_steps_and_state_are_those_of_torch(decoupled):
    settings = {"lr": 1e-3, "betas": (0.5, 0.9), "weight_decay": 0.01}
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    ours, state = trained(lambda p: Adam(p, **settings, decoupled_decay=decoupled))
    theirs, want = trained(lambda p: kind(p, **settings, fused=True))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert state.keys() == want.keys()
    for number, values in want.items():
        assert all(torch.equal(state[number][key], value) for key, value in values.items())


def test_nothing_of_a_training_loads_a_compiler():
    code = """
import sys, torch
from mocli.nn.mixture import uniform_in_ball
from mocli.nn.layers import normal_init
from mocli.train.device import torch_settings
from mocli.train.optim import Adam, RowAdam
with torch_settings(threads=1, deterministic=True):
    for kind in (Adam, RowAdam):
        p = torch.nn.Parameter(torch.ones(3, 2))
        optimizer = kind([p], lr=0.1)
        p.sum().backward()
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    with torch.device("meta"):  # as a saved model is looked at
        normal_init(torch.nn.Linear(2, 3), 1.0)
        uniform_in_ball(3, 2, 1.0)
print([name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
