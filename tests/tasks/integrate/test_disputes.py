"""Labels on which modalities disagree are found, listed, and told from an integration that is wrong."""

import numpy as np
import pytest

import mocli
from mocli.data.demo import write_demo

MOVED, TO = "lymph_b", "myelo_a"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo, and proteins half of whose cells of a type carry the name of another."""
    import anndata as ad

    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, n_cells=300)
    prot = ad.read_h5ad(folder / "prot.h5ad")
    label = prot.obs["cell_type"].astype(str).to_numpy().copy()
    moved = np.flatnonzero(label == MOVED)[::2]
    label[moved] = TO
    prot.obs["cell_type"] = label
    prot.write_h5ad(folder / "wrong.h5ad")
    return folder, set(prot.obs_names[moved])


@pytest.fixture
def integrate(demo, tmp_path, read, check_report):
    def run(name):
        folder, _ = demo
        mocli.integrate(
            [folder / "rna.h5ad", folder / f"{name}.h5ad"], links=folder / "rna-prot.tsv",
            output=tmp_path / f"{name}.h5mu", transfer_labels="cell_type", html=False, threads=1, umap=False,
            metrics="none", device="cpu",
        )  # fmt: skip
        return read(tmp_path / f"{name}.h5mu"), check_report(tmp_path / f"{name}.report.json")

    return run


def test_planted_wrong_labels_are_listed_and_the_links_take_the_others_side(demo, integrate):
    out, report = integrate("wrong")
    found = report["tables"]["disputes_cell_type"]
    rows = [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]
    (row,) = [r for r in rows if r["modality"] == "prot"]
    assert (row["own label"], row["label by others"]) == (TO, MOVED)
    assert row["like the other"] > row["like own label"] + 0.3
    said = out["prot"].obs["cell_type_disputed"].astype(str)
    listed = set(said.index[said == MOVED])
    assert len(listed & demo[1]) > 0.8 * len(demo[1])
    assert len(listed & demo[1]) > 0.9 * len(listed)
    assert len(listed) == row["cells"]
    assert any("modalities disagree on cell_type" in w for w in report["warnings"])


def test_where_labels_agree_there_is_no_list(integrate):
    out, report = integrate("prot")
    assert "disputes_cell_type" not in report["tables"]
    assert "cell_type_disputed" not in out["prot"].obs
