"""`--init-from` and `--freeze`: the same start, what was not taken and why, and resuming."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import mocli
from mocli.errors import InputError, Interrupted, UsageError
from mocli.models.registry import available
from mocli.tasks.trained import train as training


def weights(folder):
    return {
        k.removeprefix("module/"): v
        for k, v in load_file(folder / "weights.safetensors").items()
        if k.startswith("module/")
    }


@pytest.fixture
def train(tmp_path, paired, small):
    from mocli.models.registry import describe, traits_of

    def integrate(output, **options):
        name = options.pop("model", "scmodal")
        known = {entry["name"] for entry in describe(traits_of(name))}
        params = {k: v for k, v in small.items() if k in known} | options.pop("params", {})
        return mocli.integrate(
            options.pop("inputs", paired / "data.h5mu"),
            links=options.pop("links", paired / "links.tsv"),
            output=tmp_path / output,
            model=name,
            params=params,
            **{"max_steps": 4, "html": False, "device": "cpu", "threads": 1, "metrics": "none", **options},
        )

    return integrate


@pytest.fixture
def starts(monkeypatch):
    """Weights with which each training began."""
    seen, fit = [], training.fit

    def noting(model, *args):
        seen.append({k: v.detach().numpy().copy() for k, v in model.module.state_dict().items()})
        return fit(model, *args)

    monkeypatch.setattr(training, "fit", noting)
    return seen


@pytest.mark.parametrize("name", [name for name, traits in available().items() if not traits.solves])
def test_every_model_starts_from_all_weights_of_one_of_the_same_data(name, train, starts, tmp_path):
    train("a.h5mu", model=name)
    done = train("b.h5mu", model=name, init_from=tmp_path / "a.model", seed=5)
    saved = weights(tmp_path / "a.model")
    floats = {k for k, v in saved.items() if v.dtype.kind == "f"}
    assert floats == {k for k, v in starts[1].items() if v.dtype.kind == "f"}
    for k in floats:
        np.testing.assert_array_equal(starts[1][k], saved[k])
    record = done.report["training"]["init_from"]
    assert record["taken"] == record["tensors"] == len(floats)
    assert record["left"] == []
    assert not [w for w in done.report["warnings"] if "afresh" in w]


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_closed_form_takes_no_weights_freezes_none_and_counts_no_steps(train, tmp_path, dry_run):
    for option in ({"freeze": "encoders"}, {"init_from": tmp_path / "absent.model"}):
        with pytest.raises(UsageError, match="closed form") as error:
            train("a.h5mu", model="otcca", dry_run=dry_run, **option)
        assert error.value.field == "--" + next(iter(option)).replace("_", "-")
        assert "choose with -m: " in error.value.hint
        assert "scmodal" in error.value.hint
        assert "otcca" not in error.value.hint
    done = train("a.h5mu", model="otcca", dry_run=dry_run)
    warned = " ".join(done.plan if dry_run else done.report["warnings"])
    assert "--max-steps changes nothing" in warned


def test_frozen_parts_of_a_saved_model_are_those_of_the_new_one(train, tmp_path):
    train("a.h5mu")
    done = train("b.h5mu", init_from=tmp_path / "a.model", freeze="decoders,encoders.rna", seed=1)
    before, after = weights(tmp_path / "a.model"), weights(tmp_path / "b.model")
    frozen = [k for k in before if k.startswith(("decoders.", "encoders.0."))]
    assert all((before[k] == after[k]).all() for k in frozen)
    assert all((before[k] != after[k]).any() for k in before if k not in frozen)
    record = done.report["training"]["frozen"]
    assert record["parts"] == ["decoders", "encoders.rna"]
    assert record["tensors"] == len(frozen)
    assert record["values"] == sum(before[k].size for k in frozen)


def test_what_does_not_fit_starts_afresh_and_is_named(train, tmp_path):
    train("a.h5mu")
    done = train("b.h5mu", init_from=tmp_path / "a.model", params={"n_latent": 5})
    record = done.report["training"]["init_from"]
    assert 0 < record["taken"] < record["tensors"]
    assert {left["reason"] for left in record["left"]} == {"of another shape"}
    assert record["taken"] + sum(left["tensors"] for left in record["left"]) == record["tensors"]


def test_weights_of_other_features_are_not_taken(train, starts, tmp_path, paired):
    import anndata as ad

    train("a.h5mu", params={"n_pcs": 0})
    rna, prot = ad.read_h5ad(paired / "a.h5ad"), ad.read_h5ad(paired / "b.h5ad")
    rna[:, ::-1].copy().write_h5ad(tmp_path / "rna.h5ad")
    prot.write_h5ad(tmp_path / "prot.h5ad")
    inputs = [f"{name}={tmp_path / name}.h5ad" for name in ("rna", "prot")]
    done = train("b.h5mu", inputs=inputs, init_from=tmp_path / "a.model", params={"n_pcs": 0}, seed=3)
    left = {(entry["part"], entry["reason"]) for entry in done.report["training"]["init_from"]["left"]}
    assert left == {("encoders", "of other features"), ("decoders", "of other features")}
    assert any("rna: its features" in w for w in done.report["warnings"])
    saved = weights(tmp_path / "a.model")
    assert (starts[1]["encoders.0.layers.0.weight"] != saved["encoders.0.layers.0.weight"]).any()
    np.testing.assert_array_equal(
        starts[1]["encoders.1.layers.0.weight"], saved["encoders.1.layers.0.weight"]
    )


def test_cells_that_others_lie_among_are_looked_at_through_the_saved_projection(train, tmp_path, paired):
    """scCross trains on what its encoders saw: with fewer cells, the saved loadings are used on those."""
    import anndata as ad

    train("a.h5mu", model="sccross")
    for name, file in (("rna", "a"), ("prot", "b")):
        ad.read_h5ad(paired / f"{file}.h5ad")[:45].copy().write_h5ad(tmp_path / f"{name}.h5ad")
    inputs = [f"{name}={tmp_path / name}.h5ad" for name in ("rna", "prot")]
    train("b.h5mu", model="sccross", inputs=inputs, init_from=tmp_path / "a.model")
    before, after = weights(tmp_path / "a.model"), weights(tmp_path / "b.model")
    np.testing.assert_array_equal(before["projections.0.weight"], after["projections.0.weight"])
    np.testing.assert_allclose(before["reference_0"][:45], after["reference_0"], rtol=1e-5, atol=1e-6)


def test_what_was_computed_from_other_features_is_not_taken(train, starts, tmp_path, paired):
    """scCross' projection is of its features as a whole: no part of it goes with another's weights."""
    import anndata as ad

    train("a.h5mu", model="sccross")
    rna, prot = ad.read_h5ad(paired / "a.h5ad"), ad.read_h5ad(paired / "b.h5ad")
    rna[:, :30].copy().write_h5ad(tmp_path / "rna.h5ad")
    prot.write_h5ad(tmp_path / "prot.h5ad")
    inputs = [f"{name}={tmp_path / name}.h5ad" for name in ("rna", "prot")]
    train("b.h5mu", model="sccross", inputs=inputs, init_from=tmp_path / "a.model")
    saved, start = weights(tmp_path / "a.model"), starts[-1]
    for name in ("weight", "shift", "factor"):
        assert (
            start[f"projections.0.{name}"].shape != saved[f"projections.0.{name}"].shape
            or (start[f"projections.0.{name}"] != saved[f"projections.0.{name}"]).any()
        )
        np.testing.assert_array_equal(start[f"projections.1.{name}"], saved[f"projections.1.{name}"])
    assert start["depth"][0] != saved["depth"][0]
    assert start["depth"][1] == saved["depth"][1]


def test_modalities_in_another_order_and_other_levels_are_refused(train, tmp_path, paired):
    train("a.h5mu")
    swapped = [f"{name}={paired / file}.h5ad" for name, file in (("prot", "b"), ("rna", "a"))]
    with pytest.raises(InputError, match="another order") as caught:
        train("b.h5mu", inputs=swapped, init_from=tmp_path / "a.model")
    assert "rna=FILE prot=FILE" in caught.value.hint
    import anndata as ad

    for levels in (("x", "y"), ("y", "z")):
        for name, file in (("rna", "a"), ("prot", "b")):
            cells = ad.read_h5ad(paired / f"{file}.h5ad")
            cells.obs["lane"] = [levels[i % 2] for i in range(cells.n_obs)]
            cells.write_h5ad(tmp_path / f"{name}.h5ad")
        inputs = [f"{name}={tmp_path / name}.h5ad" for name in ("rna", "prot")]
        given = {"model": "multigrate", "inputs": inputs, "batch_key": "lane"}
        if levels[0] == "x":
            train("c.h5mu", **given)
        else:
            with pytest.raises(InputError, match="as many levels") as caught:
                train("d.h5mu", init_from=tmp_path / "c.model", **given)
            assert "--reference" in caught.value.hint


def test_cells_that_the_places_are_not_of_start_where_the_mixture_is(train, starts, tmp_path, paired):
    import anndata as ad

    given = {"model": "multidgd", "params": {"n_components": 3}}
    train("a.h5mu", **given)
    for name, file in (("rna", "a"), ("prot", "b")):
        ad.read_h5ad(paired / f"{file}.h5ad")[:45].copy().write_h5ad(tmp_path / f"{name}.h5ad")
    inputs = [f"{name}={tmp_path / name}.h5ad" for name in ("rna", "prot")]
    train("b.h5mu", inputs=inputs, init_from=tmp_path / "a.model", **given)
    start = starts[-1]
    means = start["mixture.mean"]
    near = np.abs(start["cells"][:, None, : means.shape[1]] - means[None]).max(2).min(1)
    assert near.max() < 1e-6


def test_another_kind_of_model_or_none_is_refused_before_the_work(train, tmp_path):
    train("a.h5mu")
    with pytest.raises(UsageError, match="cannot start from one of scmodal") as error:
        train("b.h5mu", model="multigrate", init_from=tmp_path / "a.model", dry_run=True)
    assert "-m scmodal" in error.value.hint
    with pytest.raises(InputError, match="does not exist"):
        train("b.h5mu", init_from=tmp_path / "b.model", dry_run=True)
    with pytest.raises(UsageError, match="no part 'encoder'"):
        train("c.h5mu", freeze="encoder")
    with pytest.raises(InputError, match="no weights"):
        train("d.h5mu", init_from=tmp_path / "a.model", params={"n_hidden": 7, "n_latent": 3, "n_pcs": 3})
    with pytest.raises(UsageError, match="its own input"):
        train("a.h5mu", init_from=tmp_path / "a.model", force=True)


def test_a_resumed_run_gives_the_same_bytes_and_another_start_is_another_run(train, tmp_path, monkeypatch):
    train("a.h5mu")
    options = {"init_from": tmp_path / "a.model", "freeze": "decoders", "max_steps": 12, "provenance": False}
    whole = train("whole.h5mu", **options)
    with pytest.raises(Interrupted):
        train("b.h5mu", **options, max_time=0.001)
    with pytest.raises(UsageError, match="another run") as error:
        train("b.h5mu", **options | {"freeze": "encoders"})
    assert "freeze" in error.value.found
    with pytest.raises(UsageError, match="another run") as error:
        train("b.h5mu", **options | {"init_from": None})
    assert "init_from" in error.value.found
    resumed = train("b.h5mu", **options)
    assert resumed.report["training"]["resumed_from_step"] is not None
    assert resumed.report["determinism"] == whole.report["determinism"]
    report = json.loads((tmp_path / "b.report.json").read_text())
    assert report["training"]["frozen"]["parts"] == ["decoders"]


@pytest.mark.parametrize("task", ["impute", "perturb", "simulate", "gene2peak"])
def test_every_command_that_trains_takes_both(task, tmp_path, paired, small):
    shared = {
        "links": paired / "links.tsv",
        "params": {k: v for k, v in small.items() if k != "n_neighbors"},
        "model": "multigrate",
        "likelihood": {"prot": "nb"},
        "html": False,
        "device": "cpu",
        "threads": 1,
    }
    inputs = paired / "data.h5mu"
    mocli.integrate(inputs, output=tmp_path / "a.h5mu", max_steps=4, metrics="none", **shared)
    own = {
        "impute": {"source": "rna", "target": "prot", "cells": "all"},
        "perturb": {"target": "cell_type=type1", "features": ["GENE1"]},
        "simulate": {"label": "cell_type=type1", "fold": 1, "label_key": "cell_type"},
        "gene2peak": {"source": "prot", "target": "rna", "method": "correlation"},
    }[task]
    output = tmp_path / ("b.tsv" if task in {"perturb", "gene2peak"} else "b.h5mu")
    start = {"init_from": tmp_path / "a.model", "freeze": "encoders"}
    done = getattr(mocli, task)(inputs, output=output, max_steps=4, seed=1, **start, **own, **shared)
    trained = done.report["training"]
    assert trained["init_from"]["taken"] == trained["init_from"]["tensors"]
    before, after = weights(tmp_path / "a.model"), weights(tmp_path / "b.model")
    assert all((before[k] == after[k]).all() for k in before if k.startswith("encoders."))
    assert any((before[k] != after[k]).any() for k in before)
