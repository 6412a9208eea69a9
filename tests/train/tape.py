"""Records the work of a step as a device does: Python runs once, and what it launched is launched again."""

import torch
from accelerator import WAITS, Elsewhere
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class Tape(TorchDispatchMode):
    """Operations in order. Repeated, they read and write the same tensors; numbers are those of recording."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        there = [isinstance(x, Elsewhere) for x in given]
        made = [x for x in pytree.tree_leaves(result) if isinstance(x, torch.Tensor)]
        leaves = any(there) and any(not isinstance(x, Elsewhere) for x in made)
        arrives = (
            not all(there) and any(x.dim() for x in given) and any(isinstance(x, Elsewhere) for x in made)
        )
        if func.name() in WAITS or leaves or arrives:
            raise RuntimeError(f"{func.name()} cannot be recorded")
        # views and sparse tensors are made of others and have their values; a sparse gradient that someone
        # else holds would be copied
        if not func.is_view and not any(x.is_sparse for x in made):
            self.calls.append((func, args, kwargs, result))
        return result

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(pytree.tree_leaves(result), pytree.tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old is not new:
                    old.copy_(new)


class Tapes:
    """A recorder, as `mocli.train.captured` wants it."""

    def __init__(self, _device=None):
        self.warmed = self.recorded = self.replayed = 0
        self.given_up = False

    def warm(self, work):
        self.warmed += 1
        result = work()
        # a graph of gradients that lives on has the next recording wait for another stream
        assert not any(term.requires_grad for term in result.values())
        return result

    def record(self, work):
        tape = Tape()
        with tape:
            result = work()
        self.recorded += 1

        def replay():
            self.replayed += 1
            tape.replay()

        return replay, result
