"""A query whose peaks were called anew gives what the same cells give with the model's own peaks."""

import anndata as ad
import mudata
import numpy as np
import pytest
from scipy import sparse

import mocli
from mocli.data.demo import write_demo
from mocli.data.features.intervals import overlaps, parse_intervals
from mocli.errors import InputError

QUICK = {"threads": 1, "device": "cpu", "html": False}
N = 80


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A model of the demo's multiome; cells with its peaks, and with each peak cut in two and moved apart."""
    folder = tmp_path_factory.mktemp("peaks")
    write_demo(folder, n_cells=N)
    multiome = mudata.read_h5mu(folder / "multiome.h5mu")
    at = parse_intervals(multiome["atac"].var_names)
    row, other = overlaps(at, at)
    alone = np.bincount(row, minlength=len(at)) == 1
    whole = multiome["atac"][:, alone].copy()
    mudata.MuData({"rna": multiome["rna"].copy(), "atac": whole}).write_h5mu(folder / "given.h5mu")
    mocli.integrate(
        folder / "given.h5mu", output=folder / "m.h5mu", model="multigrate", max_steps=20,
        params={"n_hidden": 16, "n_latent": 4, "batch_size": 32}, metrics="none", clusters=None, **QUICK,
    )  # fmt: skip
    counts = np.asarray(whole.X.todense(), np.int64)
    first = np.random.default_rng(0).binomial(counts, 0.4)
    at = parse_intervals(whole.var_names)
    middle = (at["start"] + at["end"]) // 2
    left = [f"{c}-{s}-{m - 5}" for c, s, m in zip(at["chrom"], at["start"], middle, strict=True)]
    right = [f"{c}-{m + 5}-{e}" for c, m, e in zip(at["chrom"], middle, at["end"], strict=True)]
    # and peaks that the model has not
    none = np.ones((N, 3), np.int64)
    values = np.hstack([first, counts - first, none]).astype(np.float32)
    other = ad.AnnData(sparse.csr_matrix(values), obs=whole.obs[["cell_type", "batch"]].copy())
    other.var_names = [*left, *right, "chr9-1-50", "chrUn-1-50", "odd"]
    other.write_h5ad(folder / "other.h5ad")
    same = ad.AnnData(whole.X.copy(), obs=other.obs.copy())
    same.var_names = whole.var_names
    same.write_h5ad(folder / "same.h5ad")
    return folder


def test_values_are_imputed_as_from_the_model_s_own_peaks(work, tmp_path):
    found = {}
    for name in ("same", "other"):
        done = mocli.impute(
            f"atac={work / f'{name}.h5ad'}", output=tmp_path / f"{name}.h5ad", from_model=work / "m.model",
            source="atac", target="rna", **QUICK,
        )  # fmt: skip
        found[name] = ad.read_h5ad(tmp_path / f"{name}.h5ad").X
    np.testing.assert_allclose(found["other"], found["same"], rtol=1e-4, atol=1e-4)
    (told,) = [w for w in done.report["warnings"] if "another peak call" in w]
    n = 2 * ad.read_h5ad(work / "same.h5ad").n_vars
    assert f"{n:,} of {n + 3:,} (100%) overlap peaks of the model; 0 overlap several" in told


def test_cells_are_placed_among_those_of_the_model_and_perturbed(work, tmp_path):
    places = {}
    for name in ("same", "other"):
        mocli.integrate(
            f"atac={work / f'{name}.h5ad'}", output=tmp_path / f"{name}.h5mu", reference=work / "m.model",
            metrics="none", clusters=None, **QUICK,
        )  # fmt: skip
        places[name] = mudata.read_h5mu(tmp_path / f"{name}.h5mu")["atac"].obsm["X_multigrate"]
    np.testing.assert_allclose(places["other"], places["same"], rtol=1e-4, atol=1e-4)
    done = mocli.perturb(
        f"atac={work / 'other.h5ad'}", output=tmp_path / "p.tsv", from_model=work / "m.model", screen="hvg",
        source="cell_type=lymph_a", target="cell_type=lymph_b", **QUICK,
    )  # fmt: skip
    assert done.report["status"] == "ok"


def test_peaks_elsewhere_are_refused(work, tmp_path):
    cells = ad.read_h5ad(work / "same.h5ad")
    cells.var_names = [f"chr19:{i * 1000}-{i * 1000 + 200}" for i in range(cells.n_vars)]
    cells.write_h5ad(tmp_path / "far.h5ad")
    with pytest.raises(InputError, match="has 0 of the 1,"):
        mocli.impute(
            f"atac={tmp_path / 'far.h5ad'}", output=tmp_path / "o.h5ad", from_model=work / "m.model",
            source="atac", target="rna", **QUICK,
        )  # fmt: skip
