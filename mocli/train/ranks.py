"""The processes of one run that `torchrun` has started: each computes its share of every minibatch.

All of them draw the same cells from the same seed, and each keeps every n-th. Gradients and loss terms are
averaged before a step, so that the weights of all processes stay equal, and a run is, up to rounding and the
noise that each draws for itself, the run of one process with the same options. What a checkpoint holds does
not depend on their number. The first process ("rank 0") alone writes.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import Parameter

from mocli.errors import EnvironmentProblem


class Following(Exception):
    """Ends a process whose share of training is done; the first one goes on."""


@dataclass(frozen=True)
class Ranks:
    """A process among those of its run.

    Attributes:
        rank: From 0.
        world: Number of processes; 1 without torchrun.
    """

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def equal_start(self, module: nn.Module) -> None:
        """Give every process the first one's weights."""
        if self.world > 1:
            with _together():
                for tensor in module.state_dict().values():
                    dist.broadcast(tensor, 0)

    def own_noise(self, seed: int) -> None:
        """Have the others draw dropout and noise of their own; the first draws as if it were alone."""
        if self.rank:
            torch.manual_seed(seed + (self.rank << 40))

    def average_gradients(self, parameters: Sequence[Parameter]) -> None:
        """Replace gradients by their means over processes, which are equal everywhere.

        One that is None on some processes counts as 0 there, and stays None where it is on all. Of sparse
        gradients the rows of all processes are gathered.
        """
        if self.world == 1:
            return
        with _together():
            # known on the host: a look at the gradients themselves would wait for the device
            kinds = torch.tensor([0 if p.grad is None else 1 + p.grad.is_sparse for p in parameters])
            dist.all_reduce(kinds, dist.ReduceOp.MAX)
            by_kind = list(zip(parameters, kinds.tolist(), strict=True))
            dense = [p for p, kind in by_kind if kind == 1]
            if dense:
                parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in dense]
                flat = torch.cat([part.reshape(-1) for part in parts])
                dist.all_reduce(flat)
                for p, mean in zip(
                    dense, torch.split(flat / self.world, [p.numel() for p in dense]), strict=True
                ):
                    p.grad = mean.view_as(p)
            for p, kind in by_kind:
                if kind == 2:
                    p.grad = self._gathered(p)

    def average(self, terms: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
        """Return loss terms averaged over processes; running statistics of normalisation are, too."""
        if self.world == 1:
            return dict(terms)
        running = list(_running(module))
        with _together():
            parts = [*(value.detach().reshape(1) for value in terms.values()), *running]
            flat = torch.cat([part.double() for part in parts])
            dist.all_reduce(flat)
            means = torch.split(flat / self.world, [part.numel() for part in parts])
        for statistic, mean in zip(running, means[len(terms) :], strict=True):
            statistic.copy_(mean)
        return {name: mean.squeeze(0) for name, mean in zip(terms, means, strict=False)}

    def largest(self, value: int) -> int:
        """Return the largest of a number that each process has."""
        if self.world == 1:
            return value
        with _together():
            shared = torch.tensor(value)
            dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared)

    def first(self, value: float) -> float:
        """Return the first process's number."""
        if self.world == 1:
            return value
        with _together():
            shared = torch.tensor(value, dtype=torch.float64)
            dist.broadcast(shared, 0)
        return float(shared)

    def _gathered(self, parameter: Parameter) -> Tensor:
        """Sum of sparse gradients, `(n, ...)` with rows as the sparse dimension, over their number."""
        grad = parameter.grad
        if grad is None:
            rows = torch.zeros(0, dtype=torch.int64, device=parameter.device)
            values = parameter.new_zeros(0, *parameter.shape[1:])
        else:
            rows, values = grad._indices()[0], grad._values()
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([len(rows)]))
        index, total = self._all_rows(rows, sizes)[None], self._all_rows(values, sizes) / self.world
        return torch.sparse_coo_tensor(index, total, parameter.shape, check_invariants=False)

    def _all_rows(self, part: Tensor, sizes: Sequence[Tensor]) -> Tensor:
        """Rows of all processes, `(sum of sizes, ...)`; of equal number on the way, as gathering needs."""
        padded = part.new_zeros((max(map(int, sizes)), *part.shape[1:]))
        padded[: len(part)] = part
        received = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(received, padded)
        return torch.cat([rows[: int(n)] for rows, n in zip(received, sizes, strict=True)])


ALONE = Ranks()


def join(device: torch.device, world: int) -> Ranks:
    """Meet the other processes of the run, by the addresses that torchrun sets; once a process.

    Raises `EnvironmentProblem`: they cannot be reached.
    """
    if world == 1:
        return ALONE
    with _together():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
            atexit.register(dist.destroy_process_group)
    return Ranks(dist.get_rank(), dist.get_world_size())


@contextmanager
def _together() -> Iterator[None]:
    """Turn the failure of a process that others wait for into an error that says so."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise EnvironmentProblem(
            "another process of this run cannot be reached",
            field="torchrun",
            found=str(error).splitlines()[0][:200],
            hint="the same command, with any number of processes, continues from the last checkpoint",
        ) from error


def _running(module: nn.Module) -> Iterable[Tensor]:
    """Yield running means and variances of batch normalisation."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            yield part.running_mean
            if part.running_var is not None:
                yield part.running_var
