"""Each term does on data with known truth what the paper says it does (Ablation study)."""

import numpy as np
import pytest
import torch
from planted import write_weakly_linked

from mocli.data.demo import write_demo
from mocli.metrics.embedding import Embedding
from mocli.metrics.registry import evaluate
from mocli.models.base import Schedule
from mocli.models.registry import resolve, traits_of
from mocli.models.scmodal.model import Scmodal
from mocli.tasks.prepare.load import load
from mocli.tasks.prepare.plan import make_plan
from mocli.tasks.prepare.smoothing import smooth_links
from mocli.tasks.run.options import DataOptions, TrainOptions
from mocli.train.loop import Training, fit
from mocli.train.predict import encode_rows
from mocli.types import Pairing, Task

SMALL = {"n_hidden": 128, "batch_size": 250, "n_neighbors": 15, "start": "random"}


def prepared(folder, links):
    """The plan of a run on two files, and what scMODAL is given by either preset."""
    options = DataOptions(
        inputs=[str(folder / "rna.h5ad"), str(folder / "prot.h5ad")],
        links=[str(folder / links)],
        pairing=Pairing.UNPAIRED,
        label_key="cell_type",
        pair_key="true_cell",
    )
    made = make_plan(options, TrainOptions(), Task.INTEGRATE, lambda _: None)
    bundles = {}
    for preset in ("auto", "paper"):
        params = resolve(traits_of("scmodal"), {}, preset)
        bundle = load(made, params, seed=0, say=lambda _: None, warn=lambda _: None).bundle
        bundles[preset] = smooth_links(bundle, seed=0, say=lambda _: None) if params.smooth_links else bundle
    return made, bundles


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, n_cells=400, seed=0)
    return prepared(folder, "rna-prot.tsv")


@pytest.fixture(scope="module")
def scores(demo):
    return scorer(*demo)


def scorer(made, bundles):
    """Train once for each setting, and judge."""
    cache = {}

    def run(preset="auto", max_steps=300, seed=0, **overrides):
        key = (preset, max_steps, seed, *sorted(overrides.items()))
        if key not in cache:
            params = resolve(traits_of("scmodal"), {**SMALL, **overrides}, preset)
            bundle = bundles[preset]
            torch.manual_seed(seed)
            model = Scmodal.from_bundle(bundle, params)
            fit(model, bundle, Schedule(max_steps=max_steps), Training(torch.device("cpu"), seed=seed))
            z = {
                n: encode_rows(model, n, m.features, torch.device("cpu"))
                for n, m in bundle.modalities.items()
            }
            label = {n: bundle.codes_of(bundle.label, n) for n in z}
            found = evaluate(Embedding(z=z, label=label, label_levels=bundle.label.levels, pairs=made.pairs))
            values = {k: v["value"] for k, v in found.items()}
            values["label_transfer"] = np.mean([v for k, v in values.items() if "label_transfer" in k])
            cache[key] = values
        return cache[key]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["auto", "paper"])
def test_without_anchors_label_transfer_collapses(scores, preset):
    whole, without = scores(preset), scores(preset, weight_mnn=0.0)
    assert without["label_transfer"] < whole["label_transfer"] - 0.2
    assert without["foscttm[rna-prot]"] > whole["foscttm[rna-prot]"] + 0.05


@pytest.mark.slow
@pytest.mark.parametrize("start", ["aligned", "random"])
def test_without_the_critic_modalities_mix_worse(scores, start):
    """Both mix nearly as well as can be: it is what is left to the best value that the critic takes away."""
    best, seeds = 10.0, (0, 1)  # the fifth cell of either modality among ten
    with_it, without = (
        np.mean([scores(max_steps=600, seed=s, start=start, **off)["mixing"] for s in seeds])
        for off in ({}, {"weight_adversarial": 0.0})
    )
    print(start, with_it, without)
    assert without - best >= 1.2 * (with_it - best)


@pytest.mark.slow
def test_without_the_critic_states_of_one_modality_keep_modalities_apart(tmp_path):
    """The published recipe, where each modality also varies in ways that the other does not see."""
    write_weakly_linked(tmp_path, own_sd=0.5)
    scores = scorer(*prepared(tmp_path, "links.tsv"))
    with_it, without = (
        [scores("paper", max_steps=600, seed=s, **off) for s in (0, 1)]
        for off in ({}, {"weight_adversarial": 0.0})
    )
    found = {
        name: [[run[name] for run in runs] for runs in (with_it, without)] for name in ("mixing", "kbet")
    }
    print(found)
    assert np.mean(found["mixing"][1]) >= 1.2 * np.mean(found["mixing"][0])
    assert np.mean(found["kbet"][1]) <= np.mean(found["kbet"][0]) - 0.2


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["auto", "paper"])
def test_without_geometry_labels_are_less_compact(scores, preset):
    assert scores(preset, weight_geometry=0.0)["silhouette"] < scores(preset)["silhouette"]


@pytest.mark.slow
def test_the_default_recipe_matches_better_than_the_published_one(scores):
    ours, published = scores("auto"), scores("paper")
    assert ours["foscttm[rna-prot]"] < published["foscttm[rna-prot]"]
    assert ours["label_transfer"] > published["label_transfer"]


def test_encoders_begin_where_the_closed_form_ends(scores):
    begun, drawn = scores("auto", start="aligned", max_steps=1), scores("auto", max_steps=1)
    assert begun["foscttm[rna-prot]"] < 0.15 < 0.3 < drawn["foscttm[rna-prot]"]


def test_weights_of_another_model_are_left_where_they_are(demo):
    bundle = demo[1]["auto"]
    params = resolve(traits_of("scmodal"), {**SMALL, "start": "aligned", "lr": 1e-12}, "auto")
    model = Scmodal.from_bundle(bundle, params)
    before = model.module.encoders[0].layers[0].weight.detach().clone()
    training = Training(torch.device("cpu"), seed=0, fresh=False)
    fit(model, bundle, Schedule(max_steps=1), training)
    assert torch.allclose(model.module.encoders[0].layers[0].weight, before, atol=1e-6)
    assert model.module.aligned is not None
