"""`mocli simulate` from files to files: what is written, what of it is like real cells, what is refused."""

import json
import warnings
from types import SimpleNamespace

import mudata
import numpy as np
import pytest
from planted import write_regulated
from scipy import sparse, stats

import mocli
from mocli.data.demo import write_demo
from mocli.errors import InputError, UsageError
from mocli.report.file import validate
from mocli.tasks.run.paths import DESCRIPTION, WEIGHTS
from mocli.tasks.trained.atlas import Atlas
from mocli.tasks.trained.saved import load_model, write_model

GIVEN = {"threads": 1, "device": "cpu", "html": False}
PARAMS = {"n_hidden": 32, "n_latent": 6, "batch_size": 64}
LABEL = "lymph_a"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, n_cells=240)
    return folder / "multiome.h5mu"


def train(demo, folder, model, **options):
    output = folder / f"{model}.h5mu"
    options = {"label_key": "cell_type", "max_steps": 150, "params": PARAMS, **options}
    mocli.integrate(demo, output=output, model=model, **GIVEN, **options)
    return output.with_suffix(".model")


@pytest.fixture(scope="module")
def models(demo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: train(demo, folder, name) for name in ("multigrate", "multidgd")}


def read(path):
    with warnings.catch_warnings(), mudata.set_options(pull_on_update=False):
        warnings.simplefilter("ignore", UserWarning)
        return mudata.read_h5mu(path)


@pytest.fixture
def simulate(models, tmp_path):
    def run(model="multigrate", inputs=(), name="sim.h5mu", **options):
        output = tmp_path / name
        result = mocli.simulate(inputs, from_model=models[model], output=output, **{**GIVEN, **options})
        return result, read(output)

    return run


def test_a_type_of_few_training_cells_is_told_once():
    from mocli.tasks.simulate.groups import FEWEST, CellGroup, SimulationPlan, tell_groups

    groups = [CellGroup("NK", np.arange(FEWEST - 1), 40), CellGroup("B", np.arange(FEWEST), 40)]
    said, warned = [], []
    tell_groups(SimulationPlan(tuple(groups), None, ("rna",)), said.append, warned.append)
    (line,) = warned
    assert line.startswith("few training cells of NK (19): simulated ones vary these")
    assert len(said) == 2


def test_a_type_of_few_real_cells_is_told_as_noise():
    from mocli.tasks.simulate.write import FEW_REAL, _warn_of_few

    def warned(*sizes):
        cells = SimpleNamespace(
            real={"rna": None}, levels=("NK", "B"), labels=lambda _: list(range(len(sizes))),
            real_label={"rna": np.repeat(np.arange(len(sizes)), sizes)},
        )  # fmt: skip
        lines = []
        _warn_of_few(SimpleNamespace(warn=lines.append), cells)
        return lines

    assert warned(FEW_REAL, FEW_REAL) == []
    assert "fewer than 50 real cells of NK are" in warned(FEW_REAL - 1, FEW_REAL)[0]
    assert "fewer than 50 real cells of every label are" in warned(7, 8)[0]


# what is written


@pytest.mark.parametrize("model", ["multigrate", "multidgd"])
def test_five_times_a_type_matched_in_all_modalities(simulate, models, model, demo):
    result, found = simulate(model, label=f"cell_type={LABEL}", fold=5)
    reference = read(demo)
    n = int((reference["rna"].obs["cell_type"] == LABEL).sum())
    assert found.n_obs == 5 * n
    saved = load_model(models[model])
    for name in ("rna", "atac"):
        part = found[name]
        assert list(part.obs_names) == list(found["rna"].obs_names) == list(found.obs_names)
        assert sparse.issparse(part.X)
        assert part.X.format == "csr"
        assert np.array_equal(part.X.data, np.rint(part.X.data))
        assert part.X.data.min() > 0
        assert list(part.var_names) == list(saved.recipes[name].feature_names)
        assert set(part.obs["cell_type"]) == {LABEL}
        assert part.obs["simulated"].all()
    own = reference["rna"].obs["cell_type"].to_dict()
    assert {own[c] for c in found.obs["source_cell"]} == {LABEL}
    assert ("source_component" in found.obs) == (model == "multidgd")
    assert found.obsm[f"X_{model}"].shape == (5 * n, 6)
    validate(json.loads(result.output.with_suffix(".report.json").read_text()))
    assert result.report["metrics"]["nearest_label[latent]"]["value"] >= 0.9
    assert 0.5 < result.report["metrics"]["latent_variance_ratio"]["value"] < 2


def test_depths_are_those_of_the_type_jointly(simulate, demo):
    _, found = simulate("multidgd", label=f"cell_type={LABEL}", fold=8)
    real = read(demo)
    mine = real["rna"].obs_names[real["rna"].obs["cell_type"] == LABEL]
    for name in ("rna", "atac"):
        totals = np.asarray(real[name][mine].X.sum(1)).ravel()
        drawn = np.asarray(found[name].X.sum(1)).ravel()
        assert stats.ks_2samp(totals, drawn).statistic <= 0.2
    source = real["rna"][found.obs["source_cell"].to_numpy()].X.sum(1)
    assert stats.spearmanr(np.asarray(source).ravel(), np.asarray(found["rna"].X.sum(1)).ravel())[0] > 0.8


def test_the_seed_decides_every_byte_and_cells_do_not_depend_on_what_else_is_written(simulate, tmp_path):
    options = {"label": f"cell_type={LABEL}", "n_cells": 30, "provenance": False}
    simulate(name="a.h5mu", **options)
    simulate(name="b.h5mu", **options)
    assert (tmp_path / "a.h5mu").read_bytes() == (tmp_path / "b.h5mu").read_bytes()
    _, other = simulate(name="c.h5mu", seed=1, **options)
    _, alone = simulate(name="d.h5mu", modality="atac", **options)
    one = read(tmp_path / "a.h5mu")
    assert list(alone.mod) == ["atac"]
    assert (alone["atac"].X != one["atac"].X).nnz == 0
    assert (other["atac"].X != one["atac"].X).nnz > 0


def test_all_labels_and_numbers_of_cells(simulate):
    result, found = simulate(n_cells=7)
    counts = found.obs["cell_type"].value_counts()
    assert (counts == 7).all()
    assert len(counts) > 3
    rows = result.report["tables"]["simulated"]["rows"]
    assert {row[0] for row in rows} == set(counts.index)
    _, some = simulate(label=["cell_type=stroma", f"cell_type={LABEL}"], n_cells=4, name="s.h5mu")
    assert dict(some.obs["cell_type"].value_counts()) == {"stroma": 4, LABEL: 4}


def test_library_sizes_as_asked(simulate):
    _, found = simulate("multidgd", n_cells=40, library=400.0, name="n.h5mu")
    totals = np.asarray(found["rna"].X.sum(1)).ravel()
    assert totals.mean() == pytest.approx(400, rel=0.1)
    _, found = simulate("multidgd", n_cells=40, library="median", label=f"cell_type={LABEL}", name="m.h5mu")
    _, drawn = simulate("multidgd", n_cells=40, label=f"cell_type={LABEL}", name="s.h5mu")
    spread = [np.asarray(x["rna"].X.sum(1)).std() for x in (found, drawn)]
    assert spread[0] < spread[1]


def test_components_of_a_mixture(simulate):
    _, found = simulate("multidgd", component=[1, 3], n_cells=25)
    assert dict(found.obs["source_component"].value_counts()) == {1: 25, 3: 25}
    result, found = simulate("multidgd", places="mixture", fold=20, name="m.h5mu")
    weights = load_model(result.report["model"]["reason"].removeprefix("the model of ")).model
    share = weights.cluster_weights().detach().numpy()
    seen = np.bincount(found.obs["source_component"], minlength=len(share)) / found.n_obs
    np.testing.assert_allclose(seen, share, atol=0.03)


def test_the_mean_mode_is_less_diverse(simulate):
    result, found = simulate(label=f"cell_type={LABEL}", n_cells=100, places="mean")
    # cells of a type of the demo differ by noise alone: what their places differ by is the posterior's spread
    assert result.report["metrics"]["latent_variance_ratio"]["value"] < 1.05
    assert "source_cell" not in found.obs
    with pytest.raises(UsageError, match="no standard deviation"):
        simulate("multidgd", places="mean", name="x.h5mu")


def test_batches(demo, tmp_path):
    data = read(demo)
    for part in data.mod.values():
        part.obs["lane"] = [f"l{i % 2}" for i in range(part.n_obs)]
        part.obs["site"] = [f"s{i % 3}" for i in range(part.n_obs)]
        part.obs["age"] = np.arange(part.n_obs, dtype=np.float32)
    data.write(tmp_path / "two.h5mu")
    known = {"batch_key": "lane", "covariate": "site", "continuous": "age"}
    folder = train(tmp_path / "two.h5mu", tmp_path, "multigrate", max_steps=10, **known)

    def lanes(name, **options):
        output = tmp_path / name
        mocli.simulate(from_model=folder, output=output, n_cells=10, **GIVEN, **options)
        return read(output).obs

    assert set(lanes("a.h5mu")["lane"]) == {"l0", "l1"}
    assert set(lanes("b.h5mu", batch="l1")["lane"]) == {"l1"}
    found = lanes("c.h5mu", batch="average")
    assert "lane" not in found
    # what a cell was simulated under otherwise is that of the cell it follows
    followed = data["rna"].obs.loc[found["source_cell"]]
    assert list(found["site"].astype(str)) == list(followed["site"])
    np.testing.assert_array_equal(found["age"], followed["age"])
    with pytest.raises(UsageError, match="no batch 'l9'"):
        lanes("d.h5mu", batch="l9")


# beside real cells


@pytest.mark.parametrize("model", ["multigrate", "multidgd"])
def test_beside_real_cells(simulate, model, demo):
    result, _ = simulate(model, [demo], label=f"cell_type={LABEL}", fold=3)
    metrics = result.report["metrics"]
    names = {"mean_variance", "zero_fraction", "feature_correlation", "marker_overlap", "discriminability"}
    assert {f"{name}[{m}]" for name in names for m in ("rna", "atac")} <= set(metrics)
    assert "cross_correlation[rna-atac]" in metrics
    assert 0.5 < metrics["variance_ratio[rna]"]["value"] < 2
    assert metrics["library_ks[rna]"]["value"] <= 0.2
    assert ("simulated_foscttm[rna-atac]" in metrics) == (model == "multigrate")
    beside = result.report["baselines"]["other_real_cells"]["metrics"]
    assert beside["variance_ratio[rna]"]["value"] == pytest.approx(1, abs=0.2)
    within = "foscttm[rna-atac]_within_label"
    assert 0 < metrics[within]["value"] < 0.6
    assert 0 < beside[within]["value"] < 0.6
    if model == "multidgd":
        assert metrics["nearest_label[rna]"]["value"] >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("compared", [True, False])
def test_the_pictures(simulate, demo, compared):
    result, _ = simulate(inputs=[demo] if compared else (), n_cells=5, html=True)
    page = next(p for p in result.files if p.suffix == ".html").read_text()
    assert ("Mean and variance" in page) == compared
    assert "Cells by origin" in page


@pytest.mark.slow
def test_modalities_of_simulated_cells_belong_together(tmp_path):
    """Over all types; within one type of the demo even real cells hardly match (RESULTS.md)."""
    write_demo(tmp_path, n_cells=600, seed=0)
    metrics = mocli.simulate(
        tmp_path / "multiome.h5mu", output=tmp_path / "o.h5mu", model="multigrate", batch_key="batch",
        label_key="cell_type", fold=1, **GIVEN,
    ).report["metrics"]  # fmt: skip
    print({k: v["value"] for k, v in metrics.items() if "foscttm" in k})
    assert metrics["simulated_foscttm[rna-atac]"]["value"] < 0.1
    assert min(metrics[f"nearest_label[{m}]"]["value"] for m in ("rna", "atac")) >= 0.9


@pytest.mark.slow
def test_five_times_a_type_matches_within_it_where_real_cells_do(tmp_path):
    """Cells of a type differ in states that both modalities see."""
    write_regulated(tmp_path)
    result = mocli.simulate(
        tmp_path / "both.h5mu", output=tmp_path / "o.h5mu", model="multigrate", label_key="cell_type",
        label="cell_type=t0", fold=5, **GIVEN,
    )  # fmt: skip
    real = read(tmp_path / "both.h5mu")["rna"].obs["cell_type"]
    assert read(result.output).n_obs == 5 * (real == "t0").sum()
    value = {k: v["value"] for k, v in result.report["metrics"].items()}
    print({k: v for k, v in value.items() if "foscttm" in k or "nearest_label" in k})
    assert min(value[f"nearest_label[{m}]"] for m in ("rna", "atac")) >= 0.9
    assert value["simulated_foscttm[rna-atac]"] < 0.1
    # on canonical components of real cells, which owe nothing to the model
    assert value["foscttm[rna-atac]_within_label"] < 0.1


def test_without_real_cells_the_report_says_so(simulate):
    result, _ = simulate(label=f"cell_type={LABEL}", n_cells=5)
    assert any("no real cells were given" in w for w in result.report["warnings"])
    assert not any(key.startswith("discriminability") for key in result.report["metrics"])


def test_it_trains_where_no_model_is_given(demo, tmp_path):
    output = tmp_path / "o.h5mu"
    result = mocli.simulate(
        demo, output=output, label_key="cell_type", label=f"cell_type={LABEL}", n_cells=12,
        model="multigrate", max_steps=5, params=PARAMS, **GIVEN,
    )  # fmt: skip
    assert read(output).n_obs == 12
    assert result.report["training"]["steps"] == 5
    assert output.with_suffix(".model").is_dir()


# older models, and refusals


def without(models, tmp_path, model="multigrate", **changes):
    """A model whose atlas lacks something, as one of an earlier version."""
    from dataclasses import replace

    saved = load_model(models[model])
    folder = tmp_path / "old.model"
    write_model(folder, replace(saved, atlas=saved.atlas and replace(saved.atlas, **changes)))
    return folder


def test_a_model_that_kept_no_depths_warns(models, tmp_path):
    folder = without(models, tmp_path, library={}, drawn=None, names=())
    output = tmp_path / "o.h5mu"
    result = mocli.simulate(from_model=folder, output=output, label=f"cell_type={LABEL}", **GIVEN)
    assert any("median depth" in w for w in result.report["warnings"])
    assert "source_cell" not in read(output).obs


def test_an_atlas_without_the_new_parts_is_read():
    json_part = {"groups": ["a"], "n_cells": 2, "alone": [], "has_batch": False, "columns": []}
    atlas = Atlas.from_state(json_part, {"z": np.zeros((2, 3), "f4"), "group": np.zeros(2, "i4")})
    assert atlas.library == {}
    assert atlas.drawn is None
    assert atlas.names == ()


def test_a_label_is_known_by_its_value(models, tmp_path):
    output = tmp_path / "o.h5mu"
    by_value, named = (
        mocli.simulate(from_model=models["multigrate"], output=output, label=text, dry_run=True).plan
        for text in (LABEL, f"cell_type={LABEL}")
    )
    assert [line for line in by_value if LABEL in line] == [line for line in named if LABEL in line]
    assert any(LABEL in line for line in named)


def test_labels_that_do_not_exist_are_refused_with_the_nearest(simulate):
    with pytest.raises(UsageError, match="no training cell") as error:
        simulate(label="cell_type=lymph_aa")
    assert LABEL in error.value.hint
    with pytest.raises(UsageError, match="keeps no labels 'celltype'") as error:
        simulate(label="celltype=stroma")
    assert "cell_type" in error.value.hint
    with pytest.raises(UsageError, match="no modality 'prot'"):
        simulate(modality="prot")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fold": 0}, "--fold must be above"),
        ({"fold": -1}, "--fold must be above"),
        ({"n_cells": 0}, "--n-cells must be above"),
        ({"fold": 2, "n_cells": 5}, "both say how many"),
        ({"library": "deep"}, "does not accept"),
        ({"places": "men"}, "does not accept"),
        ({"mode": "mean"}, "has no option"),
        ({"component": 99}, "has no components"),
        ({"places": "mixture"}, "has no mixture"),
        ({"batch": "b"}, "has no batches"),
    ],
)
def test_what_cannot_be_meant_is_refused(simulate, options, words):
    with pytest.raises(UsageError, match=words):
        simulate(**options)


def test_an_empty_label_is_refused(models, tmp_path):
    saved = load_model(models["multigrate"])
    codes = saved.atlas.labels["cell_type"]
    from dataclasses import replace

    lacking = replace(codes, levels=(*codes.levels, "ghost"))
    folder = without(models, tmp_path, labels={"cell_type": lacking})
    with pytest.raises(InputError, match="ghost has no training cell"):
        mocli.simulate(from_model=folder, output=tmp_path / "o.h5mu", label="cell_type=ghost", **GIVEN)


def test_a_model_without_labels_simulates_all_cells_but_no_label(models, tmp_path):
    folder = without(models, tmp_path, labels={})
    with pytest.raises(UsageError, match="has no labels"):
        mocli.simulate(from_model=folder, output=tmp_path / "o.h5mu", label="cell_type=a", **GIVEN)
    result = mocli.simulate(from_model=folder, output=tmp_path / "o.h5mu", force=True, **GIVEN)
    found = read(result.output)
    assert found.n_obs == 240
    assert "cell_type" not in found.obs


def test_a_model_that_draws_nothing_is_refused(unpaired, tmp_path):
    params = {**PARAMS, "n_neighbors": 5}
    inputs = [unpaired / "rna.h5ad", unpaired / "prot.h5ad"]
    options = {"links": unpaired / "links.tsv", "model": "scmodal", "max_steps": 2, "params": params, **GIVEN}
    mocli.integrate(inputs, output=tmp_path / "i.h5mu", **options)
    with pytest.raises(UsageError, match="scmodal cannot simulate") as error:
        mocli.simulate(from_model=tmp_path / "i.model", output=tmp_path / "o.h5mu", **GIVEN)
    assert "multigrate" in error.value.hint
    with pytest.raises(UsageError, match="scmodal cannot simulate"):
        mocli.simulate(inputs, output=tmp_path / "p.h5mu", **options)
    with pytest.raises(UsageError, match="neither a model nor an input"):
        mocli.simulate(output=tmp_path / "q.h5mu", **GIVEN)


def test_a_dry_run_writes_nothing(models, tmp_path):
    result = mocli.simulate(
        from_model=models["multidgd"], output=tmp_path / "o.h5mu", component=1, fold=2, dry_run=True, **GIVEN
    )
    assert any("component 1" in line for line in result.plan)
    assert not list(tmp_path.iterdir())
    assert {DESCRIPTION, WEIGHTS} <= {p.name for p in models["multidgd"].iterdir()}
