"""Losses and decoders of scCross by hand, scipy and torch's own distributions."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Normal, kl_divergence

from mocli.models.base import Conditions
from mocli.models.registry import resolve, traits_of
from mocli.models.sccross.model import Sccross
from mocli.models.sccross.module import (
    LinearDecoder,
    ModalityPart,
    SccrossModule,
    SeenModality,
    Shape,
    Step,
    normal_kl,
)


def params(**over):
    return resolve(traits_of("sccross"), {"n_latent": 3, "n_hidden": 8, "batch_size": 8} | over)


def module(levels=(), **over):
    parts = tuple(ModalityPart(n, w, "nb", "lognorm", 4, 0, 1) for n, w in (("rna", 6), ("atac", 9)))
    torch.manual_seed(0)
    shape = Shape(parts, (("rna", "atac"),), "batch" if levels else None, tuple(levels))
    return SccrossModule(shape, params(**over)).eval()


def seen(n, at, seed, d=3, width=6):
    g = torch.Generator().manual_seed(seed)

    def gaussian():
        return torch.randn(n, d, generator=g), torch.rand(n, d, generator=g) + 0.1

    x = torch.poisson(torch.full((n, width), 2.0), generator=g)
    return SeenModality(x, None, torch.tensor(at), torch.arange(n), gaussian(), gaussian())


def test_kl_is_torch_s_own():
    a, b = ((torch.randn(4, 3), torch.rand(4, 3) + 0.2) for _ in range(2))
    wanted = kl_divergence(Normal(*a), Normal(*b)).sum(-1)
    torch.testing.assert_close(normal_kl(a, b), wanted)
    torch.testing.assert_close(normal_kl(a), kl_divergence(Normal(*a), Normal(0.0, 1.0)).sum(-1))


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
def test_library_sizes_are_kept_whatever_the_dispersion(likelihood):
    torch.manual_seed(0)
    decoder = LinearDecoder(3, 20, likelihood, 1)
    if decoder.log_scale is not None:
        decoder.log_scale.data.fill_(1.1)
    if decoder.zeros is not None:
        decoder.zeros.data.fill_(-50.0)
    u, library = torch.randn(2000, 3), torch.full((2000,), 60.0)
    with torch.no_grad():
        at = decoder.parameters_at(u, None)
        torch.testing.assert_close(decoder.likelihood.mean(at, library).sum(1), library)
        drawn = decoder.likelihood.draw(at, library, torch.Generator().manual_seed(0))
    assert float(drawn.sum(1).mean()) == pytest.approx(60, rel=0.03)


def test_negative_binomial_loss_is_scipy_s():
    torch.manual_seed(0)
    decoder = LinearDecoder(3, 7, "nb", 2)
    for table in (decoder.log_scale, decoder.scale, decoder.bias):
        table.data.normal_()
    u, codes = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
    x, weight = torch.poisson(torch.full((5, 7), 2.0)), torch.full((5,), 0.2)
    logits = decoder(u, codes)
    plain = u @ decoder.head.weight.T * torch.nn.functional.softplus(decoder.scale)[codes]
    plain = plain + decoder.head.bias + decoder.bias[codes]
    torch.testing.assert_close(logits, plain)
    mean = (torch.softmax(plain, 1) * x.sum(1, keepdim=True)).detach().numpy()
    r = decoder.log_scale.exp()[codes].detach().numpy()
    wanted = -stats.nbinom.logpmf(x.numpy(), r, r / (r + mean)).sum(1).mean()
    at = decoder.parameters_at(u, codes)
    assert decoder.likelihood.loss(x, at, weight).item() == pytest.approx(wanted, rel=1e-4)


def test_zero_inflated_log_normal_integrates_to_one():
    decoder = LinearDecoder(2, 1, "ziln", 1)
    decoder.zeros.data.fill_(0.4)
    at, weight = decoder.parameters_at(torch.zeros(1, 2), None), torch.ones(1)

    def density(x):
        return np.exp(-decoder.likelihood.loss(torch.tensor([[x]]), at, weight).item())

    assert integrate.quad(density, 1e-9, 60)[0] + density(0.0) == pytest.approx(1, abs=2e-3)


def test_a_missing_batch_stands_at_the_mean_of_batches():
    decoder = LinearDecoder(2, 4, "nb", 3)
    decoder.bias.data.normal_()
    decoder.scale.data.normal_()
    u = torch.randn(2, 2)
    torch.testing.assert_close(decoder(u, torch.tensor([-1, -1])), decoder(u, None))


def test_posteriors_are_averaged_over_a_cell_s_own_modalities_only():
    net = module(unit_latent=False)
    a, b = seen(3, [0, 1, 2], 0), seen(2, [1, 3], 1, width=9)
    (mean, sd), count = net.joint(Step(0, 4, {"rna": a, "atac": b}))
    assert count.tolist() == [1, 2, 1, 1]
    torch.testing.assert_close(mean[0], a.z[0][0])
    torch.testing.assert_close(mean[1], (a.z[0][1] + b.z[0][0]) / 2)
    torch.testing.assert_close(sd[1], (a.z[1][1] + b.z[1][0]) / 2)
    torch.testing.assert_close(mean[3], b.z[0][1])


def test_common_latents_are_drawn_to_their_cell_s_middle_or_the_prior():
    net = module(unit_latent=False)
    a, b = seen(2, [0, 1], 0), seen(1, [1], 1, width=9)
    step = Step(0, 2, {"rna": a, "atac": b})
    (mean, sd), _ = net.joint(step)
    terms = net.aligned_terms(step)
    alone = kl_divergence(Normal(a.z[0][0], a.z[1][0]), Normal(0.0, 1.0)).sum()
    both = [
        kl_divergence(Normal(s.z[0][i], s.z[1][i]), Normal(mean[1], sd[1])).sum() for s, i in ((a, 1), (b, 0))
    ]
    torch.testing.assert_close(terms["kl_aligned"], (alone + both[0]) / 2 / 6 + both[1] / 9)
    apart = [(s.z[0][i] - mean[1]).square() for s, i in ((a, 1), (b, 0))]
    torch.testing.assert_close(terms["pairs"], apart[0].sum() / 6 + apart[1].mean())


def test_the_paper_s_prior_compares_inner_products():
    net = module(prior="gram", unit_latent=False)
    g_a, g_b = torch.randn(3, 4), torch.randn(2, 4)
    net.keep_prior({("rna", "atac"): (g_a, g_b)}, [1])
    a, b = seen(3, [0, 1, 2], 0), seen(2, [3, 4], 1, width=9)
    found = net.prior_term(Step(0, 5, {"rna": a, "atac": b}), aligned=True)
    wanted = np.mean(
        [sum(float(g_a[i] @ g_b[j] - a.z[0][i] @ b.z[0][j]) ** 2 for j in range(2)) for i in range(3)]
    )
    assert float(found) == pytest.approx(wanted, rel=1e-4)


def test_latents_of_one_length():
    net = module()
    inputs = torch.randn(5, 4)
    assert torch.allclose(net.encode("rna", inputs)[1][0].norm(dim=1), torch.tensor(3.0).sqrt())


def test_batches_differ_as_asked():
    net = module(levels=("a", "b"))
    net.decoders[0].bias.data[1].normal_()
    model, z = Sccross(net, net.params), torch.randn(4, 3)
    first, second = (model.decode("rna", z, Conditions({"batch": torch.full((4,), k)})) for k in (0, 1))
    assert not torch.allclose(first, second)
    generator = torch.Generator().manual_seed(0)
    assert model.sample("rna", z, generator=generator).shape == (4, 6)


def test_critics_of_generation_reach_the_generator_through_expected_values():
    net = module(weight_generation=1.0)
    a = seen(3, [0, 1, 2], 0)
    z = (a.z[0].requires_grad_(), a.z[1])
    step = Step(0, 3, {"rna": replace(a, z=z)})
    net.generation(step, detach=False).backward()
    assert float(a.z[0].grad.abs().sum()) > 0


def test_a_shape_goes_through_json():
    shape = module(levels=("a",)).shape
    assert Shape.from_spec(json.loads(json.dumps(shape.spec()))) == shape


def test_the_paper_s_preset():
    paper = resolve(traits_of("sccross"), {}, "paper")
    assert (paper.weight_prior, paper.prior, paper.weight_pairs) == (0.04, "gram", 0.0)


@pytest.mark.parametrize("form", ["lognorm", "tfidf", "clr", "binary", "identity"])
def test_a_changed_feature_enters_linearly(form):
    part = ModalityPart("rna", 6, "nb", form, 4, 5, 2)
    torch.manual_seed(0)
    net = SccrossModule(Shape((part,), (), None, ()), params()).eval()
    for buffer in (net.projection("rna").weight, net.projection("rna").shift, net.reference_0):
        buffer.normal_()
    net.projection("rna").factor.fill_(20.0)
    model, x = Sccross(net, net.params), torch.poisson(torch.full((3, 6), 4.0)) + 1
    torch.testing.assert_close(model.leave("rna", model.enter("rna", x)), model.encode("rna", x))
    # one feature changed at the depth that was measured
    new, library = x[:, 2] * 0.5, x.sum(1)
    change = model.entry_values("rna", new, library) - model.entry_values("rna", x[:, 2], library)
    moved = model.enter("rna", x) + change[:, None] * model.entry_weights("rna")[2]
    formed = net.projection("rna").formed(
        torch.cat([x[:, :2], new[:, None], x[:, 3:]], 1), library.unsqueeze(1)
    )
    components = formed @ net.projection("rna").weight - net.projection("rna").shift
    # the neighbours before the change are kept
    before = net.projection("rna")(x)
    mean = net.averaged("rna", before) - (1 - net.params.input_smoothing) * before
    torch.testing.assert_close(moved, (1 - net.params.input_smoothing) * components + mean)
    assert 0 < net.params.input_smoothing < 1


def test_a_cell_without_batch_stands_at_the_mean_of_batches():
    torch.manual_seed(0)
    decoder = LinearDecoder(3, 5, "nb", 3)
    for table in (decoder.scale, decoder.bias, decoder.log_scale):
        torch.nn.init.normal_(table)
    u = torch.randn(4, 3)
    found = decoder.parameters_at(u, torch.tensor([2, 0, -1, 1]))
    single = decoder.parameters_at(u[:1], torch.tensor([2]))
    assert torch.equal(found.log_scale[2], decoder.log_scale.mean(0).clamp(-8, 8))
    torch.testing.assert_close(found.head[:1], single.head)
    middle = decoder(u[2:3], None)
    torch.testing.assert_close(found.head[2:3], middle)
