"""Frozen parts stay bit for bit under decay, momentum and running means; the rest learns."""

import numpy as np
import pytest
import torch
from torch import nn

from mocli.data.bundle import FeatureMatrix, LinkedFeatures, Modality, MultiOmics
from mocli.errors import UsageError
from mocli.models.base import Losses, Phase, Sampling, Schedule, StepGroup
from mocli.models.registry import available, describe, load_class, resolve, traits_of
from mocli.train.loop import Training, fit
from mocli.train.optim import names_of, parts_of
from mocli.types import ModalityKind, Pairing

CPU = torch.device("cpu")
FROZEN = {
    "scmodal": ("encoders.rna", "discriminators"),
    "multigrate": ("encoders.rna", "decoders.1"),
    "multidgd": ("branches.rna", "mixture"),
    "sccross": ("encoders.rna", "critic"),
}


def make_bundle(pairing, n=40):
    rng = np.random.default_rng(0)
    modalities = {}
    for name, p in (("rna", 20), ("prot", 8)):
        x = rng.normal(size=(n, p)).astype(np.float32)
        features = FeatureMatrix(x, tuple(f"{name}{j}" for j in range(p)))
        modalities[name] = Modality(
            name, ModalityKind(name), features, tuple(f"{name}_{i}" for i in range(n)), np.ones(n, np.float32)
        )
    rows = np.stack([np.arange(n)] * 2, axis=1)
    if pairing is Pairing.UNPAIRED:
        rows = np.full((2 * n, 2), -1)
        rows[:n, 0] = rows[n:, 1] = np.arange(n)
    sides = [FeatureMatrix(rng.normal(size=(n, 5)).astype(np.float32), tuple("vwxyz")) for _ in range(2)]
    links = (LinkedFeatures("rna", "prot", *sides, tuple("vwxyz")),)
    return MultiOmics(modalities, rows, tuple(map(str, range(len(rows)))), pairing, links)


def build(name, **overrides):
    traits = traits_of(name)
    known = {entry["name"] for entry in describe(traits)}
    small = {"n_hidden": 8, "n_latent": 4, "batch_size": 16, "n_neighbors": 4, "weight_decay": 0.1}
    bundle = make_bundle(Pairing.UNPAIRED if Pairing.UNPAIRED in traits.pairings else Pairing.PAIRED)
    torch.manual_seed(0)
    params = resolve(traits, {k: v for k, v in small.items() if k in known} | overrides)
    return load_class(traits.model).from_bundle(bundle, params), bundle


def copies(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("name", [n for n, traits in available().items() if not traits.solves])
def test_named_tensors_of_every_model_stay_and_others_change(name):
    model, bundle = build(name)
    names = names_of(model.module, FROZEN[name], list(bundle.modalities))
    before = copies(model.module)
    fit(model, bundle, Schedule(max_steps=9), Training(CPU, 0, frozen=names))
    after = copies(model.module)
    prefixes = [p.replace(".rna", ".0") + "." for p in FROZEN[name]]
    # with the statistics of normalisations, which are no parameters
    within = [k for k in before if any(k.startswith(p) for p in prefixes)]
    assert names
    assert names <= set(within)
    assert all(torch.equal(before[k], after[k]) for k in within)
    learned = {k for k, w in model.module.named_parameters() if w.requires_grad}
    assert len([k for k in learned if not torch.equal(before[k], after[k])]) > len(learned) / 2


def test_what_is_not_frozen_learns_as_if_nothing_else_were_there():
    """A frozen critic leaves its turn out; the same weights without --freeze differ."""
    model, bundle = build("scmodal")
    names = names_of(model.module, ["discriminators"], list(bundle.modalities))
    done = fit(model, bundle, Schedule(max_steps=3), Training(CPU, 0, frozen=names))
    assert "critic" not in done.losses["align"]
    assert "reconstruction" in done.losses["align"]


def test_a_phase_in_which_all_is_frozen_is_left_out():
    model, bundle = build("sccross")
    parts = ["encoders", "decoders"]
    names = names_of(model.module, parts, list(bundle.modalities))
    done = fit(model, bundle, Schedule(max_steps=6), Training(CPU, 0, frozen=names))
    assert [p["name"] for p in done.phases] == ["align"]


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.head = nn.Linear(2, 1)


class OfNormed:
    def __init__(self):
        torch.manual_seed(0)
        self.module = Normed()

    def phases(self, schedule, bundle):
        group = StepGroup(
            "all", list(self.module.parameters()), lr=0.1, weight_decay=0.5, decoupled_decay=True
        )
        sampling = Sampling(8, independent=False, replacement=False)
        return [Phase("one", (group,), sampling, schedule.max_steps, weight_average=0.9)]

    def prepare(self, batch):
        return batch.x["rna"][:, :2]

    def losses(self, prepared, group):
        loss = self.module.head(self.module.body(prepared)).square().mean()
        return Losses({"reconstruction": loss}, loss)


def test_a_frozen_normalisation_uses_and_keeps_its_statistics():
    model = OfNormed()
    before = copies(model.module)
    names = names_of(model.module, ["body"], ["rna", "prot"])
    fit(model, make_bundle(Pairing.PAIRED), Schedule(max_steps=5), Training(CPU, 0, frozen=names))
    after = copies(model.module)
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith("body"))
    assert not torch.equal(before["head.weight"], after["head.weight"])
    free = OfNormed()
    fit(free, make_bundle(Pairing.PAIRED), Schedule(max_steps=5), Training(CPU, 0))
    assert not torch.equal(before["body.1.running_mean"], free.module.body[1].running_mean)


def test_parts_are_whole_words_and_modalities_stand_for_numbers():
    model, bundle = build("sccross")
    module, modalities = model.module, list(bundle.modalities)
    assert {"encoders", "encoders.0", "decoders.1", "critic"} <= set(parts_of(module))
    assert names_of(module, ["encoders.prot"], modalities) == names_of(module, ["encoders.1"], modalities)
    assert names_of(module, [], modalities) == frozenset()
    with pytest.raises(UsageError, match="no part 'encoder'") as error:
        names_of(module, ["encoder"], modalities)
    assert "encoders" in error.value.hint
    assert "decoders" in error.value.expected
    with pytest.raises(UsageError, match="nothing left to train"):
        names_of(module, [p for p in parts_of(module) if "." not in p], modalities)
