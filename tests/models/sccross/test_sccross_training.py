"""What scCross' parts do, each taken away: batches' own parameters, critic, prior, pairs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from mocli.data.bundle import Codes, FeatureMatrix, LinkedFeatures, Modality, MultiOmics
from mocli.metrics.embedding import Embedding
from mocli.metrics.registry import evaluate
from mocli.models.base import Conditions, Schedule
from mocli.models.registry import resolve, traits_of
from mocli.models.sccross.model import Sccross
from mocli.nn.neighbors import knn, matched_distances
from mocli.train.loop import Training, fit
from mocli.train.predict import encode_cells, encode_rows
from mocli.types import ModalityKind, Pairing

SMALL = {"n_hidden": 32, "n_latent": 8, "batch_size": 64, "n_components": 15}


def counts_of(rate, rng):
    return sparse.csr_matrix(rng.poisson(rate).astype(np.float32))


def modality(name, x):
    names = tuple(f"{name}{i}" for i in range(x.shape[0]))
    features = FeatureMatrix(x, tuple(map(str, range(x.shape[1]))))
    totals = np.asarray(x.sum(1), np.float32).ravel()
    return Modality(name, ModalityKind(name), features, names, totals, "nb")


def apart(n=240, share_paired=0.0, seed=0):
    """Six types in RNA and peaks; row i of both is the same cell, a share of them known to be."""
    rng = np.random.default_rng(seed)
    kind, state = np.arange(n) % 6, rng.normal(size=(n, 2))
    xs = {}
    for name, p in (("rna", 60), ("atac", 90)):
        base = rng.gamma(0.6, 2.0, size=(6, p))[kind]
        xs[name] = counts_of(base * np.exp(0.5 * state @ rng.normal(size=(2, p))) + 0.05, rng)
    linked = [np.eye(6)[kind] + rng.normal(size=(n, 6)) * 0.4 for _ in range(2)]
    sides = [FeatureMatrix(((x - x.mean(0)) / x.std(0)).astype(np.float32), tuple("abcdef")) for x in linked]
    n_both = round(share_paired * n)
    rows = np.full((2 * n - n_both, 2), -1)
    rows[:n, 0] = np.arange(n)
    rows[:n_both, 1] = np.arange(n_both)
    rows[n:, 1] = np.arange(n_both, n)
    pairing = Pairing.UNPAIRED if n_both == 0 else Pairing.PAIRED if n_both == n else Pairing.MOSAIC
    return MultiOmics(
        {name: modality(name, x) for name, x in xs.items()},
        rows,
        tuple(map(str, range(len(rows)))),
        pairing,
        (LinkedFeatures("rna", "atac", *sides, tuple("abcdef")),),
    )


def trained(bundle, steps, **params):
    torch.manual_seed(0)
    model = Sccross.from_bundle(bundle, resolve(traits_of("sccross"), SMALL | params))
    fit(model, bundle, Schedule(max_steps=steps), Training(torch.device("cpu"), seed=0))
    return model


def places(model, bundle):
    cpu = torch.device("cpu")
    return [encode_rows(model, name, m.features, cpu) for name, m in bundle.modalities.items()]


def foscttm(a, b):
    d = matched_distances(a, b)
    return float((d.closer_in_a.mean() + d.closer_in_b.mean()) / 2 / (len(a) - 1))


def mixing(a, b, k=20):
    """Share of neighbours of the other modality; 0.5 is mixed."""
    z, side = np.concatenate([a, b]), np.repeat([0, 1], [len(a), len(b)])
    return float((side[knn(z, z, k, exclude_self=True)[1]] != side[:, None]).mean())


def mixed_silhouette(a, b):
    """Silhouette of the modalities within types, 1 is mixed."""
    kind = np.arange(len(a)) % 6
    e = Embedding({"rna": a, "atac": b}, label={"rna": kind, "atac": kind}, label_levels=tuple("abcdef"))
    return evaluate(e, ["silhouette_modality"])["silhouette_modality"]["value"]


def test_batches_that_differ_by_a_factor_for_each_gene_are_told():
    rng = np.random.default_rng(0)
    n, p = 300, 40
    batch, factor = np.arange(n) % 2, np.exp(rng.normal(size=p) * 0.7)
    base = rng.gamma(1.0, 2.0, size=(3, p))[np.arange(n) // 2 % 3] + 0.3
    x = counts_of(base * np.where(batch[:, None] == 1, factor, 1.0), rng)
    bundle = MultiOmics(
        {"rna": modality("rna", x)},
        np.arange(n)[:, None],
        tuple(map(str, range(n))),
        Pairing.PAIRED,
        batch=Codes("batch", batch, ("a", "b")),
    )
    model = trained(bundle, 200, lr=5e-3)
    z = torch.from_numpy(encode_cells(model, bundle, torch.device("cpu")))
    with torch.inference_mode():
        made = [
            model.decode("rna", z, Conditions({"batch": torch.full((n,), k)})).mean(0).numpy() for k in (0, 1)
        ]
    assert np.corrcoef(np.log(made[1] / made[0]), np.log(factor))[0, 1] >= 0.8


@pytest.mark.slow
def test_the_second_stage_mixes_and_every_part_of_it_helps():
    bundle = apart()
    full = places(trained(bundle, 500), bundle)
    # a single step of alignment: the first stage alone
    first = places(trained(bundle, 2), bundle)
    without_critic = places(trained(bundle, 500, weight_adversarial=0.0), bundle)
    without_prior = places(trained(bundle, 500, weight_prior=0.0), bundle)
    assert mixing(*full) > mixing(*first) + 0.1
    assert mixed_silhouette(*full) > mixed_silhouette(*first) + 0.1
    assert mixing(*full) > mixing(*without_critic)
    assert foscttm(*full) < foscttm(*without_prior) - 0.05
    assert foscttm(*full) < 0.25


@pytest.mark.slow
def test_partners_come_closer_the_more_cells_are_measured_twice():
    found = []
    for share in (0.0, 0.3, 1.0):
        bundle = apart(share_paired=share)
        bundle = replace(bundle, links=())
        found.append(foscttm(*places(trained(bundle, 500), bundle)))
    assert found[0] > found[1] > found[2]
    assert found[2] < 0.15
