"""What training does with small cells: clusters, covariates, held-out cells, many components."""

import numpy as np
import pytest
import torch
from dgd_cells import build, everything, make
from sklearn.metrics import silhouette_score

from mocli.metrics.clusters import ari
from mocli.models.base import Schedule
from mocli.models.multidgd.model import choose_components, start_places
from mocli.train.loop import Training, fit
from mocli.train.predict import encode_cells
from mocli.train.validation import split

CPU = torch.device("cpu")


def train(model, data, steps=80):
    return fit(model, data, Schedule(max_steps=steps), Training(CPU, seed=0))


def found(model, data):
    return model.clusters(torch.from_numpy(encode_cells(model, data, CPU))).argmax(1).numpy()


@pytest.mark.parametrize("names", [("rna",), ("rna", "atac"), ("rna", "atac", "prot")])
def test_groups_of_cells_become_clusters(names):
    data = make(150, names=names)
    model = build(data)
    train(model, data)
    assert ari(found(model, data), data.label.codes) > 0.8


def test_batches_part_in_their_own_space_and_mix_in_the_cells():
    data = make(150)
    model = build(data)
    train(model, data)
    c = model.module.cells[:, 4:6].detach()

    assert silhouette_score(c.numpy(), data.batch.codes) > 0.8
    z = encode_cells(model, data, CPU)
    assert silhouette_score(z, data.batch.codes) < 0.1


def test_a_hundred_components_and_five_levels_train():
    data = make(150, levels=tuple("abcde"))
    model = build(data, n_components=100)
    done = train(model, data, 20)
    assert np.isfinite(done.losses["fit"]["mixture"]["last"])
    assert model.module.covariate(0).n_components == 5


def test_labels_give_the_number_of_components_and_nothing_else():
    data, blind = make(), make(label=False)
    from_labels = build(data, n_components=None)
    assert from_labels.params.n_components == 3
    chosen = build(blind, n_components=3)
    for one, bundle in ((from_labels, data), (chosen, blind)):
        train(one, bundle, 10)
    other = chosen.module.state_dict()
    assert all(torch.equal(v, other[k]) for k, v in from_labels.module.state_dict().items())


def test_without_labels_the_data_say_how_many():
    data = make(300, label=False, levels=())
    assert build(data, n_components=None).params.n_components == 3
    assert choose_components(torch.zeros(40, 3), 0) == 1
    assert choose_components(start_places(make(5), 4, 2.0, 0), 0) == 1


def test_held_out_cells_learn_their_places_and_nothing_else_learns_from_them():
    data = make(100)
    model = build(data, validation_share=0.2, patience=50)
    phase = model.phases(Schedule(max_steps=25), data)[0]
    held_out = split(data.n_cells, phase.validation, 0)[1]
    before = model.module.cells.detach().clone()
    done = train(model, data, 25)
    moved = (model.module.cells != before).any(1)
    assert moved[held_out].all()
    curve = done.history["fit"]["validation"]["value"]
    assert curve[-1] < curve[0]
    assert done.history["fit"]["validation"]["step"] == [5.0, 10.0, 15.0, 20.0, 25.0]
    # other counts in held-out cells change their places, and no weight
    other = make(100)
    for m in other.modalities.values():
        x = m.features.values
        if not isinstance(x, np.ndarray):
            for cell in held_out:
                x.data[x.indptr[cell] : x.indptr[cell + 1]] += 1
    again = build(data, validation_share=0.2, patience=50)
    kept = phase_weights(again, other, 5)
    known = phase_weights(build(data, validation_share=0.2, patience=50), data, 5)
    assert all(torch.equal(a, b) for a, b in zip(kept, known, strict=True))


def phase_weights(model, data, steps):
    train(model, data, steps)
    return [w.detach() for n, w in model.module.named_parameters() if n != "cells"]


def test_the_start_follows_the_data_and_its_seed():
    data = make(150)
    z = start_places(data, 4, 2.0, 0)
    assert torch.equal(z, start_places(data, 4, 2.0, 0))
    assert z.norm(dim=1).quantile(0.99) == pytest.approx(2, rel=1e-3)
    for level in range(2):
        assert z[torch.from_numpy(data.batch.codes == level)].mean(0).abs().max() < 1e-3
    model = build(data)
    assert ari(found(model, data), data.label.codes) > 0.8
    rna = data.modalities["rna"].features.values
    share = np.asarray(rna.mean(0)).ravel()
    start = torch.softmax(model.module.branch("rna").head.bias, 0).detach().numpy()
    np.testing.assert_allclose(start, share / share.sum(), rtol=0.02, atol=1e-4)


def test_an_empty_cell_says_nothing():
    data = make(20, names=("rna",))
    x = data.modalities["rna"].features.values
    x.data[x.indptr[3] : x.indptr[4]] = 0
    x.eliminate_zeros()
    model = build(data)
    step = model.prepare(everything(data))
    model.module.reconstruction(step).backward()
    assert not model.module.cells.grad.to_dense()[3].any()
    train(model, data, 10)
    assert torch.isfinite(model.module.cells).all()
