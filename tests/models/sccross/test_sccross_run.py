"""The command with scCross: one, two and three modalities, apart and together, and queries."""

import json

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import mocli
from mocli.errors import InputError, UsageError
from mocli.report.file import validate
from mocli.tasks.trained.saved import load_model

SETTINGS = {"n_hidden": 16, "n_latent": 6, "batch_size": 32, "n_components": 8, "n_mutual": 5}
P = {"rna": 40, "atac": 60, "prot": 12}


def write(folder, n=80, *, tag="", seed=1, names=tuple(P), paired=False):
    """One h5ad a modality, of three types; gene j, peak j and protein j go together."""
    rng, profiles = np.random.default_rng(seed), np.random.default_rng(0)
    kind = np.arange(n) % 3
    shared = profiles.gamma(0.4, 4.0, size=(3, max(P.values()))) + 0.1
    files = []
    for name in names:
        cells = [f"c{seed}_{i}" if paired else f"{name}{seed}_{i}" for i in range(n)]
        obs = pd.DataFrame({"cell_type": [f"t{k}" for k in kind]}, index=cells)
        obs["batch"] = [("a", "b")[i // 3 % 2] for i in range(n)]
        names_of = [f"GENE{j}" if name == "rna" else f"{name}{j}" for j in range(P[name])]
        x = sparse.csr_matrix(rng.poisson(3 * shared[kind, : P[name]]).astype(np.float32))
        path = folder / f"{name}{tag}.h5ad"
        ad.AnnData(X=x, obs=obs, var=pd.DataFrame(index=names_of)).write_h5ad(path)
        files.append(f"{name}={path}")
    for name in ("atac", "prot"):
        lines = "".join(f"GENE{j}\t{name}{j}\n" for j in range(min(40, P[name])))
        (folder / f"{name}.tsv").write_text(f"rna\t{name}\n{lines}")
    return files


def integrate(inputs, output, *, params=None, **options):
    defaults = {"model": "sccross", "max_steps": 60, "html": False, "threads": 1, "device": "cpu"}
    mocli.integrate(inputs, output=output, params=SETTINGS | (params or {}), **(defaults | options))
    report = json.loads(output.with_name(output.stem + ".report.json").read_text())
    validate(report)
    return report


def latent_of(path, modality):
    with md.set_options(pull_on_update=False):
        return np.asarray(md.read_h5mu(path)[modality].obsm["X_sccross"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sccross")


@pytest.fixture(scope="module")
def apart(folder):
    files = write(folder, names=("rna", "atac"))
    out = folder / "apart.h5mu"
    report = integrate(
        files, out, links=folder / "atac.tsv", batch_key="batch", label_key="cell_type", max_steps=240
    )
    return files, out, report


def test_cells_measured_apart_train_in_two_stages(apart):
    _, out, report = apart
    assert [p["name"] for p in report["training"]["phases"]] == ["pretrain", "align"]
    losses = report["training"]["losses"]
    assert losses["pretrain"]["reconstruction"]["last"] < losses["pretrain"]["reconstruction"]["first"]
    assert {"critic", "adversarial", "mnn", "realigned", "kl_aligned"} <= set(losses["align"])
    assert latent_of(out, "rna").shape == (80, 6)
    transfer = [v["value"] for k, v in report["metrics"].items() if k.startswith("label_transfer")]
    assert transfer
    assert min(transfer) > 0.6


def test_a_saved_model_places_its_cells_again(apart, folder):
    files, out, _ = apart
    integrate(files[:1], folder / "again.h5mu", reference=out.with_suffix(".model"))
    np.testing.assert_allclose(
        latent_of(folder / "again.h5mu", "rna"), latent_of(out, "rna"), rtol=1e-4, atol=1e-4
    )


def test_a_query_of_one_modality_is_encoded_as_it_is(apart, folder):
    query = write(folder, 30, tag="_q", seed=5, names=("atac",))
    out = folder / "query.h5mu"
    mocli.integrate(query, output=out, reference=apart[1].with_suffix(".model"), html=False, device="cpu")
    assert latent_of(out, "atac").shape == (30, 6)
    assert np.isfinite(latent_of(out, "atac")).all()


def test_three_modalities_apart(folder):
    files = write(folder)
    out = folder / "three.h5mu"
    integrate(files, out, links=[folder / "atac.tsv", folder / "prot.tsv"], max_steps=30)
    assert all(np.isfinite(latent_of(out, name)).all() for name in P)


def test_cells_measured_together_need_no_links(folder):
    files = write(folder, tag="_p", seed=2, names=("rna", "atac"), paired=True)
    report = integrate(files, folder / "paired.h5mu", max_steps=60)
    assert "pairs" in report["training"]["losses"]["align"]
    assert np.array_equal(latent_of(folder / "paired.h5mu", "rna"), latent_of(folder / "paired.h5mu", "atac"))


def test_partly_paired_cells(folder):
    files = write(folder, tag="_m", seed=3, names=("rna", "atac"), paired=True)
    for i, rows in enumerate((slice(0, 60), slice(30, 80))):
        path = files[i].partition("=")[2]
        part = ad.read_h5ad(path)[rows].copy()
        part.write_h5ad(path)
    integrate(files, folder / "mosaic.h5mu", links=folder / "atac.tsv", max_steps=40)
    z = latent_of(folder / "mosaic.h5mu", "rna")
    assert np.array_equal(z[30:60], latent_of(folder / "mosaic.h5mu", "atac")[:30])


def test_one_modality_has_one_stage(folder):
    files = write(folder, names=("rna",))
    report = integrate(files, folder / "alone.h5mu", max_steps=30)
    assert [p["name"] for p in report["training"]["phases"]] == ["pretrain"]
    assert "realigned" in report["training"]["losses"]["pretrain"]


def test_apart_without_links_is_refused(folder):
    with pytest.raises(UsageError, match="needs a feature-link table"):
        integrate(write(folder, names=("rna", "atac")), folder / "no.h5mu")


def test_expected_counts_are_imputed_through_the_decoder(apart, folder):
    out = folder / "imputed.h5mu"
    mocli.impute(
        write(folder, 30, tag="_q", seed=5, names=("atac",)),
        output=out,
        from_model=apart[1].with_suffix(".model"),
        source="atac",
        target="rna",
        route="decoder",
        scale="counts",
        html=False,
    )
    with md.set_options(pull_on_update=False):
        found = md.read_h5mu(out)["rna_imputed"]
    x = np.asarray(found.X if isinstance(found.X, np.ndarray) else found.X.todense())
    assert x.shape == (30, 40)
    truth = ad.read_h5ad(write(folder, 30, tag="_t", seed=5, names=("rna",))[0].partition("=")[2])
    kind = np.arange(30) % 3
    means = [np.stack([np.asarray(m[kind == k].mean(0)).ravel() for k in range(3)]) for m in (x, truth.X)]
    assert np.corrcoef(means[0].ravel(), means[1].ravel())[0, 1] > 0.7


@pytest.fixture(scope="module")
def sets(folder):
    path = folder / "sets.gmt"
    lines = [f"SET{k}\tnote\t" + "\t".join(f"gene{j}" for j in range(k * 6, k * 6 + 6)) for k in range(6)]
    path.write_text("\n".join([*lines, "TOO_SMALL\tnote\tGENE1\tGENE2\tOTHER"]) + "\n")
    return path


def test_gene_sets_go_in_and_project_new_cells(folder, sets):
    files = write(folder, names=("rna", "atac"))
    out = folder / "sets.h5mu"
    integrate(files, out, links=folder / "atac.tsv", gene_sets=sets, max_steps=20)
    saved = load_model(out.with_suffix(".model"))
    assert [part.n_components for part in saved.model.module.shape.parts] == [13, 13]
    integrate(files[:1], folder / "sets2.h5mu", reference=out.with_suffix(".model"))
    np.testing.assert_allclose(
        latent_of(folder / "sets2.h5mu", "rna"), latent_of(out, "rna"), rtol=1e-4, atol=1e-4
    )


def test_gene_sets_that_match_nothing_are_refused(folder, sets):
    other = folder / "other.gmt"
    other.write_text("SET\tnote\tX1\tX2\tX3\n")
    files = write(folder, names=("rna",))
    with pytest.raises(InputError, match="no set has 3 genes"):
        integrate(files, folder / "no.h5mu", gene_sets=other)
    with pytest.raises(UsageError, match="uses no gene sets"):
        integrate(files, folder / "no.h5mu", gene_sets=sets, model="multidgd")


def test_the_same_seed_gives_the_same_bytes(folder):
    files = write(folder, names=("rna", "atac"))
    reports = [
        integrate(files, folder / f"same{i}.h5mu", links=folder / "atac.tsv", max_steps=9) for i in range(2)
    ]
    assert reports[0]["determinism"]["latent_sha256"] == reports[1]["determinism"]["latent_sha256"]


def test_cells_of_a_type_are_simulated_in_all_modalities(apart, folder):
    out = folder / "sim.h5mu"
    mocli.simulate(
        from_model=apart[1].with_suffix(".model"), output=out, label="cell_type=t1", n_cells=40, html=False
    )
    with md.set_options(pull_on_update=False):
        found = md.read_h5mu(out)
    for name in ("rna", "atac"):
        x = found[name].X
        x = np.asarray(x.todense() if sparse.issparse(x) else x)
        assert x.shape == (40, P[name])
        assert np.array_equal(x, np.round(x))
        assert x.min() >= 0


def test_drawn_counts_have_the_depth_of_their_cell(apart, folder):
    out = folder / "drawn.h5mu"
    query = write(folder, 60, tag="_d", seed=7, names=("atac",))
    path = query[0].partition("=")[2]
    deep = ad.read_h5ad(path)
    deep.X[:30] = deep.X[:30] * 4
    deep.write_h5ad(path)
    options = {"source": "atac", "target": "rna", "scale": "counts", "draw": True, "html": False}
    mocli.impute(query, output=out, from_model=apart[1].with_suffix(".model"), **options)
    with md.set_options(pull_on_update=False):
        x = md.read_h5mu(out)["rna_imputed"].layers["sampled"]
    x = np.asarray(x.todense() if sparse.issparse(x) else x)
    assert np.array_equal(x, np.round(x))
    totals = x.sum(1)
    assert totals[:30].mean() / totals[30:].mean() == pytest.approx(4, rel=0.2)
    source = np.asarray(deep.X.sum(1)).ravel()
    assert np.corrcoef(totals, source)[0, 1] > 0.9
