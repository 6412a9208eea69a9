"""Models that couple minibatches share partners as unevenly as links held out say, and evenly else."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from mocli.models.base import Schedule
from mocli.models.registry import load_class, resolve, traits_of
from mocli.models.sccross import module as sccross
from mocli.models.scmodal import model as scmodal
from mocli.nn.alignment import soft_assignment
from mocli.tasks.prepare.load import load
from mocli.tasks.prepare.plan import make_plan
from mocli.tasks.run.options import DataOptions, TrainOptions
from mocli.train.loop import Training, fit
from mocli.types import Task

KINDS, N_LINKS, N_CELLS = 3, 20, 300


def experiments(folder, *, uneven):
    """Write two files of cells of three kinds, and the table of links between them."""
    rng = np.random.default_rng(0)
    level = rng.lognormal(1.5, 0.8, size=(KINDS, N_LINKS))
    shares = ([0.7, 0.2, 0.1], [0.1, 0.3, 0.6]) if uneven else ([0.4, 0.3, 0.3],) * 2
    for modality, share in zip(("rna", "prot"), shares, strict=True):
        kind = rng.choice(KINDS, N_CELLS, p=share)
        own = rng.lognormal(1.5, 0.8, size=(KINDS, N_LINKS))
        counts = rng.poisson(np.concatenate([level, own], axis=1)[kind]).astype(np.float32)
        names = [f"{modality}{j}" for j in range(counts.shape[1])]
        cells = [f"{modality}_{i}" for i in range(N_CELLS)]
        anndata.AnnData(counts, pd.DataFrame(index=cells), pd.DataFrame(index=names)).write_h5ad(
            folder / f"{modality}.h5ad"
        )
    pairs = {m: [f"{m}{j}" for j in range(N_LINKS)] for m in ("rna", "prot")}
    pd.DataFrame(pairs).to_csv(folder / "links.tsv", sep="\t", index=False)
    return DataOptions(
        inputs=[str(folder / f"{m}.h5ad") for m in ("rna", "prot")],
        links=[str(folder / "links.tsv")],
        pairing="unpaired",
    )


def evenness_used(name, module, options, monkeypatch, **overrides):
    """Return the evenness of all couplings in two steps of training."""
    made = make_plan(options, TrainOptions(model=name), Task.INTEGRATE, lambda _: None)
    params = resolve(traits_of(name), overrides)
    bundle = load(made, params, seed=0, say=lambda _: None, warn=lambda _: None).bundle
    torch.manual_seed(0)
    model = load_class(traits_of(name).model).from_bundle(bundle, params)
    used = set()

    def recorded(*args, evenness=1, **words):
        used.add(evenness)
        return soft_assignment(*args, evenness=evenness, **words)

    monkeypatch.setattr(module, "soft_assignment", recorded)
    fit(model, bundle, Schedule(max_steps=2), Training(torch.device("cpu"), seed=0))
    return used


@pytest.mark.parametrize("uneven", [True, False])
@pytest.mark.parametrize(("name", "module"), [("scmodal", scmodal), ("sccross", sccross)])
def test_partners_of_a_minibatch_follow_the_compositions(name, module, uneven, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "mocli")
    (evenness,) = evenness_used(name, module, experiments(tmp_path, uneven=uneven), monkeypatch)
    assert evenness < 1 if uneven else evenness == 1
    if name == "scmodal":
        assert f"evenness {evenness:.2f}" in caplog.text


@pytest.mark.parametrize(("name", "module"), [("scmodal", scmodal), ("sccross", sccross)])
def test_partners_are_as_even_as_asked(name, module, tmp_path, monkeypatch):
    used = evenness_used(name, module, experiments(tmp_path, uneven=True), monkeypatch, evenness=0.9)
    assert used == {0.9}
