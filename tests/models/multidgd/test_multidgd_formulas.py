"""multiDGD's loss and training against a second computation from the formulas."""

import numpy as np
import pytest
import torch
from dgd_cells import P, build, everything, make
from scipy import stats
from torch.nn import functional as F

from mocli.data.batches import Batches, dense_rows
from mocli.models.base import Conditions, Sampling, Schedule
from mocli.models.multidgd.params import PRESETS
from mocli.train.loop import Training, fit

CPU = torch.device("cpu")
PAPER = {**PRESETS["paper"], "validation_share": 0.0}


def as_numpy(tensor):
    return tensor.detach().numpy().astype(np.float64)


def relu_layers(x, mlp):
    for layer in mlp.layers:
        x = np.maximum(x @ as_numpy(layer.weight).T + as_numpy(layer.bias), 0)
    return x


def log_normal(z, mean, log_precision):
    return stats.norm.logpdf(z, mean, np.exp(-0.5 * log_precision)).sum(-1)


def by_hand(model, data):
    """Terms of the loss, summed over all cells, by numpy and scipy."""
    net, p = model.module, model.params
    table = as_numpy(net.cells)
    z, c = table[:, : p.n_latent], [table[:, p.n_latent :][:, 2 * i : 2 * i + 2] for i in range(2)]
    age = data.continuous.values
    inputs = np.concatenate([z, *c, (age - age.mean(0)) / age.std(0)], axis=1)
    shared = relu_layers(inputs, net.shared)
    reconstruction = 0.0
    for column, (name, m) in enumerate(data.modalities.items()):
        cells = np.flatnonzero(data.rows[:, column] >= 0)
        branch, x = net.branch(name), dense_rows(m.features, data.rows[cells, column])
        hidden = relu_layers(shared[cells], branch.hidden)
        out = hidden @ as_numpy(branch.head.weight).T + as_numpy(branch.head.bias)
        scale = as_numpy(branch.log_scale)
        if not branch.likelihood.is_counts:
            reconstruction -= stats.norm.logpdf(x, out, np.exp(scale)).sum()
            continue
        r = 1 + np.exp(scale)
        share = np.exp(out - np.logaddexp.reduce(out, axis=1, keepdims=True))
        mean = x.sum(1, keepdims=True) * share
        reconstruction -= stats.nbinom.logpmf(x, r, r / (r + mean)).sum()
    mixture = -mixed(net.mixture, z).sum()
    covariates = 0.0
    for i, codes in enumerate(data.categorical):
        own = net.covariate(i)
        joint = joint_density(own, c[i])
        known = codes.codes >= 0
        covariates -= joint[known, codes.codes[known]].sum() + mixed(own, c[i])[~known].sum()
    weights = [w for n, w in net.named_parameters() if n.startswith(("shared", "branches")) and "weight" in n]
    l1 = sum(np.abs(as_numpy(w)).sum() for w in weights)
    return {"reconstruction": reconstruction, "mixture": mixture, "covariates": covariates, "l1": l1}


def joint_density(mixture, z):
    logit = as_numpy(mixture.logit)
    share = logit - np.logaddexp.reduce(logit)
    return share + log_normal(z[:, None], as_numpy(mixture.mean), as_numpy(mixture.log_precision))


def mixed(mixture, z):
    return np.logaddexp.reduce(joint_density(mixture, z), axis=1)


@pytest.mark.parametrize("density", ["one", "levels"])
@pytest.mark.parametrize("prior", ["once", "batch", "cell"])
def test_every_term_and_the_total_are_those_of_the_formulas(mosaic, density, prior):
    model = build(mosaic, covariate_density=density, prior=prior, weight_l1=0.5)
    fit(model, mosaic, Schedule(max_steps=7), Training(CPU, seed=0))
    model.module.train()
    losses = model.losses(model.prepare(everything(mosaic)), "decoder")
    expected, n = by_hand(model, mosaic), mosaic.n_cells
    if density == "levels":
        expected["covariates"] *= 2
    for name in ("reconstruction", "mixture", "covariates"):
        assert losses.terms[name].item() * n == pytest.approx(expected[name], rel=1e-4), name
    assert losses.terms["l1"].item() == pytest.approx(expected["l1"], rel=1e-5)
    times = {"once": 1, "batch": 1, "cell": n}[prior]
    whole = sum(expected[k] for k in ("reconstruction", "mixture", "covariates"))
    whole += times * losses.terms["prior"].item() + 0.5 * expected["l1"]
    assert losses.total.item() == pytest.approx(whole, rel=1e-4)


def test_dispersions_start_at_two_and_never_fall_below_one(mosaic):
    branch = build(mosaic).module.branch("rna")
    torch.testing.assert_close(branch.log_dispersion.exp(), torch.full((P["rna"],), 2.0))
    with torch.no_grad():
        branch.log_scale.fill_(-50)
    assert (branch.log_dispersion >= 0).all()


def test_networks_have_the_published_widths():
    model = build(make(names=("rna",)), n_hidden=100, n_latent=20)
    net = model.module
    assert [tuple(layer.weight.shape) for layer in net.shared.layers] == [(100, 25), (100, 100)]
    branch = type(net.branches[0])(25_734, "nb", model.params)
    assert [tuple(layer.weight.shape) for layer in branch.hidden.layers] == [(100, 100), (160, 100)]
    assert tuple(branch.head.weight.shape) == (25_734, 160)


def published(model, data, epochs):
    """The authors' rhythm with plain Adam: places step once an epoch, all else with every minibatch."""
    net, p = model.module, model.params
    table = torch.nn.Parameter(net.cells.detach().clone())
    others = [w for n, w in net.named_parameters() if n != "cells"]
    rest = {"betas": (0.5, 0.7), "weight_decay": 1e-4}
    groups = [
        {"params": net.decoder_parameters(), "lr": 1e-4},
        {"params": [*net.mixture.parameters(), *net.covariates.parameters()], "lr": 1e-2},
    ]
    quick, slow = torch.optim.Adam(groups, **rest), torch.optim.Adam([table], lr=1e-2, **rest)
    assert sum(len(g["params"]) for g in groups) == len(others)
    generator = torch.Generator().manual_seed(0)
    batches = Batches(
        data, Sampling(p.batch_size, independent=False, replacement=False), device="cpu", generator=generator
    )
    for _ in range(epochs):
        slow.zero_grad()
        for step in range(-(-data.n_cells // p.batch_size)):
            batch = batches.next(step)
            rows = F.embedding(batch.cells, table)
            net.cells.data.copy_(table.detach())
            step_of = net.places(batch)
            parts = rows.split([p.n_latent, 2, 2], dim=1)
            step_of = type(step_of)(batch, parts[0], tuple(parts[1:]))
            quick.zero_grad()
            model.losses(step_of, "decoder").total.backward()
            quick.step()
        slow.step()
    net.cells.data.copy_(table.detach())


def test_the_paper_s_preset_trains_in_the_published_rhythm():
    data = make()
    ours, theirs = build(data, **PAPER), build(data, **PAPER)
    assert not ours.module.cells[:, :4].any()
    fit(ours, data, Schedule(max_steps=12), Training(CPU, seed=0))
    theirs.module.train()
    published(theirs, data, 3)
    for (name, a), b in zip(ours.module.named_parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)


def test_the_first_step_of_a_place_is_the_sign_of_its_gradient():
    data = make(20)
    model = build(data, validation_share=0.0, batch_size=32)
    before = model.module.cells.detach().clone()
    model.module.train()
    model.losses(model.prepare(everything(data)), "decoder").total.backward()
    gradient = model.module.cells.grad.to_dense() + model.params.weight_decay * before
    again = build(data, validation_share=0.0, batch_size=32)
    fit(again, data, Schedule(max_steps=1), Training(CPU, seed=0))
    expected = before - model.params.lr_cells * gradient.sign()
    torch.testing.assert_close(again.module.cells.detach(), expected, rtol=1e-3, atol=1e-5)


def test_a_cell_learns_from_its_own_counts_alone(mosaic):
    """The gradient of each place is that of the cell by itself, also where modalities are missing."""
    model = build(mosaic, validation_share=0.0)
    model.module.train()
    model.losses(model.prepare(everything(mosaic)), "decoder").total.backward()
    together = model.module.cells.grad.to_dense()
    from mocli.data.batches import BundleRows

    source = BundleRows(mosaic, "cpu")
    for cell in (0, 5, 30, 59):
        model.module.zero_grad()
        model.losses(model.prepare(source.take_cells(torch.tensor([cell]), 0)), "decoder").total.backward()
        alone = model.module.cells.grad.to_dense()[cell]
        torch.testing.assert_close(together[cell], alone, rtol=1e-4, atol=1e-4)


def test_decoding_stands_at_the_component_of_a_level(mosaic):
    model = build(mosaic)
    net, z = model.module, torch.randn(3, 4)
    conditions = Conditions({"batch": torch.tensor([1, 0, -1])}, torch.zeros(3, 1))
    with torch.no_grad():
        x = model.decode("rna", z, conditions, torch.tensor([10.0, 20.0, 30.0]))
        torch.testing.assert_close(x.sum(1), torch.tensor([10.0, 20.0, 30.0]))
        donors = net.covariate(1).log_weights.exp() @ net.covariate(1).mean
        c = (net.covariate(0).mean[1][None], donors[None])
        shared = net.hidden(z[:1], c, torch.zeros(1, 1))
        torch.testing.assert_close(x[:1], 10 * torch.softmax(net.branch("rna")(shared), 1))
        assert model.decode("prot", z).shape == (3, P["prot"])
        torch.testing.assert_close(model.decode("rna", z).sum(1), net.depth[0].expand(3))
