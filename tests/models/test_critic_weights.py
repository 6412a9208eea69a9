"""Weights of cells in critics: equal compositions change nothing, other ones do; labels are needed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mocli.data.bundle import Codes, FeatureMatrix, LinkedFeatures, Modality, MultiOmics
from mocli.errors import UsageError
from mocli.models.base import Schedule
from mocli.models.parameters import describe, resolve
from mocli.models.registry import load_class, traits_of
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
