"""The contract, over the registry: what every model must keep."""

import json

import numpy as np
import pytest
import torch

from mocli.data.bundle import FeatureMatrix, LinkedFeatures, Modality, MultiOmics
from mocli.errors import Interrupted
from mocli.models.base import (
    Clusters,
    Decodes,
    DrawsCoordinates,
    Encodes,
    EncodesJointly,
    EntersLinearly,
    Plateau,
    Samples,
    Schedule,
    Solves,
)
from mocli.models.registry import Sized, as_dict, available, describe, load_class, resolve, traits_of
from mocli.train.checkpoint import Checkpoints
from mocli.train.loop import Training, fit
from mocli.train.predict import cluster_cells, encode_cells, encode_rows
from mocli.types import ModalityKind, Pairing, Preset, Task

NAMES = list(available())
SIZES = {"rna": (60, 30), "prot": (50, 9)}


def make_bundle(name, *, n=None, constant=False, links=True):
    """Cells of their own where the model takes them, else a mosaic of cells in one or both modalities."""
    pairing = Pairing.UNPAIRED if Pairing.UNPAIRED in traits_of(name).pairings else Pairing.MOSAIC
    rng = np.random.default_rng(0)
    modalities, sides, start = {}, [], 0
    sizes = SIZES if n is None else {name: (n, p) for name, (_, p) in SIZES.items()}
    rows = np.full((sum(n for n, _ in sizes.values()), len(sizes)), -1)
    for column, (modality, (n_obs, n_vars)) in enumerate(sizes.items()):
        x = rng.normal(size=(n_obs, n_vars)).astype(np.float32)
        if constant:
            x[:] = 0
        modalities[modality] = Modality(
            modality,
            ModalityKind(modality),
            FeatureMatrix(x, tuple(f"{modality}{j}" for j in range(n_vars))),
            tuple(f"{modality}_{i}" for i in range(n_obs)),
            np.ones(n_obs, np.float32),
        )
        side = np.zeros((n_obs, 6), np.float32) if not links else rng.normal(size=(n_obs, 6))
        sides.append(FeatureMatrix(side.astype(np.float32), tuple("abcdef")))
        rows[start : start + n_obs, column] = np.arange(n_obs)
        start += n_obs
    if pairing is Pairing.MOSAIC:
        # the last cells of the first modality are the first ones of the second
        n_both = min(n for n, _ in sizes.values()) // 2
        first, second = (n for n, _ in sizes.values())
        rows[first - n_both : first, 1] = np.arange(n_both)
        rows = np.delete(rows, np.arange(first, first + n_both), axis=0)
        start = first + second - n_both
    return MultiOmics(
        modalities,
        rows,
        tuple(map(str, range(start))),
        pairing,
        (LinkedFeatures("rna", "prot", *sides, tuple("abcdef")),),
    )


def build(name, bundle, **overrides):
    traits = traits_of(name)
    torch.manual_seed(0)
    return load_class(traits.model).from_bundle(bundle, resolve(traits, overrides))


def small(name):
    known = {entry["name"] for entry in describe(traits_of(name))}
    wanted = {"n_hidden": 16, "n_latent": 4, "batch_size": 20, "n_neighbors": 4}
    return {key: value for key, value in wanted.items() if key in known}


def trained(name, bundle, steps=30):
    model = build(name, bundle, **small(name))
    return model, fit(model, bundle, Schedule(max_steps=steps), Training(torch.device("cpu"), seed=0))


def latents(model, bundle):
    """Latents of every row where the model encodes modalities, of every cell where it places cells only."""
    device = torch.device("cpu")
    if isinstance(model, Encodes):
        return {name: encode_rows(model, name, m.features, device) for name, m in bundle.modalities.items()}
    assert isinstance(model, EncodesJointly)
    return {"cells": encode_cells(model, bundle, device)}


@pytest.mark.parametrize("name", NAMES)
class TestEveryModel:
    def test_traits_are_whole(self, name):
        traits = traits_of(name)
        assert traits.name == name
        assert traits.pairings
        assert set(traits.rank) <= traits.pairings
        assert Task.INTEGRATE in traits.tasks
        assert traits.doi.startswith("10.")

    def test_its_traits_say_whether_it_has_a_closed_form(self, name):
        bundle = make_bundle(name)
        model = build(name, bundle, **small(name))
        assert traits_of(name).solves == isinstance(model, Solves) == (not model.phases(Schedule(), bundle))

    def test_every_hyper_parameter_is_explained_and_checked(self, name):
        traits = traits_of(name)
        for entry in describe(traits):
            assert entry["help"], entry["name"]
            assert entry["type"] != "?", entry["name"]
        assert resolve(traits, as_dict(resolve(traits, {}))) == resolve(traits, {})

    def test_losses_fall(self, name):
        if traits_of(name).solves:
            pytest.skip(f"{name} has a closed form")
        _, done = trained(name, make_bundle(name), 120)
        terms = done.losses[done.phases[0]["name"]]
        falling = [t for t, v in terms.items() if v["last"] < v["first"]]
        assert "reconstruction" in falling

    def test_encodes_with_the_right_shapes(self, name):
        bundle = make_bundle(name)
        model, _ = trained(name, bundle, 3)
        for modality, z in latents(model, bundle).items():
            n = bundle.modalities[modality].n_obs if modality in bundle.modalities else bundle.n_cells
            assert z.shape == (n, model.params.n_latent)
            assert z.dtype == np.float32
            assert np.isfinite(z).all()

    def test_what_enters_linearly_leaves_as_encoded(self, name):
        bundle = make_bundle(name)
        model, _ = trained(name, bundle, 3)
        if not isinstance(model, EntersLinearly):
            pytest.skip(f"{name} does not begin with a linear layer")
        for modality, m in bundle.modalities.items():
            x = torch.from_numpy(m.features.values)
            with torch.inference_mode():
                hidden = model.enter(modality, x)
                assert torch.equal(model.leave(modality, hidden), model.encode(modality, x))
                # one value more: a row of the weights, times what the layer sees of the change
                more = x.clone()
                more[:, 4] += 0.01
                total = x.sum(1)
                seen = [model.entry_values(modality, v[:, 4], total) for v in (more, x)]
                added = torch.outer(seen[0] - seen[1], model.entry_weights(modality)[4])
                assert added.abs().max() > 1e-4
                found = model.enter(modality, more) - hidden
                same = torch.isclose(found, added, atol=3e-6, rtol=1e-3).all(1)
                # a cell may still have other neighbours than before
                assert same.double().mean() > 0.9

    def test_joint_latents_have_the_right_shape(self, name):
        bundle = make_bundle(name)
        model, _ = trained(name, bundle, 3)
        if not isinstance(model, EncodesJointly):
            pytest.skip(f"{name} places the rows of each modality apart")
        z = encode_cells(model, bundle, torch.device("cpu"))
        assert z.shape == (bundle.n_cells, model.params.n_latent)
        assert z.dtype == np.float32
        assert np.isfinite(z).all()
        assert np.array_equal(z, encode_cells(model, bundle, torch.device("cpu")))

    def test_the_seed_decides_every_byte(self, name):
        bundle = make_bundle(name)
        first, second = (trained(name, bundle, 10)[0].module.state_dict() for _ in range(2))
        assert all(torch.equal(first[k], second[k]) for k in first)

    def test_rebuilt_from_its_spec_it_encodes_the_same(self, name):
        bundle = make_bundle(name)
        model, _ = trained(name, bundle, 5)
        # as in a saved model, whose JSON has its keys sorted
        spec = json.loads(json.dumps(model.spec(), sort_keys=True))
        again = type(model).from_spec(spec, model.params)
        again.module.load_state_dict(model.module.state_dict())
        again.module.eval()
        before, after = latents(model, bundle), latents(again, bundle)
        assert all(np.array_equal(before[key], after[key]) for key in before)

    def test_resumed_it_ends_with_the_same_bytes(self, name, tmp_path):
        if traits_of(name).solves:
            pytest.skip(f"{name} has no step to stop at")
        bundle = make_bundle(name)
        whole, _ = trained(name, bundle, 12)
        keep = Checkpoints(tmp_path / "c", fingerprint={}, resume="auto")
        training = Training(torch.device("cpu"), seed=0, checkpoints=keep, checkpoint_every=0.0)
        paused = build(name, bundle, **small(name))
        losses, seen = paused.losses, []

        def interrupted(prepared, group):
            seen.append(group)
            if len(seen) == 9:
                raise Interrupted(15, "stop")
            return losses(prepared, group)

        paused.losses = interrupted
        with pytest.raises(Interrupted):
            fit(paused, bundle, Schedule(max_steps=12), training)
        resumed = build(name, bundle, **small(name))
        assert fit(resumed, bundle, Schedule(max_steps=12), training).resumed_from_step
        state = resumed.module.state_dict()
        assert all(torch.equal(v, state[k]) for k, v in whole.module.state_dict().items())

    def test_clusters_have_probabilities(self, name):
        bundle = make_bundle(name)
        model, _ = trained(name, bundle, 3)
        if not isinstance(model, Clusters):
            pytest.skip(f"{name} has no clusters")
        p = cluster_cells(model, latents(model, bundle)["cells"], torch.device("cpu"))
        assert len(p) == bundle.n_cells
        np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)

    def test_draws_have_the_mean_that_it_decodes(self, name):
        bundle = make_bundle(name)
        model, _ = trained(name, bundle, 3)
        assert isinstance(model, Samples) == (Task.SIMULATE in traits_of(name).tasks)
        if not isinstance(model, Samples):
            pytest.skip(f"{name} draws nothing")
        assert isinstance(model, Decodes)
        z = torch.zeros(1, model.params.n_latent)
        with torch.inference_mode():
            for modality, m in bundle.modalities.items():
                expected = model.decode(modality, z)
                draws = [
                    model.sample(modality, z.expand(4000, -1), generator=torch.Generator().manual_seed(seed))
                    for seed in (1, 1, 2)
                ]
                assert draws[0].shape == (4000, m.features.n_vars)
                assert torch.equal(draws[0], draws[1])
                assert not torch.equal(draws[0], draws[2])
                error = draws[0].std(0) / np.sqrt(4000)
                assert (((draws[0].mean(0) - expected[0]).abs() / error) < 5).all()

    def test_places_of_clusters_are_of_these_clusters(self, name):
        bundle = make_bundle(name)
        model, _ = trained(name, bundle, 3)
        if not isinstance(model, DrawsCoordinates):
            pytest.skip(f"{name} has no mixture to draw from")
        assert isinstance(model, Clusters)
        with torch.inference_mode():
            weights = model.cluster_weights()
            clusters = torch.arange(len(weights)).repeat(200)
            z = model.draw_coordinates(clusters, torch.Generator().manual_seed(0))
            p = model.clusters(z)
        assert float(weights.sum()) == pytest.approx(1, rel=1e-5)
        assert z.shape == (len(clusters), model.params.n_latent)
        # a draw is at least as likely of its own cluster as of any
        assert float(p.gather(1, clusters[:, None]).mean()) >= float(p.mean())

    @pytest.mark.parametrize("odd", [{"n": 2}, {"constant": True}, {"links": False}])
    def test_odd_data_stay_finite(self, name, odd):
        bundle = make_bundle(name, **odd)
        model, done = trained(name, bundle, 20)
        assert all(np.isfinite(z).all() for z in latents(model, bundle).values())
        assert np.isfinite([v["last"] for v in done.losses[done.phases[0]["name"]].values()]).all()


@pytest.mark.parametrize("name", ["sccross", "multigrate", "multidgd"])
def test_learning_rates_may_fall_on_a_plateau_of_held_out_cells(name):
    bundle = make_bundle(name)
    for asked, wanted in (({}, (None, 2)), ({"lr_factor": 0.1, "lr_patience": 3}, (0.1, 3))):
        model = build(name, bundle, **small(name), **asked)
        watched = model.phases(Schedule(max_steps=9), bundle)[0].validation
        assert (watched.lr_factor, watched.lr_patience) == wanted


def test_learning_rates_of_scmodal_may_fall_on_a_plateau_of_training():
    """It holds no cells out, and watches the loss of training; the published recipe watches nothing."""
    bundle = make_bundle("scmodal")

    def watched(schedule, **asked):
        return build("scmodal", bundle, **small("scmodal"), **asked).phases(schedule, bundle)[0].plateau

    asked = {"lr_factor": 0.1, "lr_patience": 3}
    auto, fixed, paper = Schedule(), Schedule(max_steps=9), Schedule(preset=Preset.PAPER)
    assert (watched(fixed), watched(paper)) == (None, None)
    assert (watched(auto).lr_factor, watched(auto).ends) == (None, True)
    for schedule, ends in ((auto, True), (fixed, False), (paper, False)):
        found = watched(schedule, **asked)
        assert (found.lr_factor, found.lr_patience, found.ends) == (0.1, 3, ends)
        assert found.weights == watched(auto).weights


@pytest.mark.parametrize("name", ["scmodal", "multidgd"])
def test_a_run_with_falling_rates_resumes_to_the_same_bytes(name, tmp_path, monkeypatch):
    bundle, asked = make_bundle(name), {"lr_factor": 0.3, "lr_patience": 1}
    if name == "multidgd":
        # a loss of held-out cells that is never better: their places do not learn
        asked |= {"patience": 50, "validation_share": 0.2, "lr_cells": 1e-9, "lr": 0.2}
    else:
        soon = Plateau(
            {"reconstruction": 1.0}, window=10, tolerance=9.0, min_steps=20, lr_factor=0.3, ends=False
        )
        monkeypatch.setattr("mocli.models.scmodal.model.Scmodal._plateau", lambda self, ends: soon)

    def run(folder, stop=None):
        model = build(name, bundle, **small(name), **asked)
        original, seen = model.prepare, [0]

        def prepare(batch):
            seen[0] += model.module.training
            if seen[0] == stop:
                raise Interrupted(15, "stop")
            return original(batch)

        model.prepare = prepare
        keep = Checkpoints(folder, fingerprint={}, resume="auto")
        # a checkpoint after every step only where one of them is continued
        every = 600.0 if stop is None else 0.0
        training = Training(torch.device("cpu"), 0, keep, checkpoint_every=every)
        return model, fit(model, bundle, Schedule(max_steps=60), training)

    whole, expected = run(tmp_path / "whole")
    fell = expected.phases[0]["lr_lowered"]
    assert fell
    assert fell[0] < 40
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", stop=50)
    resumed, done = run(tmp_path / "cut")
    assert fell[0] < done.resumed_from_step < 60
    for key, value in whole.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[key]), key
    assert (done.history, done.phases) == (expected.history, expected.phases)


def test_a_wrong_name_or_value_is_a_usage_error_in_the_user_s_words():
    from mocli.errors import UsageError

    traits = traits_of("scmodal")
    with pytest.raises(UsageError, match="no hyper-parameter 'n_latnet'") as error:
        resolve(traits, {"n_latnet": 3})
    assert "n_latent" in error.value.hint
    with pytest.raises(UsageError, match="cannot take") as error:
        resolve(traits, {"lr": "fast"})
    assert error.value.found == "'fast'"
    with pytest.raises(UsageError):
        resolve(traits, {"mnn_reduction": "median"})
    with pytest.raises(UsageError, match="no model 'scmodel'") as error:
        traits_of("scmodel")
    assert "scmodal" in error.value.hint
    assert resolve(traits, {"n_latent": "12", "clip_norm": None}).n_latent == 12


@pytest.mark.parametrize("preset", list(Preset))
@pytest.mark.parametrize("name", NAMES)
def test_the_steps_foretold_are_the_most_that_phases_take(name, preset) -> None:
    bundle = make_bundle(name)
    model = build(name, bundle, **small(name))
    taken = sum(phase.max_steps for phase in model.phases(Schedule(preset), bundle))
    if isinstance(model.params, Sized):
        assert taken <= model.params.steps(bundle.n_cells, preset) <= 2 * taken
    else:
        assert taken == 0
