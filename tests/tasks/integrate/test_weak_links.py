"""Unpaired cells with links of 20 in 200 features, all noisy: partners are found far better than by links."""

import pytest
from planted import write_weakly_linked

import mocli


@pytest.mark.parametrize("model", ["otcca", pytest.param("scmodal", marks=pytest.mark.slow)])
def test_labels_and_partners_are_found(tmp_path, model):
    write_weakly_linked(tmp_path)
    report = mocli.integrate(
        [tmp_path / "rna.h5ad", tmp_path / "prot.h5ad"], links=tmp_path / "links.tsv", pairing="unpaired",
        pair_key="true_cell", label_key="cell_type", model=model, output=tmp_path / "o.h5mu", html=False,
        umap=False, clusters=None, threads=1, device="cpu",
    ).report  # fmt: skip
    found = {k: v["value"] for k, v in report["metrics"].items()}
    links = {k: v["value"] for k, v in report["baselines"]["link_features"]["metrics"].items()}
    for way in ("label_transfer[rna->prot]", "label_transfer[prot->rna]"):
        assert found[way] >= 0.9
        assert links[way] <= found[way] - 0.15
    assert found["foscttm[rna-prot]"] <= 0.15
    assert links["foscttm[rna-prot]"] >= found["foscttm[rna-prot]"] + 0.15
