"""Linked features by names, positions, first columns or matrices: one integration, whatever the route."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import mocli
from mocli.data.batches import dense_rows
from mocli.data.demo import write_demo
from mocli.errors import InputError, UsageError
from mocli.tasks.links.check import audit_links
from mocli.tasks.prepare.load import load
from mocli.tasks.prepare.plan import make_plan
from mocli.tasks.run.options import DataOptions, TrainOptions
from mocli.tasks.trained.saved import load_model
from mocli.types import Task

N = 24
KEYS = "rna=obsm:X_genes,prot=obsm:X_proteins"
ROUTES = ("names.tsv", "positions.tsv", f"first:{N}", KEYS, "obsm:X_linked")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Demo files whose first features are the linked ones, with what the recipe makes of them in obsm."""
    raw, folder = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("demo")
    write_demo(raw, n_cells=150)
    links = pd.read_csv(raw / "rna-prot.tsv", sep="\t")[:N]
    for name in ("rna", "prot"):
        one = ad.read_h5ad(raw / f"{name}.h5ad")
        rest = [v for v in one.var_names if v not in set(links[name])]
        one[:, [*links[name], *rest]].copy().write_h5ad(folder / f"{name}.h5ad")
    links[["rna", "prot"]].to_csv(folder / "names.tsv", sep="\t", index=False)
    positions = "".join(f"{i}\t{i}\n" for i in range(N))
    (folder / "positions.tsv").write_text("rna_index\tprot_index\n" + positions)
    (linked,) = prepared(folder, "names.tsv").bundle.links
    for name, key, side in (
        ("rna", "X_genes", linked.source_features),
        ("prot", "X_proteins", linked.target_features),
    ):
        one = ad.read_h5ad(folder / f"{name}.h5ad")
        one.obsm[key] = one.obsm["X_linked"] = dense_rows(side, np.arange(one.n_obs))
        one.write_h5ad(folder / f"{name}.h5ad")
    return folder


def inputs(folder):
    return [str(folder / f"{name}.h5ad") for name in ("rna", "prot")]


def given(folder, route):
    return str(folder / route) if route.endswith(".tsv") else route


def prepared(folder, route):
    data = DataOptions(inputs=inputs(folder), links=[given(folder, route)], hvg={"rna": 5000, "prot": 5000})
    made = make_plan(data, TrainOptions(model="scmodal"), Task.INTEGRATE, lambda _: None)
    return load(made, None, seed=0, say=lambda _: None, warn=lambda _: None)


def run(folder, output, route, **options):
    small = {"n_hidden": 16, "n_latent": 4, "batch_size": 64, "n_neighbors": 5}
    given_options = {"params": small, "max_steps": 3, "threads": 1, "device": "cpu", "html": False}
    return mocli.integrate(
        inputs(folder), output=output, links=[given(folder, route)], model="scmodal",
        hvg={"rna": 5000, "prot": 5000}, **{**given_options, **options},
    )  # fmt: skip


@pytest.fixture(scope="module", params=["paper", "auto"])
def runs(demo, tmp_path_factory, request):
    folder = tmp_path_factory.mktemp(f"runs-{request.param}")
    return {
        route: run(demo, folder / f"{k}.h5mu", route, preset=request.param) for k, route in enumerate(ROUTES)
    }, folder


def test_every_route_gives_the_same_losses_and_the_same_latent(runs):
    """Parity with scMODAL's three ways to hand linked features over: bit by bit, from the first step."""
    made, _ = runs
    reports = [result.report for result in made.values()]
    first = {term: curve["value"][0] for term, curve in reports[0]["training"]["history"]["align"].items()}
    assert first["mnn"] > 0
    for report in reports[1:]:
        history = report["training"]["history"]["align"]
        assert {term: curve["value"][0] for term, curve in history.items()} == first
        assert history == reports[0]["training"]["history"]["align"]
        assert report["determinism"] == reports[0]["determinism"]


def test_the_report_says_what_each_route_matched(runs):
    made, _ = runs
    links = {route: result.report["links"][0] for route, result in made.items()}
    dialects = [
        "one column a modality",
        "positions",
        "first features",
        "matrices of obsm",
        "matrices of obsm",
    ]
    assert [link["dialect"] for link in links.values()] == dialects
    for route, link in links.items():
        assert (link["source"], link["target"]) == ("rna", "prot")
        assert (link["n_matched"], link["n_columns"]) == (N, N)
        counts = [link[k] for k in ("n_read", "n_source_matched", "n_target_matched")]
        assert counts == [None if "obsm" in route else N] * 3
    assert links[KEYS]["path"] == KEYS
    assert links["obsm:X_linked"]["path"] == "rna=obsm:X_linked,prot=obsm:X_linked"


def test_models_of_every_route_take_queries_and_keep_what_recipes_there_are(runs, demo, tmp_path):
    _, folder = runs
    for k, route in enumerate(ROUTES):
        saved = load_model(folder / f"{k}.model")
        assert bool(saved.link_recipes) == (k < 3), route
    placed = mocli.integrate(
        [demo / "rna.h5ad"], output=tmp_path / "q.h5mu", reference=folder / "3.model", metrics="none",
        threads=1, device="cpu", html=False,
    )  # fmt: skip
    assert placed.report["status"] == "ok"


def test_sccross_takes_every_route(demo, tmp_path):
    found = []
    for k, route in enumerate(("names.tsv", f"first:{N}", KEYS)):
        small = {"n_hidden": 16, "n_latent": 4, "batch_size": 32, "n_components": 10}
        result = mocli.integrate(
            inputs(demo), output=tmp_path / f"{k}.h5mu", links=given(demo, route), model="sccross",
            params=small, max_steps=6, threads=1, device="cpu", html=False, metrics="none",
            hvg={"rna": 5000, "prot": 5000},
        )  # fmt: skip
        found.append(result.report["training"]["history"]["align"])
    assert found[1] == found[0]
    for term, curve in found[0].items():
        assert found[2][term]["value"][0] == pytest.approx(curve["value"][0], rel=1e-3), term


def test_a_checkpoint_of_one_route_is_not_that_of_another(demo):
    from mocli.tasks.trained.train import matches

    matched = []
    for route in ROUTES:
        data = DataOptions(inputs=inputs(demo), links=[given(demo, route)])
        made = make_plan(data, TrainOptions(model="scmodal"), Task.INTEGRATE, lambda _: None)
        matched.append(matches(made))
    assert matched[0] == matched[1] == matched[2]
    assert len({str(m) for m in matched}) == 3


def test_a_dry_run_says_what_is_linked_and_finds_mistakes(demo, tmp_path):
    lines = run(demo, tmp_path / "out.h5mu", KEYS, dry_run=True).plan
    assert f"{N} linked columns, as they are: {KEYS}" in lines
    lines = run(demo, tmp_path / "o.h5mu", "first:24", dry_run=True).plan
    assert any(line.startswith(f"{N} links:") for line in lines)
    for route, error, message in (
        ("obsm:X_lnked", InputError, "holds no 'X_lnked'"),
        ("first:1000", InputError, "fewer features"),
        ("rna=obsm:X_genes,adt=obsm:X_linked", UsageError, "'adt', which is not among"),
        ("first:none", UsageError, "how many"),
    ):
        with pytest.raises(error, match=message):
            run(demo, tmp_path / "out.h5mu", route, dry_run=True)


def test_matrices_stand_alone_between_two_modalities(demo, tmp_path):
    with pytest.raises(UsageError, match="linked twice"):
        mocli.integrate(inputs(demo), output=tmp_path / "o.h5mu", links=["first:3", KEYS], dry_run=True)
    one = [inputs(demo)[0], inputs(demo)[1], f"other={inputs(demo)[1]}"]
    with pytest.raises(InputError, match="no link reaches the modality 'other'"):
        mocli.integrate(one, output=tmp_path / "o.h5mu", links=[KEYS], model="scmodal", dry_run=True)


def test_tables_and_first_features_put_together(demo, tmp_path):
    both = ["first:4", str(demo / "names.tsv")]
    lines = mocli.integrate(inputs(demo), output=tmp_path / "o.h5mu", links=both, dry_run=True).plan
    assert any(line.startswith(f"{N} links:") for line in lines)
    assert any("4 repeated links" in line for line in lines)


def test_check_looks_at_positions_and_refuses_matrices(demo):
    audits = [audit_links([given(demo, route)], inputs(demo), log=lambda _: None) for route in ROUTES[:3]]
    assert audits[0].edges == audits[1].edges == audits[2].edges
    with pytest.raises(UsageError, match="matrices in obsm have none"):
        audit_links([KEYS], inputs(demo), log=lambda _: None)


def test_impute_has_what_the_route_can_give(demo, tmp_path):
    small = {"n_hidden": 16, "n_latent": 4, "batch_size": 64}
    methods = {}
    for route in (f"first:{N}", KEYS):
        result = mocli.impute(
            inputs(demo), output=tmp_path / f"{len(methods)}.h5ad", links=route, source="rna", target="prot",
            evaluate=True, pair_key="true_cell", model="scmodal", params=small, max_steps=3, threads=1,
            device="cpu", html=False,
        )  # fmt: skip
        methods[route] = set(result.report["baselines"])
    # what follows single linked features needs to know them
    assert methods[f"first:{N}"] - methods[KEYS] == {"linked_feature"}


def run_inside(self, trainings):
    """Stand for `Processes.run` without new processes, whose start costs seconds."""
    from mocli import log
    from mocli.__main__ import main

    codes = {}
    for training in trainings:
        training.begin()
        codes[training.name] = main([*training.command, "--device", "cpu", "--threads", "1", "-qq"])
        log.teardown()
        (training.folder / "stderr.txt").write_text("")
    return codes


@pytest.mark.parametrize("route", [f"first:{N}", KEYS])
def test_a_benchmark_gives_its_runs_the_route_and_has_its_controls(demo, tmp_path, route, monkeypatch):
    monkeypatch.setattr("mocli.tasks.benchmark.processes.Processes.run", run_inside)
    small = {"n_hidden": 16, "n_latent": 4, "batch_size": 64, "n_neighbors": 5}
    options = {"models": "scmodal", "seeds": [0], "params": small, "max_steps": 2, "threads": 1,
               "device": "cpu", "html": False, "label_key": "cell_type", "links": [route]}  # fmt: skip
    result = mocli.benchmark(inputs(demo), output=tmp_path / "b.tsv", **options)
    assert result.report["status"] == "ok"
    words = (tmp_path / "b.runs/integrate-scmodal-seed0/out.report.json").read_text()
    assert route in json.loads(words)["made_from"]["words"]
    methods = set(pd.read_csv(tmp_path / "b.tsv", sep="\t")["method"])
    assert {"link_features", "cca", "linked_pca", "scmodal"} <= methods
    lines = mocli.benchmark(inputs(demo), output=tmp_path / "b.tsv", force=True, dry_run=True, **options).plan
    assert any(line.startswith("has integrate scmodal") for line in lines), "finished runs are known again"


def test_panels_are_drawn_from_positions_and_not_from_matrices(demo, tmp_path):
    options = {"models": "scmodal", "seeds": [0], "panel": [5], "dry_run": True, "html": False}
    lines = mocli.benchmark(inputs(demo), output=tmp_path / "b.tsv", links=[f"first:{N}"], **options).plan
    assert any("panel5-seed0.tsv" in line or "panel=5" in line for line in lines)
    with pytest.raises(UsageError, match="drawn from links of single features") as error:
        mocli.benchmark(inputs(demo), output=tmp_path / "b.tsv", links=[KEYS], **options)
    assert error.value.found == KEYS


def test_a_panel_of_features_that_names_do_not_tell_apart_is_written_by_position(unpaired, tmp_path):
    from mocli.data.links.linktable import read_links
    from mocli.tasks.benchmark.ground import prepare_ground
    from mocli.tasks.benchmark.options import StudyOptions
    from mocli.tasks.benchmark.studies import Setting, studies_of

    paths = []
    for name in ("rna", "prot"):
        one = ad.read_h5ad(unpaired / f"{name}.h5ad")
        if name == "rna":
            one.var_names = ["GENE0"] * 4 + list(one.var_names[4:])
        one.write_h5ad(tmp_path / f"{name}.h5ad")
        paths.append(str(tmp_path / f"{name}.h5ad"))
    data = DataOptions(inputs=paths, links=["first:10"])
    ground = prepare_ground(data, seed=0, say=lambda _: None, warn=lambda _: None, debug=lambda _: None)
    setting = Setting(ground, data, [0], ["scmodal"], tmp_path, write=True)
    _, study = studies_of(StudyOptions(panel=(6,)), setting)
    table = read_links(study.links[0])
    assert table.by_index
    assert len(table.frame) == 6
    assert (table.frame["source_feature"] == table.frame["target_feature"]).all()


def test_memory_is_foreseen_for_every_route(demo):
    from mocli.models.registry import resolve
    from mocli.tasks.prepare.footprint import footprint
    from mocli.tasks.prepare.plan import Aim

    found = []
    for route in (f"first:{N}", KEYS):
        data = DataOptions(inputs=inputs(demo), links=[route], hvg={"rna": 5000, "prot": 5000})
        made = make_plan(data, TrainOptions(model="scmodal"), Task.INTEGRATE, lambda _: None)
        found.append(footprint(made, resolve(made.traits, {}, "auto"), Aim(Task.INTEGRATE)))
    assert found[0].stages == found[1].stages
    assert abs(found[0].held - found[1].held) < 0.05 * found[0].held
