"""What torch computes otherwise with another number of threads, computed alike with any.

With two threads and with one, products of large matrices and sums of rows or columns have the same bytes;
sums of a whole matrix, small double products, decompositions and batch normalisation have not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, for what is small and depends on their number."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def total(x: Tensor) -> Tensor:
    """Sum of a matrix."""
    return x.sum(1).sum()


def column_means(x: Tensor) -> Tensor:
    """Mean of each column, `(n, p)` to `(p,)`."""
    return x.new_full((len(x),), 1 / max(len(x), 1)) @ x


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of `(B, p)`; while training on a CPU by one thread."""

    def forward(self, input: Tensor) -> Tensor:
        """`(B, p)` to the same shape."""
        if not self.training or input.device.type != "cpu" or torch.get_num_threads() == 1:
            return super().forward(input)
        normalised: Tensor = _Normalised.apply(input, self.weight, self.bias, self)  # type: ignore[no-untyped-call]
        self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        return normalised


class _Normalised(torch.autograd.Function):
    """What `nn.BatchNorm1d` computes while training."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: BatchNorm) -> Tensor:
        kept, momentum, training = (norm.running_mean, norm.running_var), float(norm.momentum or 0), True
        with one_thread():
            y, mean, scale = torch.native_batch_norm(x, weight, bias, *kept, training, momentum, norm.eps)
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.eps = norm.eps
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        grad, training, all_three = gradients[0].contiguous(), True, [True] * 3
        with one_thread():
            of_inputs = torch.ops.aten.native_batch_norm_backward(
                grad, x, weight, None, None, mean, scale, training, ctx.eps, all_three
            )
        return (*of_inputs, None)
