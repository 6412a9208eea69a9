"""Weights of cells in critics, by labels or of the user's own: equal ones change nothing, other ones do."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from mocli.data.batches import Batches
from mocli.data.bundle import Codes, FeatureMatrix, LinkedFeatures, Modality, MultiOmics
from mocli.errors import UsageError
from mocli.models.base import Schedule
from mocli.models.registry import describe, load_class, resolve, traits_of
from mocli.nn.losses import cell_weights, discriminator_loss, source_entropy
from mocli.train.loop import Training, fit
from mocli.types import ModalityKind, Pairing

SIZES = {"rna": (60, 12), "prot": (40, 6)}


def make_bundle(prot_labels):
    rng = np.random.default_rng(0)
    modalities, sides = {}, []
    rows = np.full((100, 2), -1)
    rows[:60, 0], rows[60:, 1] = np.arange(60), np.arange(40)
    for name, (n, p) in SIZES.items():
        features = FeatureMatrix(rng.normal(size=(n, p)).astype(np.float32), tuple(map(str, range(p))))
        names = tuple(f"{name}{i}" for i in range(n))
        modalities[name] = Modality(name, ModalityKind(name), features, names, np.ones(n, np.float32))
        sides.append(FeatureMatrix(rng.normal(size=(n, 4)).astype(np.float32), tuple("abcd")))
    codes = np.concatenate([np.arange(60) % 2, prot_labels])
    return MultiOmics(
        modalities,
        rows,
        tuple(map(str, range(100))),
        Pairing.UNPAIRED,
        (LinkedFeatures("rna", "prot", *sides, tuple("abcd")),),
        label=Codes("label", codes, ("x", "y")),
    )


def losses(name, bundle, weights):
    traits = traits_of(name)
    known = {entry["name"] for entry in describe(traits)}
    small = {"n_hidden": 8, "n_latent": 4, "batch_size": 16, "n_neighbors": 4}
    params = {k: v for k, v in small.items() if k in known} | {"critic_weights": weights}
    torch.manual_seed(0)
    model = load_class(traits.model).from_bundle(bundle, resolve(traits, params))
    done = fit(model, bundle, Schedule(max_steps=6), Training(torch.device("cpu"), 0))
    # what is kept of training cells is not saved
    again = load_class(traits.model).from_spec(model.spec(), model.params)
    again.module.load_state_dict(model.module.state_dict())
    return done.losses["align"]


@pytest.mark.parametrize("name", ["scmodal", "sccross"])
def test_labels_in_equal_shares_change_nothing_and_other_ones_do(name):
    same, other = make_bundle(np.arange(40) % 2), make_bundle((np.arange(40) % 8 == 0) * 1)
    plain = losses(name, same, "equal")
    for term, values in losses(name, same, "labels").items():
        assert values["last"] == pytest.approx(plain[term]["last"], rel=1e-4), term
    assert losses(name, other, "labels")["critic"] != plain["critic"]
    assert losses(name, other, "equal")["critic"] == plain["critic"]


def test_cells_of_a_large_modality_may_weigh_as_many():
    bundle = make_bundle(np.arange(40) % 2)
    assert set(losses("sccross", bundle, "cells")) == set(losses("sccross", bundle, "equal"))


@pytest.mark.parametrize("name", ["scmodal", "sccross"])
def test_without_labels_there_is_nothing_to_weigh_by(name):
    bundle = replace(make_bundle(np.arange(40) % 2), label=None)
    with pytest.raises(UsageError, match="labels") as error:
        losses(name, bundle, "labels")
    assert "--label-key" in error.value.hint


def first_losses(name, bundle, weights="equal"):
    """Losses of the critic and of the generator in the first minibatch of the alignment."""
    traits = traits_of(name)
    known = {entry["name"] for entry in describe(traits)}
    small = {"n_hidden": 8, "n_latent": 4, "batch_size": 16, "n_neighbors": 4, "dropout": 0.0}
    params = {k: v for k, v in small.items() if k in known} | {"critic_weights": weights}
    torch.manual_seed(0)
    model = load_class(traits.model).from_bundle(bundle, resolve(traits, params))
    phase = model.phases(Schedule(max_steps=9), bundle)[-1]
    batches = Batches(bundle, phase.sampling, device="cpu", generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    prepared = model.prepare(batches.next(10_000))
    return {
        group: float(model.losses(prepared, group).terms[term].detach())
        for group, term in (("critic", "critic"), ("generator", "adversarial"))
    }


def with_weights(bundle, value):
    sizes = {name: n for name, (n, _) in SIZES.items()}
    return replace(bundle, weights={name: value(n).astype(np.float32) for name, n in sizes.items()})


@pytest.mark.parametrize(("name", "how"), [("scmodal", "equal"), ("sccross", "equal"), ("sccross", "cells")])
def test_constant_weights_of_the_user_reproduce_the_unweighted_loss(name, how):
    bundle = make_bundle(np.arange(40) % 2)
    plain = first_losses(name, bundle, how)
    for constant in (1.0, 0.37):
        found = first_losses(name, with_weights(bundle, partial(np.full, fill_value=constant)), how)
        for group, value in plain.items():
            assert found[group] == pytest.approx(value, rel=1e-6), (group, constant)
    other = first_losses(name, with_weights(bundle, lambda n: 0.1 + np.arange(n)), how)
    assert abs(other["critic"] - plain["critic"]) > 1e-5


def test_weights_enter_the_cross_entropy_as_a_weighted_mean():
    logits = torch.tensor([[2.0, 0.0], [0.5, 1.0], [0.0, 3.0], [1.0, -1.0]])
    source, weight = torch.tensor([0, 0, 1, 1]), torch.tensor([1.0, 3.0, 0.0, 2.0])
    each = np.log(np.exp(logits.numpy()).sum(1)) - logits.numpy()[np.arange(4), source.numpy()]
    by_cell = (each * weight.numpy()).sum() / 6
    by_source = ((each[0] + 3 * each[1]) / 4 + each[3]) / 2
    assert float(source_entropy(logits, source, weight, by_source=False)) == pytest.approx(by_cell, rel=1e-6)
    assert float(source_entropy(logits, source, weight)) == pytest.approx(by_source, rel=1e-6)


def test_cells_of_weight_0_are_as_if_they_were_not_there():
    first, second = torch.randn(6, 1), torch.randn(6, 1)
    weights = torch.tensor([1.0, 0, 2, 0, 1, 0]), torch.tensor([0, 1.0, 0, 1, 0, 1])
    some = [x[w > 0] for x, w in zip((first, second), weights, strict=True)]
    kept = tuple(w[w > 0] for w in weights)
    assert torch.allclose(discriminator_loss(first, second, weights), discriminator_loss(*some, kept))


def test_weights_of_labels_and_of_the_user_are_multiplied():
    codes = {"rna": np.array([0, 0, 0, 1]), "prot": np.array([0, 1])}
    own = {"rna": np.array([1.0, 2, 3, 4], np.float32), "prot": np.ones(2, np.float32)}
    by_label = cell_weights("rna", ["prot"], codes, {})
    np.testing.assert_array_equal(cell_weights("rna", ["prot"], {}, own), own["rna"])
    np.testing.assert_array_equal(cell_weights("rna", ["prot"], codes, own), by_label.numpy() * own["rna"])
