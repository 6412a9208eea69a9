"""Fixtures shared by the tests: tiny data written as real files, and where the real data are."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, settings
from scipy import sparse

from mocli import log

# one thread: tests of equal bytes must not depend on how many cores are free
os.environ.setdefault("OMP_NUM_THREADS", "1")

# a machine that others use too is slow at times, which is no finding
settings.register_profile("mocli", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mocli")

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(autouse=True)
def quiet_after():
    """Take down what a command set up to print, so that the next test is silent."""
    yield
    log.teardown()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"the real data sets are not at {SHARED}")
    return SHARED


def write_modality(path, *, cells, features, seed, obs=None, n_types=3, depth=60.0):
    """A small count matrix with cell types, as a real h5ad."""
    import anndata as ad

    rng = np.random.default_rng(seed)
    kind = np.arange(len(cells)) % n_types
    profile = rng.gamma(0.5, 1.0, size=(n_types, len(features))) + 0.02
    mean = profile[kind] / profile[kind].sum(1, keepdims=True) * depth * len(features) / 20
    x = sparse.csr_matrix(rng.poisson(mean).astype(np.float32))
    table = pd.DataFrame({"cell_type": pd.Categorical([f"type{k}" for k in kind])}, index=list(cells))
    if obs is not None:
        table = table.assign(**obs)
    ad.AnnData(X=x, obs=table, var=pd.DataFrame(index=list(features))).write_h5ad(path, compression="gzip")
    return path


@pytest.fixture(scope="session")
def unpaired(tmp_path_factory) -> Path:
    """Folder with rna.h5ad (70 cells), prot.h5ad (60 cells) and links.tsv: unpaired."""
    folder = tmp_path_factory.mktemp("unpaired")
    genes = [f"GENE{i}" for i in range(50)]
    proteins = [f"Prot{i}" for i in range(12)]
    write_modality(folder / "rna.h5ad", cells=[f"r{i}" for i in range(70)], features=genes, seed=1)
    write_modality(folder / "prot.h5ad", cells=[f"p{i}" for i in range(60)], features=proteins, seed=2)
    rows = "".join(f"GENE{i}\tProt{i}\n" for i in range(10))
    (folder / "links.tsv").write_text("rna\tprot\n" + rows)
    return folder


@pytest.fixture(scope="session")
def paired(tmp_path_factory) -> Path:
    """Folder with data.h5mu (60 cells in rna and prot, names shared, other order) and links.tsv."""
    import anndata as ad
    import mudata as md

    folder = tmp_path_factory.mktemp("paired")
    cells = [f"c{i}" for i in range(60)]
    genes = [f"GENE{i}" for i in range(40)]
    proteins = [f"Prot{i}" for i in range(10)]
    write_modality(folder / "a.h5ad", cells=cells, features=genes, seed=3)
    write_modality(folder / "b.h5ad", cells=cells, features=proteins, seed=4)
    rna, prot = ad.read_h5ad(folder / "a.h5ad"), ad.read_h5ad(folder / "b.h5ad")
    del prot.obs["cell_type"]
    prot = prot[np.random.default_rng(0).permutation(60)].copy()
    with md.set_options(pull_on_update=False):
        md.MuData({"rna": rna, "prot": prot}).write_h5mu(folder / "data.h5mu")
    (folder / "links.tsv").write_text(
        "rna\tprot\tweight\n" + "".join(f"GENE{i}\tProt{i}\t0.5\n" for i in range(8))
    )
    return folder


SMALL = {"n_hidden": 16, "n_latent": 4, "batch_size": 32, "n_neighbors": 5}


@pytest.fixture
def small() -> dict[str, int]:
    """Hyper-parameters that train in a moment."""
    return dict(SMALL)
