"""An accelerator that the tests make up."""

import pytest
import torch
from accelerator import Accelerator, available

import mocli.train.device
from mocli.train.loop import _Stretch


@pytest.fixture
def accelerator(monkeypatch):
    """`--device cuda` is the accelerator; what its steps of training waited for is gathered."""
    if not available():
        pytest.skip("this build of torch cannot have a device that is written in Python")
    choose, step, made = mocli.train.device.choose_device, _Stretch._step, Accelerator()
    made.in_steps, made.doubles_in_steps, made.steps = [], set(), 0

    class Draws(torch.Generator):
        """The processor draws for it."""

        def __new__(cls, device="cpu"):
            return super().__new__(cls, "cpu" if device == made.device else device)

    def watched(stretch, number):
        made.doubles.clear()
        with made.watched() as waits:
            terms = step(stretch, number)
        made.in_steps += waits
        made.doubles_in_steps |= made.doubles
        made.steps += 1
        return terms

    def chosen(requested, **more):
        return made.device if requested == "cuda" else choose(requested, **more)

    monkeypatch.setattr(_Stretch, "_step", watched)
    monkeypatch.setattr(mocli.train.device, "choose_device", chosen)
    monkeypatch.setattr(torch, "Generator", Draws)
    # the made-up tensors can be no inference tensors
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)
    with made, torch.autograd.set_multithreading_enabled(False):
        yield made
