"""The closed-form aligner on cells whose partners are known to the test alone."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from mocli.data.bundle import Codes, FeatureMatrix, LinkedFeatures, Modality, MultiOmics
from mocli.errors import UsageError
from mocli.models.base import SOLVED, Schedule
from mocli.models.otcca.model import Otcca
from mocli.models.otcca.params import OtccaParams
from mocli.nn.neighbors import matched_distances
from mocli.train.loop import Training, fit
from mocli.train.predict import encode_rows
from mocli.types import ModalityKind, Pairing

CPU = torch.device("cpu")


def bundle_of(n=240, n_links=12, n_wrong=0, seed=0, names=("rna", "prot")):
    """Cells of six types along two gradients, seen by every modality through its own features."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 6, n)
    state = rng.normal(size=(6, 5))[kinds] * 2 + 0.5 * rng.normal(size=(n, 5))
    program = rng.normal(size=(5, n_links))
    modalities, sides = {}, {}
    for position, name in enumerate(names):
        x = state @ rng.normal(size=(5, 20)) + 0.5 * rng.normal(size=(n, 20))
        link = state @ program + rng.normal(size=(n, n_links))
        if position and n_wrong:
            link[:, :n_wrong] = rng.permutation(link[:, :n_wrong])
        modalities[name] = Modality(
            name,
            ModalityKind(name),
            FeatureMatrix(x.astype(np.float32), tuple(f"{name}{j}" for j in range(20))),
            tuple(f"{name}_{i}" for i in range(n)),
            np.ones(n, np.float32),
        )
        scaled = (link - link.mean(0)) / link.std(0)
        sides[name] = FeatureMatrix(scaled.astype(np.float32), tuple(map(str, range(n_links))))
    rows = np.full((n * len(names), len(names)), -1)
    for position in range(len(names)):
        rows[n * position : n * (position + 1), position] = np.arange(n)
    links = tuple(
        LinkedFeatures(a, b, sides[a], sides[b], tuple(map(str, range(n_links)))) for a, b in pairwise(names)
    )
    cells = tuple(map(str, range(len(rows))))
    return MultiOmics(modalities, rows, cells, Pairing.UNPAIRED, links)


def solved(bundle, **asked):
    model = Otcca.from_bundle(bundle, OtccaParams(**asked))
    done = fit(model, bundle, Schedule(), Training(CPU, seed=0))
    return model, done


def latents(model, bundle):
    return {name: encode_rows(model, name, m.features, CPU) for name, m in bundle.modalities.items()}


def foscttm(a, b):
    found = matched_distances(a, b)
    return float((found.closer_in_a.mean() + found.closer_in_b.mean()) / 2 / (len(a) - 1))


def test_cells_find_their_partners_without_a_step():
    bundle = bundle_of()
    model, done = solved(bundle)
    z = latents(model, bundle)
    assert foscttm(z["rna"], z["prot"]) < 0.06
    assert (done.steps, done.stop_reason) == (0, SOLVED)
    assert done.losses[SOLVED]["first_correlation"]["last"] > 0.8
    np.testing.assert_allclose(np.linalg.norm(z["rna"], axis=1), 1, rtol=1e-5)


def test_links_that_do_not_hold_lose_their_say():
    bundle = bundle_of(n_wrong=6)
    trusting, weighing = (
        foscttm(*latents(solved(bundle, weigh_links=weigh)[0], bundle).values()) for weigh in (False, True)
    )
    assert weighing < trusting
    assert weighing < 0.08


def test_three_modalities_meet_along_a_chain():
    bundle = bundle_of(names=("prot", "rna", "atac"))
    z = latents(solved(bundle)[0], bundle)
    assert foscttm(z["prot"], z["atac"]) < 0.1


def test_a_few_landmarks_do_nearly_as_well_as_all_cells():
    bundle = bundle_of(n=600)
    few, every = (foscttm(*latents(solved(bundle, n_landmarks=n)[0], bundle).values()) for n in (200, 1000))
    assert few < every + 0.03


def test_a_single_link_or_none_that_varies_is_no_error():
    for bundle in (bundle_of(n_links=1), bundle_of(n=12)):
        z = latents(solved(bundle)[0], bundle)
        assert all(np.isfinite(values).all() for values in z.values())


def test_no_more_components_than_features():
    bundle = bundle_of()
    prot = bundle.modalities["prot"]
    narrow = FeatureMatrix(prot.features.values[:, :4], prot.features.names[:4])
    modalities = {**bundle.modalities, "prot": replace(prot, features=narrow)}
    model, _ = solved(replace(bundle, modalities=modalities))
    assert model.encode("rna", torch.zeros(1, 20)).shape == (1, 4)


def test_too_many_features_to_relate_are_refused_before_the_work():
    bundle = bundle_of(n=8)
    wide = FeatureMatrix(np.zeros((8, 3990), np.float32), tuple(map(str, range(3990))))
    bundle.modalities["rna"] = replace(bundle.modalities["rna"], features=wide)
    with pytest.raises(UsageError, match="too many") as error:
        Otcca.from_bundle(bundle, OtccaParams(n_pcs=0))
    assert error.value.found == "3,990 of rna, 20 of prot"
    assert error.value.exit_code == 2


def test_batches_of_a_modality_come_together_and_need_no_name_later():
    """A third of one modality is measured in another way, and lacks two of the kinds of cells."""
    bundle = bundle_of(n=300)
    rng = np.random.default_rng(5)
    prot, link = bundle.modalities["prot"], bundle.links[0]
    codes = np.full(bundle.n_cells, -1)
    second = rng.random(300) < 0.4
    codes[300:] = second
    shift, link_shift = 3 * rng.normal(size=20), 1.5 * rng.normal(size=12)
    x = (prot.features.values + second[:, None] * shift).astype(np.float32)
    y = (link.target_features.values + second[:, None] * link_shift).astype(np.float32)
    changed = replace(
        bundle,
        modalities={**bundle.modalities, "prot": replace(prot, features=replace(prot.features, values=x))},
        links=(replace(link, target_features=replace(link.target_features, values=y)),),
    )
    aware = replace(changed, batch=Codes("batch", codes, ("one", "two")))
    blind, told = latents(solved(changed)[0], changed), latents(solved(aware)[0], changed)
    assert foscttm(*told.values()) < foscttm(*blind.values())
    apart = [np.linalg.norm(z["prot"][second].mean(0) - z["prot"][~second].mean(0)) for z in (blind, told)]
    assert apart[1] < 0.5 * apart[0]
