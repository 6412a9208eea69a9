"""New cells, new batches and missing modalities: where places start, and that nothing known moves."""

import itertools

import numpy as np
import pytest
import torch
from dgd_cells import build, everything, make
from scipy import stats

from mocli.data.batches import dense_rows
from mocli.models.base import Extends, Schedule
from mocli.train.loop import Training, fit
from mocli.train.predict import encode_cells

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data():
    return make(150, missing=(4,))


@pytest.fixture(scope="module")
def model(data):
    made = build(data, lr=1e-2, weight_l1=0.0)
    fit(made, data, Schedule(max_steps=100), Training(CPU, seed=0))
    return made


def frozen(model):
    state = model.module.state_dict()
    return {k: v.clone() for k, v in state.items() if k.startswith(("shared", "branches", "mixture"))}


def run(query, bundle, steps=40):
    done = fit(query, bundle, Schedule(max_steps=steps), Training(CPU, seed=0))
    return done.losses["query"]["reconstruction"]


def loss_of(model, bundle):
    with torch.no_grad():
        model.module.eval()
        return model.losses(model.prepare(everything(bundle)), "cells").terms["reconstruction"].item()


def test_cells_like_those_of_training_are_described_as_well(model, data):
    query = make(90, seed=5)
    extended = model.extended(query)
    assert isinstance(model, Extends)
    before = frozen(extended)
    start = loss_of(extended, query)
    run(extended, query)
    seen, unseen = loss_of(model, data), loss_of(extended, query)
    assert unseen < start
    # cells differ in their depth: by the cells of another draw in training
    other = build(query, lr=1e-2, weight_l1=0.0)
    fit(other, query, Schedule(max_steps=100), Training(CPU, seed=0))
    assert unseen < 1.05 * loss_of(other, query)
    assert unseen < 1.05 * seen
    after = frozen(extended)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(torch.equal(v, frozen(model)[k]) for k, v in after.items())


def test_groups_are_found_again(model):
    query = make(90, seed=5)
    extended = model.extended(query)
    run(extended, query)
    z = torch.from_numpy(encode_cells(extended, query, CPU))
    assigned = model.clusters(z).argmax(1).numpy()
    truth = query.label.codes
    best = max(np.mean(np.array(p)[assigned] == truth) for p in itertools.permutations(range(3)))
    assert best > 0.9


def test_the_start_is_the_best_candidate_by_brute_force(model):
    query = make(12, seed=8, missing=(2, 7), have={"atac": np.arange(3, 12), "prot": np.arange(0, 9)})
    extended = model.extended(query)
    net = extended.module
    for cell in range(12):
        levels = [int(codes.codes[cell]) for codes in query.categorical]
        choices = [range(2) if level < 0 else [level] for level in levels]
        scores = {}
        for k, *c in itertools.product(range(3), *choices):
            places = [net.covariate(i).mean[j][None] for i, j in enumerate(c)]
            z = net.mixture.mean[k][None]
            total = -net.mixture.log_density(z).item()
            for column, (name, m) in enumerate(query.modalities.items()):
                row = query.rows[cell, column]
                if row < 0:
                    continue
                x = dense_rows(m.features, np.array([row]))[0]
                branch = net.branch(name)
                out = branch(net.hidden(z, tuple(places), None))
                if not branch.likelihood.is_counts:
                    sd = branch.log_sd.exp().detach()
                    total -= stats.norm.logpdf(x, out[0].detach(), sd).sum()
                    continue
                mean = (torch.softmax(out, 1)[0] * float(x.sum())).detach().double().numpy()
                r = branch.log_dispersion.exp().detach().double().numpy()
                total -= stats.nbinom.logpmf(x, r, r / (r + mean)).sum()
            scores[k, *c] = total
        k, *c = min(scores, key=scores.get)
        expected = torch.cat([net.mixture.mean[k], *(net.covariate(i).mean[j] for i, j in enumerate(c))])
        torch.testing.assert_close(net.cells[cell], expected)


@pytest.mark.parametrize("only_new", [False, True])
def test_a_new_batch_gets_a_component_and_the_old_ones_stay(model, only_new):
    batches = np.full(90, 2) if only_new else np.arange(90) // 3 % 3
    query = make(90, seed=5, levels=("a", "b", "c"), batches=batches)
    extended = model.extended(query)
    old, new = model.module.covariate(0), extended.module.covariate(0)
    assert new.n_components == 3
    start = new.mean[2].detach().clone()
    first = loss_of(extended, query)
    run(extended, query)
    for name in ("mean", "log_precision", "logit"):
        assert torch.equal(getattr(new, name)[:2], getattr(old, name)), name
    assert torch.isfinite(new.mean).all()
    assert not torch.equal(new.mean[2], start)
    assert loss_of(extended, query) < first


def test_a_naive_new_batch_lies_where_known_ones_describe_it(data):
    model = build(data, new_levels="naive", lr=1e-2, weight_l1=0.0)
    fit(model, data, Schedule(max_steps=60), Training(CPU, seed=0))
    query = make(60, seed=5, levels=("a", "b", "c"), batches=np.full(60, 2))
    extended = model.extended(query)
    assert extended.module.covariate(0).n_components == 2
    c = extended.module.cells[:, 4:6].detach()
    assert {tuple(row) for row in c.tolist()} <= {
        tuple(row) for row in model.module.covariate(0).mean.tolist()
    }
    run(extended, query, 20)
    assert torch.isfinite(extended.module.cells).all()


def test_the_model_itself_is_left_as_it_was(model):
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    query = make(30, seed=6, levels=("a", "b", "c"), batches=np.arange(30) % 3)
    run(model.extended(query), query, 10)
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    assert all(p.requires_grad for p in model.module.parameters())


def test_an_extended_model_is_rebuilt_from_its_spec(model):
    query = make(30, seed=6, levels=("a", "b", "c"), batches=np.arange(30) % 3)
    extended = model.extended(query)
    run(extended, query, 5)
    again = type(model).from_spec(extended.spec(), extended.params)
    again.module.load_state_dict(extended.module.state_dict())
    assert np.array_equal(encode_cells(again, query, CPU), encode_cells(extended, query, CPU))
