"""What would depend on the number of threads has the same bytes with one and with two."""

import pytest
import torch
from torch import nn

from mocli.nn.threads import BatchNorm, column_means, one_thread, total


@pytest.fixture
def by_threads():
    """Return what a function gives with one thread and with two."""
    before = torch.get_num_threads()

    def both(function):
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(function())
            assert torch.get_num_threads() == threads
        return found

    yield both
    torch.set_num_threads(before)


def test_sums_and_means(by_threads):
    x = torch.rand(700, 601, generator=torch.Generator().manual_seed(0))
    for function, expected in ((total, x.double().sum()), (column_means, x.double().mean(0))):
        for values in (x, x.T.contiguous().T):
            one, two = by_threads(lambda values=values, function=function: function(values))
            torch.testing.assert_close(one.double(), expected, rtol=1e-5, atol=0)
            assert torch.equal(one, two)


def test_decompositions(by_threads):
    x = torch.randn(300, 200, generator=torch.Generator().manual_seed(0)).double()

    def decomposed():
        with one_thread():
            return torch.linalg.eigh(x.T @ x)[1]

    assert torch.equal(*by_threads(decomposed))


def test_batch_normalisation_is_torch_s_with_any_number_of_threads(by_threads):
    x = torch.randn(256, 300, generator=torch.Generator().manual_seed(0))

    def trained(kind):
        norm = kind(300, eps=1e-3, momentum=0.01)
        given = x.clone().requires_grad_()
        y = norm(given)
        (y.square() * x).sum(0).sum().backward()
        state = norm.state_dict().values()
        return [y.detach(), given.grad, norm.weight.grad, norm.bias.grad, *state, norm.eval()(x).detach()]

    one, two = by_threads(lambda: trained(BatchNorm))
    assert all(map(torch.equal, one, two))
    torch.set_num_threads(1)
    assert all(map(torch.equal, one, trained(nn.BatchNorm1d)))
