"""RNA, peaks and methylation: a gene that is methylated is silent, so that its links have the sign -1.

The truth is the demo's tissue; methylation is planted as the mirror image of a gene's rate.
"""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import mocli
from mocli.data.demo import write_demo

N, GENES = 300, 80


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files gex, atac and methyl of the same cells under other names, and links of either sign."""
    folder = tmp_path_factory.mktemp("methyl")
    write_demo(folder, n_cells=N, seed=0, trimodal=True)
    gex = ad.read_h5ad(folder / "gex.h5ad")
    rng = np.random.default_rng(3)
    counts = gex.X.toarray()
    log = np.log1p(counts / counts.sum(1, keepdims=True) * np.median(counts.sum(1)))
    # of each cell's neighbourhood in truth, so that the noise of counts is not shared
    key = gex.obs["cell_type"].astype(str) + pd.cut(gex.obs["state"], 4).astype(str)
    rate = pd.DataFrame(log).groupby(key.to_numpy()).transform("mean").to_numpy()
    chosen = np.argsort(-rate.std(0), kind="stable")[:GENES]
    z = (rate[:, chosen] - rate[:, chosen].mean(0)) / rate[:, chosen].std(0)
    level = 1 / (1 + np.exp(1.2 * z + rng.normal(0, 1.0, z.shape)))
    level[rng.random(level.shape) < 0.1] = 0
    order = rng.permutation(N)
    names = gex.var_names[chosen]
    methyl = ad.AnnData(level[order].astype(np.float32), obs=gex.obs.iloc[order].copy())
    methyl.var_names = [f"me_{name}" for name in names]
    methyl.obs_names = [f"methyl_{i}" for i in range(N)]
    methyl.write_h5ad(folder / "methyl.h5ad")
    for name, sign in (("minus", -1), ("plus", 1)):
        links = pd.DataFrame({"rna": names, "methyl": methyl.var_names, "weight": 1, "sign": sign})
        links.to_csv(folder / f"{name}.tsv", sep="\t", index=False)
    links = pd.read_csv(folder / "gex-atac.tsv", sep="\t").rename(columns={"gex": "rna"})
    links.to_csv(folder / "rna-atac.tsv", sep="\t", index=False)
    return folder


def integrate(folder, output, sign, model, **params):
    report = mocli.integrate(
        [f"rna={folder / 'gex.h5ad'}", f"atac={folder / 'atac.h5ad'}", f"methyl={folder / 'methyl.h5ad'}"],
        links=[folder / f"{sign}.tsv", folder / "rna-atac.tsv"], output=output, label_key="cell_type",
        model=model, params=params, metrics="all", clusters=None, html=False, umap=False, threads=1,
        device="cpu",
    ).report  # fmt: skip
    found = {key: entry["value"] for key, entry in report["metrics"].items()}
    assert {i["modality"]: i["kind"] for i in report["inputs"]}["methyl"] == "methyl"
    transfer = [found[f"label_transfer[{a}->{b}]"] for a, b in (("rna", "methyl"), ("methyl", "rna"))]
    return min(transfer), found["link_concordance[rna-methyl]"], found


def test_the_sign_of_links_is_respected_in_closed_form(folder, tmp_path):
    right, agrees, found = integrate(folder, tmp_path / "minus.h5mu", "minus", "otcca")
    wrong, _, _ = integrate(folder, tmp_path / "plus.h5mu", "plus", "otcca")
    assert right > 0.85
    assert agrees > 0.3
    # peaks and methylation share no link
    assert min(found["label_transfer[atac->methyl]"], found["label_transfer[methyl->atac]"]) > 0.7
    assert wrong < right - 0.3


@pytest.mark.slow
@pytest.mark.parametrize("model", ["sccross", "scmodal"])
def test_the_sign_of_links_is_respected_in_anchors(folder, tmp_path, model):
    params = {"n_hidden": 64, "batch_size": 128}
    right, agrees, _ = integrate(folder, tmp_path / "minus.h5mu", "minus", model, **params)
    wrong, _, _ = integrate(folder, tmp_path / "plus.h5mu", "plus", model, **params)
    assert right > 0.8
    assert agrees > 0.2
    assert wrong < right - 0.2
