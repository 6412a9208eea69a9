"""Every likelihood: draws against its own mean and variance, where decoders begin, and one more of it."""

import numpy as np
import pytest
import torch

from mocli.models.base import Conditions
from mocli.models.multidgd.module import Branch
from mocli.models.multigrate.model import Multigrate
from mocli.models.multigrate.module import Shape
from mocli.models.multigrate.networks import Decoder
from mocli.models.registry import resolve, traits_of
from mocli.models.sccross.module import LinearDecoder
from mocli.nn import heads
from mocli.nn.heads import Likelihood, Parameters, likelihood_named
from mocli.types import COUNT_LIKELIHOODS, LIKELIHOODS

N, P = 20_000, 4


def params(name, **over):
    return resolve(traits_of(name), {"n_hidden": 8, "n_latent": 3} | over)


def gen():
    return torch.Generator().manual_seed(0)


def close(drawn, mean, variance):
    mean, variance = (x.detach().numpy() for x in (mean, variance))
    np.testing.assert_allclose(drawn.mean(0), mean, atol=float(5 * np.sqrt(variance.max() / N)))
    np.testing.assert_allclose(drawn.var(0), variance, rtol=0.15)


def test_the_command_line_knows_the_likelihoods_that_there_are():
    assert set(LIKELIHOODS) == set(heads.LIKELIHOODS)
    assert {name for name, one in heads.LIKELIHOODS.items() if one.is_counts} == COUNT_LIKELIHOODS


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_draws_have_the_mean_and_the_variance_of_the_likelihood(name):
    torch.manual_seed(0)
    likelihood = likelihood_named(name)
    head, library = torch.randn(1, P) * 0.3, torch.full((1,), 30.0)
    zeros = torch.randn(1, P) if likelihood.has_zeros else None
    scale = torch.randn(P) * 0.5 if likelihood.scale and not likelihood.fixed_scale else None
    mean = likelihood.mean(Parameters(head, scale, zeros), library)[0]
    many = Parameters(head.expand(N, P), scale, zeros)
    drawn = likelihood.draw(many, library.expand(N), gen()).numpy()
    keep = torch.ones(P) if zeros is None else torch.sigmoid(-zeros[0])
    if likelihood.is_binary:
        close(drawn, mean, mean * (1 - mean))
    elif name == "normal":
        close(drawn, mean, torch.full((P,), 0.5))
        with_scale = likelihood.draw(Parameters(head.expand(N, P), torch.zeros(P)), library, gen()).numpy()
        close(with_scale, mean, torch.ones(P))
    elif name == "ziln":  # its fourth moment is too large for a tight bound
        np.testing.assert_allclose(drawn.mean(0), mean, rtol=0.15)
        np.testing.assert_allclose((drawn == 0).mean(0), 1 - keep, atol=0.02)
    else:
        r = torch.full((P,), torch.inf) if scale is None else scale.exp()
        plain = mean / keep
        close(drawn, mean, keep * (plain + plain**2 / r + plain**2) - mean**2)


@pytest.mark.parametrize("likelihood", ["nb", "normal"])
def test_multidgd_draws_what_it_scores(likelihood):
    torch.manual_seed(0)
    branch = Branch(P, likelihood, params("multidgd"))
    at = branch.parameters_at(torch.randn(1, 8))
    library = torch.full((1,), 30.0)
    mean = branch.likelihood.mean(at, library)[0]
    variance = mean + mean**2 / branch.log_dispersion.exp()
    if likelihood == "normal":
        variance = torch.exp(2 * branch.log_sd)
    with torch.inference_mode():
        many = at._replace(head=at.head.expand(N, P))
        drawn = branch.likelihood.draw(many, library.expand(N), gen()).numpy()
    close(drawn, mean, variance)


def test_dispersion_by_batch_is_that_of_the_batch_asked_for():
    torch.manual_seed(0)
    shape = Shape(
        modalities=(("rna", P, "nb"), ("prot", P, "nb")),
        levels={"batch": ("a", "b")},
        has_batch=True,
        continuous=(),
        patterns=(3,),
    )
    model = Multigrate(shape, params("multigrate", dispersion="batch"))
    model.module.eval()
    with torch.no_grad():
        model.module.decoders[0].log_scale.copy_(torch.tensor([[8.0] * P, [-2.0] * P]))
    z, library = torch.zeros(N, 3), torch.full((N,), 40.0)
    spread = []
    for code in (0, 1):
        conditions = Conditions({"batch": torch.full((N,), code)})
        with torch.inference_mode():
            drawn = model.sample("rna", z, conditions, library, generator=gen())
        spread.append(float((drawn.var(0) / drawn.mean(0)).mean()))
    assert spread[0] == pytest.approx(1, abs=0.1)
    assert spread[1] > 20


@pytest.mark.parametrize("form", ["raw", "log1p", "lognorm"])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_arrays_and_tensors_are_seen_alike(name, form):
    x = np.array([[0, 1, 2.5], [4, 0, 0]], np.float32)
    factor = np.array([[2], [0.5]], np.float32)
    likelihood = likelihood_named(name)
    there = likelihood.encoder_input(torch.from_numpy(x), form, torch.from_numpy(factor)).numpy()
    np.testing.assert_allclose(likelihood.encoder_input(x, form, factor), there, rtol=1e-6)
    changed = not np.array_equal(there, x)
    assert changed == (likelihood.is_binary or (form != "raw" and name != "normal"))


@pytest.fixture
def laplace():
    """One more likelihood: one class."""

    class Laplace(Likelihood):
        name = "laplace"

        def start(self, mean):
            return mean

        def loss(self, x, at, weight):
            return weight @ (x - at.head).abs().sum(1)

        def mean(self, at, library):
            return at.head

        def draw(self, at, library, generator):
            return at.head + torch.empty_like(at.head).exponential_(generator=generator)

    yield Laplace
    del heads.LIKELIHOODS["laplace"]


@pytest.mark.usefixtures("laplace")
def test_a_new_likelihood_is_one_class():
    shape = Shape(
        modalities=(("rna", P, "laplace"),), levels={}, has_batch=False, continuous=(), patterns=(1,)
    )
    model = Multigrate(shape, params("multigrate"))
    assert model.decode("rna", torch.zeros(2, 3)).shape == (2, P)
    assert model.sample("rna", torch.zeros(2, 3), generator=gen()).shape == (2, P)
    for decoder in (
        Decoder(P, 0, "laplace", (1, 0), params("multigrate")),
        LinearDecoder(3, P, "laplace", 1),
    ):
        at = decoder.parameters_at(torch.zeros(2, 3), None)
        assert float(decoder.likelihood.loss(at.head + 1, at, torch.ones(2)).detach()) == pytest.approx(2 * P)


def test_a_likelihood_that_is_not_there():
    with pytest.raises(ValueError, match="no likelihood 'gamma'"):
        likelihood_named("gamma")
