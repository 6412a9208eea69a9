"""Draws of every likelihood of the models that have one, against the moments of the likelihood."""

import numpy as np
import pytest
import torch

from mocli.models.base import Conditions
from mocli.models.multidgd.networks import Branch
from mocli.models.multigrate.networks import Decoder
from mocli.models.parameters import resolve
from mocli.models.registry import traits_of

N, P = 20_000, 4


def params(name):
    return resolve(traits_of(name), {"n_hidden": 8, "n_latent": 3})


def gen():
    return torch.Generator().manual_seed(0)


def close(drawn, mean, variance):
    mean, variance = (x.detach().numpy() for x in (mean, variance))
    np.testing.assert_allclose(drawn.mean(0), mean, atol=float(5 * np.sqrt(variance.max() / N)))
    np.testing.assert_allclose(drawn.var(0), variance, rtol=0.15)


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "bernoulli", "normal", "ziln"])
def test_multigrate_draws_what_it_scores(likelihood):
    torch.manual_seed(0)
    decoder = Decoder(P, 0, likelihood, (1, 0), params("multigrate")).eval()
    head = torch.randn(1, P) * 0.3
    zeros = torch.randn(1, P) if decoder.zeros is not None else None
    library = torch.full((1,), 30.0)
    mean = decoder.expected((head, zeros), library)[0]
    shape = (N, P)
    output = head.expand(shape), None if zeros is None else zeros.expand(shape)
    with torch.inference_mode():
        drawn = decoder.draw(output, library.expand(N), None, gen()).numpy()
    if likelihood == "bernoulli":
        variance = mean * (1 - mean)
    elif likelihood == "normal":
        variance = torch.full((P,), 0.5)
    elif likelihood == "ziln":
        keep = torch.sigmoid(-zeros[0])
        # log-normal with standard deviation 1
        second = torch.exp(2 * head[0] + 2)
        variance = keep * second - mean**2
    else:
        r = torch.full((P,), torch.inf) if likelihood == "poisson" else decoder.log_scale[0].exp()
        keep = torch.ones(P) if zeros is None else torch.sigmoid(-zeros[0])
        plain = mean / keep
        variance = keep * (plain + plain**2 / r + plain**2) - mean**2
    if likelihood == "ziln":  # its fourth moment is too large for a tight bound
        np.testing.assert_allclose(drawn.mean(0), mean.detach(), rtol=0.1)
        np.testing.assert_allclose((drawn == 0).mean(0), 1 - keep, atol=0.02)
    else:
        close(drawn, mean, variance)


@pytest.mark.parametrize("likelihood", ["nb", "normal"])
def test_multidgd_draws_what_it_scores(likelihood):
    torch.manual_seed(0)
    branch = Branch(P, likelihood, params("multidgd"))
    output, library = torch.randn(1, P), torch.full((1,), 30.0)
    mean = branch.expected(output, library)[0]
    variance = mean + mean**2 / branch.log_dispersion.exp()
    if likelihood == "normal":
        variance = torch.exp(2 * branch.log_sd)
    with torch.inference_mode():
        drawn = branch.draw(output.expand(N, P), library.expand(N), gen()).numpy()
    close(drawn, mean, variance)


def test_dispersion_by_batch_is_that_of_the_batch_asked_for():
    from mocli.models.multigrate.model import Multigrate
    from mocli.models.multigrate.shape import Shape

    torch.manual_seed(0)
    chosen = resolve(traits_of("multigrate"), {"n_hidden": 8, "n_latent": 3, "dispersion": "batch"})
    shape = Shape(
        widths={"rna": P, "prot": P},
        likelihoods={"rna": "nb", "prot": "nb"},
        levels={"batch": ("a", "b")},
        has_batch=True,
        continuous=(),
        patterns=(3,),
    )
    model = Multigrate(shape, chosen)
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
