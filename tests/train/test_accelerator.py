"""Whole commands on an accelerator that the tests make up: no operation on two devices, no wait in a step."""

import traceback

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

import mocli
import mocli.nn.nearby
import mocli.nn.neighbors
from mocli.data.bundle import FeatureMatrix
from mocli.data.demo import write_demo
from mocli.nn.likelihoods import negative_binomial_loss, nonzeros_of, poisson_loss
from mocli.tasks.prepare.smoothing import Reference
from mocli.train.checkpoint import History
from mocli.types import NonZeros

SMALL = {"n_hidden": 16, "n_latent": 4, "batch_size": 32}
QUICK = {"threads": 1, "html": False}


SEARCHES = {
    "noted",
    "knn_blocks",
    "nearby_blocks",
    "assembled",
    "knn",
    "nearby",
    "mutual_pairs",
    "<listcomp>",
}

MORE = {
    "multigrate": {"modality_dropout": 0.5, "weight_latent": 1.0, "weight_marginal": 1.0},
    "scmodal": {"n_neighbors": 3},
}


@pytest.mark.parametrize("model", ["multigrate", "multidgd", "sccross", "scmodal", "otcca"])
def test_no_step_waits_for_the_device(accelerator, paired, unpaired, tmp_path, model):
    apart = [unpaired / "rna.h5ad", unpaired / "prot.h5ad"], unpaired / "links.tsv"
    inputs, links = apart if model == "scmodal" else ([paired / "data.h5mu"], paired / "links.tsv")
    given = {"links": [links], "model": model, "umap": False, "metrics": "none", **QUICK}
    if model != "otcca":
        given |= {"params": SMALL | MORE.get(model, {}), "max_steps": 12}
    places = {}
    for device in ("cpu", "cuda"):
        output = tmp_path / f"{device}.h5mu"
        mocli.integrate(inputs, output=output, device=device, **given)
        with h5py.File(output) as file:
            places[device] = file[f"obsm/X_{model}"][()]
    assert accelerator.launched > 100
    assert not accelerator.in_steps
    # which mps lacks
    assert not accelerator.doubles_in_steps
    assert accelerator.steps >= 2 * 12 or model == "otcca"
    assert np.isfinite(places["cuda"]).all()
    if model not in ("multigrate", "sccross"):  # which draw their noise in another order there
        np.testing.assert_allclose(places["cuda"], places["cpu"], atol=1e-4)


@pytest.mark.parametrize(
    "model",
    [
        "otcca",
        pytest.param("scmodal", marks=pytest.mark.slow),
        pytest.param("multigrate", marks=pytest.mark.slow),
    ],
)
def test_neighbours_are_searched_there(accelerator, monkeypatch, tmp_path, model):
    """Of inputs, of baselines, for metrics, clusters, weights of modalities and the picture."""
    write_demo(tmp_path, n_cells=120, trimodal=False)
    searched, points = set(), mocli.nn.neighbors.as_points

    def noted(*rows, device, **more):
        searched.add(
            (device, next(f.name for f in traceback.extract_stack()[::-1] if f.name not in SEARCHES))
        )
        return points(*rows, device=device, **more)

    monkeypatch.setattr(mocli.nn.neighbors, "as_points", noted)
    monkeypatch.setattr(mocli.nn.nearby, "as_points", noted)
    paired = model == "multigrate"
    inputs = ["multiome.h5mu"] if paired else ["rna.h5ad", "prot.h5ad"]
    mocli.integrate(
        [tmp_path / name for name in inputs],
        links=[] if paired else [tmp_path / "rna-prot.tsv"],
        model=model,
        max_steps=None if model == "otcca" else 5,
        label_key="cell_type",
        metrics="all",
        modality_weights=paired,
        output=tmp_path / "o.h5mu",
        device="cuda",
        **QUICK,
    )
    # a model's anchors are found before it goes to the device
    here = {asked for device, asked in searched if device != str(accelerator.device)} - {"anchors"}
    assert not here
    assert len(searched) >= 4


def test_neighbours_of_new_cells_are_searched_there(accelerator):
    x = np.random.default_rng(0).normal(size=(90, 6)).astype(np.float32)
    reference, new = Reference(x[:60], 10, 0.5), FeatureMatrix(x[60:], tuple("abcdef"))
    here = reference.average(new).values
    assert not accelerator.launched
    there = reference.average(new, device=str(accelerator.device)).values
    assert accelerator.launched
    np.testing.assert_allclose(there, here, rtol=1e-5)


def test_losses_are_kept_without_double_precision(accelerator):
    history, values = History(50), {"fit": torch.tensor(0.1), "kl": torch.tensor(3.0)}
    history.record({name: v.to(accelerator.device) for name, v in values.items()})
    assert not accelerator.doubles
    history.flush()
    np.testing.assert_array_equal(history.values(), [[float(v) for v in values.values()]])


def test_counts_with_extra_zeros_have_the_same_loss_there(accelerator):
    torch.manual_seed(0)
    x = torch.poisson(torch.full((6, 5), 0.7))
    given = [torch.randn(6, 5), torch.randn(5), torch.randn(6), torch.randn(6, 5)]
    found = []
    for device in ("cpu", accelerator.device):
        own = [g.detach().to(device).requires_grad_() for g in given]
        loss = negative_binomial_loss(x.to(device), *own)
        loss.backward()
        found.append([v.detach().cpu() for v in (loss, own[0].grad, own[1].grad, own[3].grad)])
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(here, there)


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
def test_zeros_among_the_non_zeros_change_no_loss_there(accelerator, likelihood):
    torch.manual_seed(0)
    counts = torch.poisson(torch.full((6, 5), 0.7))
    counts[5, 3] = 2
    x = nonzeros_of(counts)
    padded = x._replace(
        values=F.pad(x.values, (0, 9)),
        row=F.pad(x.row, (0, 9), value=5),
        column=F.pad(x.column, (0, 9), value=3),
    )
    logits, more = torch.randn(6, 5), [torch.randn(5)] * (likelihood != "poisson")
    dropout = [torch.randn(6, 5)] * (likelihood == "zinb")
    given, library, found = [logits, *more, *dropout], torch.randn(6), []
    for device, values in (("cpu", x), (accelerator.device, padded)):
        own = [g.detach().to(device).requires_grad_() for g in given]
        seen = NonZeros(*(part.to(device) for part in values[:4]), values.shape)
        if likelihood == "poisson":
            loss = poisson_loss(seen, *own, library.to(device))
        else:
            loss = negative_binomial_loss(seen, *own[:2], library.to(device), *own[2:])
        loss.backward()
        found.append([v.detach().cpu() for v in (loss, seen.dense, *(o.grad for o in own))])
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(here, there)


@pytest.fixture(scope="module")
def tissue(tmp_path_factory):
    """120 cells with genes and peaks in two batches, and models of them."""
    folder = tmp_path_factory.mktemp("tissue")
    write_demo(folder, n_cells=120)
    for model in ("multigrate", "multidgd"):
        mocli.integrate(
            [folder / "multiome.h5mu"], model=model, output=folder / f"{model}.h5mu", max_steps=24,
            batch_key="batch", params=SMALL, device="cpu", metrics="none", **QUICK,
        )  # fmt: skip
    return folder


def silenced(folder, output, **more):
    return mocli.gene2peak(
        [folder / "multiome.h5mu"], gtf=folder / "genes.tsv", genes="CD19,CD14", output=output, **more
    )


def perturbed(folder, output, **more):
    change = {"source": "cell_type=lymph_b", "target": "cell_type=myelo_a", "effect": "log-shift=1"}
    return mocli.perturb([folder / "multiome.h5mu"], output=output, **change, **more)


def queried(folder, output, **more):
    model = more.pop("from_model")
    return mocli.integrate([folder / "multiome.h5mu"], reference=model, output=output, metrics="none", **more)


def imputed(folder, output, **more):
    return mocli.impute([f"{folder / 'multiome.h5mu'}::rna"], target="atac", output=output, **more)


def simulated(folder, output, **more):
    return mocli.simulate([folder / "multiome.h5mu"], n_cells=40, output=output, **more)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "ending", "model"),
    [
        *((task, "tsv", model) for task in (silenced, perturbed) for model in ("multigrate", "multidgd")),
        (queried, "h5mu", "multidgd"),
        (imputed, "h5ad", "multigrate"),
        (simulated, "h5mu", "multigrate"),
    ],
)
def test_a_trained_model_is_used_there(accelerator, tissue, tmp_path, task, ending, model):
    found = {}
    for device in ("cpu", "cuda"):
        launched = accelerator.launched
        output = tmp_path / f"{device}.{ending}"
        more = {"from_model": tissue / f"{model}.model", "device": device, **QUICK}
        result = task(tissue, output, **more)
        found[device] = {k: v["value"] for k, v in result.report["metrics"].items() if v["value"] is not None}
        if ending == "tsv":
            found[device] |= pd.read_csv(output, sep="\t").mean(numeric_only=True)
        if task is queried:
            with h5py.File(output) as file:
                found[device]["place"] = np.abs(file[f"obsm/X_{model}"][()]).mean()
    assert accelerator.launched - launched > 10
    assert not accelerator.in_steps
    assert found["cuda"].keys() == found["cpu"].keys()
    if task is not simulated:
        assert found["cuda"] == pytest.approx(found["cpu"], rel=1e-2, abs=1e-2, nan_ok=True)
