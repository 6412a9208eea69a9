"""Correlation of linked features in shared cells, against numpy."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mocli.tasks.links.check import FEWEST, audit_links, pearson


def test_pearson_against_numpy():
    rng = np.random.default_rng(0)
    x, y = rng.poisson(0.7, (200, 8)).astype(float), rng.poisson(2.0, (200, 8)).astype(float)
    y[:, 1] += 2 * x[:, 1]
    x[:, 2], y[:, 3] = 0, 4
    r = pearson(sparse.csr_matrix(x), sparse.csr_matrix(y))
    expected = [np.nan if k in (2, 3) else np.corrcoef(x[:, k], y[:, k])[0, 1] for k in range(8)]
    np.testing.assert_allclose(r, expected, atol=1e-9)


def write(folder, n, *, shared=True):
    rng = np.random.default_rng(3)
    level = rng.gamma(1.0, 1.0, (n, 4))
    rna = np.hstack([rng.poisson(4 * level), rng.poisson(3.0, (n, 40))])
    prot = np.hstack([rng.poisson(20 * level), rng.poisson(20.0, (n, 20))])
    prot[:, 3] = rng.poisson(40 * np.exp(-level[:, 3]))  # its gene says the opposite
    for name, x, prefix in (("rna", rna, "G"), ("prot", prot, "P")):
        cells = [f"c{k}" if shared else f"{name}{k}" for k in range(n)]
        order = rng.permutation(n)
        a = ad.AnnData(sparse.csr_matrix(x.astype(np.float32)), obs=pd.DataFrame(index=cells))
        a.var_names = [f"{prefix}{k}" for k in range(x.shape[1])]
        a[order].copy().write_h5ad(folder / f"{name}.h5ad")
    (folder / "links.tsv").write_text("rna\tprot\n" + "".join(f"G{k}\tP{k}\n" for k in range(4)))
    files = [str(folder / "rna.h5ad"), str(folder / "prot.h5ad")]
    return audit_links([folder / "links.tsv"], files, log=lambda _: None)


def test_a_link_the_data_contradict_is_named_whatever_the_order_of_cells(tmp_path):
    audit = write(tmp_path, 400)
    (edge,) = audit.edges
    assert edge.n_cells == 400
    assert edge.correlation > 0.4
    assert [(p.problem, p.feature) for p in audit.problems] == [("contradicted", "G3")]
    assert edge.n_contradicted == 1


@pytest.mark.parametrize(("n", "shared"), [(FEWEST - 1, True), (200, False)])
def test_without_cells_in_common_nothing_is_said(tmp_path, n, shared):
    (edge,) = write(tmp_path, n, shared=shared).edges
    assert (edge.n_cells, edge.correlation, edge.n_contradicted) == (0, None, 0)


@pytest.mark.real_data
def test_an_isoform_is_contradicted_by_its_gene_in_real_cells(shared_data):
    audit = audit_links(
        [shared_data / "citeseq_pbmc5k_29adt.links.tsv"],
        [str(shared_data / "citeseq_pbmc5k_29adt.h5mu")],
        log=lambda _: None,
    )
    assert audit.edges[0].correlation > 0.3
    # CD45RA is on naive cells, PTPRC in all: the one link of this panel that misleads
    assert [p.feature for p in audit.problems if p.problem == "contradicted"] == ["CD45RA"]
