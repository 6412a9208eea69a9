"""`integrate --reference`: queries of one or all modalities, new batches, absent features, labels."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from scipy import sparse

import mocli
from mocli.errors import InputError, UsageError
from mocli.report.file import validate

P = {"rna": 60, "atac": 80, "prot": 12}
SMALL = {"n_hidden": 16, "n_latent": 4, "batch_size": 32}
RATES = {name: np.random.default_rng(7 + i).gamma(0.5, 2.0, (3, p)) for i, (name, p) in enumerate(P.items())}


def measure(path, name, cells, *, batch=None, drop=(), scale=1.0, **obs):
    """Counts of cells c0, c1, ...: cell i is of type i mod 3; a batch doubles some features."""
    rng = np.random.default_rng(int(cells[0][1:]) + len(name))
    kind = np.array([int(c[1:]) % 3 for c in cells])
    rate = RATES[name][kind] * scale * rng.gamma(8, 1 / 8, (len(cells), 1))
    if batch is not None:
        rate = rate * np.where(np.arange(P[name]) % 5 == len(batch) % 5, 2.0, 1.0)
    table = pd.DataFrame({"cell_type": [f"t{k}" for k in kind], **obs}, index=cells)
    if batch is not None:
        table["sample"] = batch
    data = ad.AnnData(
        sparse.csr_matrix(rng.poisson(rate).astype(np.float32)),
        obs=table,
        var=pd.DataFrame(index=[f"{name}{j}" for j in range(P[name])]),
    )
    data[:, [v for v in data.var_names if v not in set(drop)]].copy().write_h5ad(path)
    return path


def named(start, n):
    return [f"c{i}" for i in range(start, start + n)]


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    """A reference of 120 cells with RNA and peaks in two batches, and its model."""
    folder = tmp_path_factory.mktemp("atlas")
    cells = named(0, 120)
    batch = [f"s{i % 2}" for i in range(120)]
    for name in ("rna", "atac"):
        measure(folder / f"{name}.h5ad", name, cells, sample=batch)
    out = folder / "atlas.h5mu"
    integrate(
        [folder / "rna.h5ad", folder / "atac.h5ad"],
        out,
        model="multigrate",
        batch_key="sample",
        max_steps=150,
    )
    return folder


def integrate(inputs, output, **options):
    defaults = {"device": "cpu", "threads": 1, "html": False, "label_key": "cell_type", "metrics": "all"}
    given = {} if "reference" in options else {"params": SMALL}
    return mocli.integrate(inputs, output=output, **{**defaults, **given, **options})


def module_of(folder):
    return {k: v for k, v in load_file(folder / "weights.safetensors").items() if k.startswith("module/")}


def test_a_query_trains_new_weights_only_and_may_be_followed_by_another(atlas, tmp_path, read):
    before = module_of(atlas / "atlas.model")
    first = measure(tmp_path / "q.h5ad", "rna", named(200, 60), batch="new")
    done = integrate(
        f"rna={first}",
        tmp_path / "one.h5mu",
        reference=atlas / "atlas.model",
        max_steps=20,
        transfer_labels="cell_type",
        batch_key="sample",
    )
    validate(done.report)
    # reference and query stand for modalities and for batches: what tells the same is told once
    assert {"kbet_batch", "ilisi_batch", "mixing"} <= set(done.report["metrics"])
    assert not {"kbet", "ilisi_modality"} & set(done.report["metrics"])
    assert done.report["training"]["steps"] == 20
    grown = module_of(tmp_path / "one.model")
    assert all(np.array_equal(grown[k], before[k]) for k in before)
    assert {k.removeprefix("module/") for k in set(grown) - set(before)} == {"covariates.tables.0.added"}

    second = measure(tmp_path / "r.h5ad", "atac", named(300, 60), batch="newer")
    integrate(f"atac={second}", tmp_path / "two.h5mu", reference=tmp_path / "one.model", max_steps=10)
    twice = module_of(tmp_path / "two.model")
    rows = twice["module/covariates.tables.0.weight"]
    assert np.array_equal(rows[:2], before["module/covariates.tables.0.weight"])
    assert np.array_equal(rows[2:], grown["module/covariates.tables.0.added"])
    assert twice["module/covariates.tables.0.added"].shape == (1, 16)
    same = [k for k in before if "tables.0" not in k]
    assert all(np.array_equal(twice[k], before[k]) for k in same)
    levels = json.loads((tmp_path / "two.model/model.json").read_text())["covariates"][0]["levels"]
    assert levels == ["s0", "s1", "new", "newer"]

    cells = read(tmp_path / "one.h5mu")
    assert list(cells.obs_names) == named(200, 60)
    assert np.isfinite(cells.obsm["X_multigrate"]).all()
    kinds = cells["rna"].obs["cell_type"].astype(str)
    for column in ("cell_type_transferred", "cell_type_forest"):
        assert (cells["rna"].obs[column].astype(str) == kinds).mean() > 0.6
    assert cells["rna"].obs["cell_type_confidence"].between(0, 1).all()
    for way in ("k-NN", "random_forest"):
        counted = done.report["tables"][f"query_labels_cell_type_{way}"]["rows"]
        assert sum(row[1] for row in counted) == 60
        assert all(0 <= row[4] <= row[3] <= 1 for row in counted)


def test_training_cells_are_placed_where_they_were(atlas, tmp_path, read):
    """Nothing is new about them: no step is taken, and the model stays the same."""
    done = integrate(
        [atlas / "rna.h5ad", atlas / "atac.h5ad"], tmp_path / "again.h5mu", reference=atlas / "atlas.model"
    )
    assert done.report["training"] is None
    old, new = read(atlas / "atlas.h5mu"), read(tmp_path / "again.h5mu")
    np.testing.assert_allclose(new.obsm["X_multigrate"], old.obsm["X_multigrate"], rtol=0, atol=1e-5)
    assert module_of(tmp_path / "again.model").keys() == module_of(atlas / "atlas.model").keys()


def test_absent_features_are_told_and_too_few_are_an_error(atlas, tmp_path, capsys):
    some = measure(tmp_path / "some.h5ad", "rna", named(200, 60), drop=[f"rna{j}" for j in range(10)])
    done = integrate(f"rna={some}", tmp_path / "o.h5mu", reference=atlas / "atlas.model", max_steps=2)
    table = done.report["tables"]["query_features"]["rows"]
    assert table == [["rna", "rna", 60, 50, 50 / 60]]
    assert any("10 of the model's 60 features are absent" in w for w in done.report["warnings"])
    assert any("one new batch, 'query'" in w for w in done.report["warnings"])
    few = measure(tmp_path / "few.h5ad", "rna", named(200, 60), drop=[f"rna{j}" for j in range(40)])
    with pytest.raises(InputError, match="20 of the 60 features"):
        integrate(f"rna={few}", tmp_path / "p.h5mu", reference=atlas / "atlas.model")


def test_what_the_model_does_not_know_is_refused_by_name(atlas, tmp_path):
    prot = measure(tmp_path / "prot.h5ad", "prot", named(200, 60))
    with pytest.raises(InputError, match="no modality for 'prot'"):
        integrate(f"prot={prot}", tmp_path / "o.h5mu", reference=atlas / "atlas.model")
    rna = measure(tmp_path / "rna.h5ad", "rna", named(200, 60))
    with pytest.raises(UsageError, match="keeps no labels 'donor'"):
        integrate(f"rna={rna}", tmp_path / "o.h5mu", reference=atlas / "atlas.model", transfer_labels="donor")
    with pytest.raises(UsageError, match="overwrite its own input"):
        integrate(f"rna={rna}", atlas / "atlas.h5mu", reference=atlas / "atlas.model", force=True)


def test_the_same_seed_maps_to_the_same_bytes_and_options_of_training_are_warned_of(atlas, tmp_path):
    rna = measure(tmp_path / "rna.h5ad", "rna", named(200, 60), batch="new")
    digests = set()
    for name in ("a", "b"):
        done = integrate(
            f"rna={rna}",
            tmp_path / f"{name}.h5mu",
            reference=atlas / "atlas.model",
            max_steps=5,
            hvg={"rna": 5},
        )
        digests.add(done.report["determinism"]["latent_sha256"])
    assert len(digests) == 1
    assert any("have no effect: --hvg" in w for w in done.report["warnings"])


def test_a_dry_run_says_what_is_new_and_writes_nothing(atlas, tmp_path):
    rna = measure(tmp_path / "rna.h5ad", "rna", named(200, 60), batch="new")
    done = integrate(f"rna={rna}", tmp_path / "o.h5mu", reference=atlas / "atlas.model", dry_run=True)
    text = "\n".join(done.plan)
    assert "the model does not know new, its only value" in text
    assert "not measured: atac" in text
    assert not list(tmp_path.glob("o.*"))


def test_a_query_is_laid_out_once_among_the_training_cells(atlas, tmp_path, read, monkeypatch):
    import mocli.tasks.integrate.reference as reference
    import mocli.tasks.integrate.write as plotting

    laid_out = []

    def layout(z, *, seed, device):
        laid_out.append(z)
        return z[:, :2].astype(np.float32)

    for module in (plotting, reference):
        monkeypatch.setattr(module, "layout", layout)
    rna = measure(tmp_path / "rna.h5ad", "rna", named(200, 60), batch="new")
    out, model = tmp_path / "o.h5mu", atlas / "atlas.model"
    integrate(f"rna={rna}", out, reference=model, max_steps=2, html=True, metrics="none")
    assert [len(z) for z in laid_out] == [120 + 60]
    cells = read(out)["rna"]
    np.testing.assert_array_equal(cells.obsm["X_umap"], cells.obsm["X_multigrate"][:, :2])


def test_draws_and_places_by_one_modality_are_written_on_request(atlas, tmp_path, read):
    done = integrate(
        [atlas / "rna.h5ad", atlas / "atac.h5ad"],
        tmp_path / "o.h5mu",
        reference=atlas / "atlas.model",
        sample=2,
        marginal=True,
    )
    cells = read(done.output)
    keys = {"X_multigrate", "X_multigrate_sample_1", "X_multigrate_sample_2"}
    assert set(cells["rna"].obsm) == keys | {"X_multigrate_rna", "X_umap"}
    assert set(cells["atac"].obsm) == keys | {"X_multigrate_atac", "X_umap"}
    first, second = (cells.obsm[f"X_multigrate_sample_{i}"] for i in (1, 2))
    assert not np.array_equal(first, second)
    # draws lie around the mean
    spread = np.abs(first - cells.obsm["X_multigrate"]).mean()
    assert 0 < spread < 3
    alone = integrate(f"rna={atlas / 'rna.h5ad'}", tmp_path / "p.h5mu", reference=atlas / "atlas.model")
    np.testing.assert_allclose(
        read(alone.output).obsm["X_multigrate"], cells["rna"].obsm["X_multigrate_rna"], rtol=0, atol=1e-5
    )


def test_a_model_without_weights_of_batches_encodes_a_query_as_it_is(tmp_path, read):
    for name in ("rna", "prot"):
        measure(tmp_path / f"{name}.h5ad", name, [f"c{i}" for i in range(90)], scale=3)
    links = tmp_path / "links.tsv"
    links.write_text("rna\tprot\n" + "".join(f"rna{i}\tprot{i}\n" for i in range(8)))
    trained = integrate(
        [tmp_path / "rna.h5ad", tmp_path / "prot.h5ad"],
        tmp_path / "o.h5mu",
        links=links,
        model="scmodal",
        pairing="unpaired",
        max_steps=10,
        params={"n_hidden": 8, "n_latent": 3, "batch_size": 30, "n_neighbors": 5},
    )
    assert trained.report["status"] == "ok"
    query = measure(tmp_path / "q.h5ad", "rna", named(200, 40), scale=3)
    done = integrate(
        f"rna={query}", tmp_path / "q.h5mu", reference=tmp_path / "o.model", transfer_labels="cell_type"
    )
    assert done.report["training"] is None
    assert read(done.output).n_obs == 40
    with pytest.raises(UsageError, match="no posterior to draw from"):
        integrate(f"rna={query}", tmp_path / "r.h5mu", reference=tmp_path / "o.model", sample=1)


def test_cells_of_a_type_that_the_reference_lacks_are_unknown(tmp_path, read):
    """The reference lacks the third of three types; the page says first how many cells are unknown."""
    cells = [c for c in named(0, 150) if int(c[1:]) % 3 != 2]
    for name in ("rna", "atac"):
        measure(tmp_path / f"{name}.h5ad", name, cells, scale=4.0)
    integrate(
        [tmp_path / "rna.h5ad", tmp_path / "atac.h5ad"],
        tmp_path / "two.h5mu",
        model="multigrate",
        max_steps=150,
        batch_key=None,
    )
    query = measure(tmp_path / "q.h5ad", "rna", named(300, 90), scale=4.0)
    done = integrate(
        f"rna={query}",
        tmp_path / "mapped.h5mu",
        reference=tmp_path / "two.model",
        transfer_labels="cell_type",
        html=True,
    )
    obs = read(tmp_path / "mapped.h5mu")["rna"].obs
    lacking = (obs["cell_type"] == "t2").to_numpy()
    unknown = (obs["cell_type_transferred"] == "unknown").to_numpy()
    assert unknown[lacking].mean() > 0.8
    assert unknown[~lacking].mean() < 0.2
    assert set(obs["cell_type_transferred_best"]) <= {"t0", "t1"}
    assert obs["cell_type_mapping"][lacking].median() < 0.05 < obs["cell_type_mapping"][~lacking].median()
    metrics = done.report["metrics"]
    found = metrics["query_label_unknown_lacking[cell_type->rna, k-NN]"]
    assert (found["value"], found["n"]) == (pytest.approx(unknown[lacking].mean()), 30)
    assert done.report["conclusion"].startswith(f"{unknown.sum()} of 90 cells that cell_type")
    right = (obs["cell_type_transferred"] == obs["cell_type"].astype(str)).to_numpy()
    assert f"is right for {right.mean():.0%} of 90 cells that came with" in done.report["conclusion"]
    shared = metrics["query_label_accuracy_shared[cell_type->rna, k-NN]"]
    assert (shared["value"], shared["n"]) == (pytest.approx(right[~lacking].mean()), 60)
    # the screen has the names and figures of the page
    log = (tmp_path / "mapped.log").read_text()
    assert f"accuracy of types that the reference has {shared['value']:.3f} (60 cells)" in log
    page = (tmp_path / "mapped.report.html").read_text()
    shown = (
        "Confidence of transferred labels",
        "Labels transferred, cell_type of rna",
        "mapping score, cell_type",
    )
    assert all(words in page for words in shown)
    assert {row[0] for row in done.report["tables"]["left_out_labels_cell_type"]["rows"]} == {"t0", "t1"}
    spaces = done.report["tables"]["query_spaces_cell_type_rna"]["rows"]
    assert spaces[0][0] == "latent"
    used = [name for name, _, is_used in spaces if is_used]
    assert len(used) == 1
    assert f"cell_type of rna: training cells vote in the {used[0]}; left out one by one" in log
    # asked for, no cell is unknown for its place
    options = {"reference": tmp_path / "two.model", "transfer_labels": "cell_type", "unknown_below": 0}
    integrate(f"rna={query}", tmp_path / "all.h5mu", min_confidence=0, **options)
    assert "unknown" not in set(read(tmp_path / "all.h5mu")["rna"].obs["cell_type_transferred"])
