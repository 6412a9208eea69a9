"""The matrix products that a scMODAL step cannot do without, and their time alone."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode


def needed_products(batch, widths, n_links, params):
    """Products of one step as (m, k, n): times; k is summed over. Two modalities, one edge.

    Forward and backward of every layer once; both modalities share a discriminator call, and a
    decoder call serves the own and the visiting latent.
    """
    b, h, q = batch, params.n_hidden, params.n_latent
    found = Counter()

    def forward(rows, layers):
        for a, c in layers:
            found[rows, a, c] += 1

    def backward(rows, layers, *, weights=True, inputs=True):
        for position, (a, c) in enumerate(layers):
            if weights:
                found[c, rows, a] += 1
            if position or inputs:
                found[rows, c, a] += 1

    discriminator = [(q, h), (h, h), (h, 1)]
    for _ in range(params.critic_steps):
        forward(2 * b, discriminator)
        backward(2 * b, discriminator, inputs=False)
    forward(2 * b, discriminator)
    backward(2 * b, discriminator, weights=False)
    for p in widths:
        encoder, decoder = [(p, h), (h, q)], [(q, h), (h, p)]
        forward(b, encoder)
        backward(b, encoder, inputs=False)
        forward(2 * b, decoder)
        backward(2 * b, decoder)
        forward(b, encoder)  # the cycle: a translated cell is encoded again
        backward(b, encoder)
        found[b, p, b] += 1  # kernel of the input, no gradient
        found[b, q, b] += 1  # kernel of the latent
        found[b, b, q] += 2
    found[b, n_links, b] += 1  # cosines
    found[b, q, b] += 1  # anchor distances
    found[b, b, q] += 2
    return found


class Recorder(TorchDispatchMode):
    """Notes every matrix product made inside, with the layout of its operands."""

    def __init__(self, unknown=("bmm", "baddbmm", "mv", "addmv", "dot")):
        super().__init__()
        self.seen, self.unknown = [], unknown

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in {"mm", "addmm"}:
            a, b = args[-2:]
            self.seen.append((a.shape[0], a.shape[1], b.shape[1], _transposed(a), _transposed(b)))
        elif name in self.unknown:
            raise LookupError(f"a product that the benchmark does not know: {name}")
        return func(*args, **(kwargs or {}))

    def shapes(self):
        """Products as `needed_products` counts them; a product and its transpose are one."""
        return canonical(Counter((m, k, n) for m, k, n, _, _ in self.seen))


def canonical(products):
    """Count (m, k, n) and (n, k, m), which is its transpose, together."""
    found = Counter()
    for (m, k, n), times in products.items():
        found[max(m, n), k, min(m, n)] += times
    return found


def gflop(products):
    """Multiplications and additions, in 10^9."""
    return sum(2 * m * k * n * times for (m, k, n), times in products.items()) / 1e9


class Replay:
    """The recorded products alone, on operands of their own, in the same layout and order."""

    def __init__(self, seen):
        self.work = []
        for m, k, n, flip_a, flip_b in seen:
            a = torch.randn(k, m).T if flip_a else torch.randn(m, k)
            b = torch.randn(n, k).T if flip_b else torch.randn(k, n)
            self.work.append((a, b, torch.empty(m, n)))

    def __call__(self):
        """Multiply everything once."""
        for a, b, out in self.work:
            torch.mm(a, b, out=out)


def _transposed(x):
    return x.stride(0) == 1 and x.stride(1) != 1
