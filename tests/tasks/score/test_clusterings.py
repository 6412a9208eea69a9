"""`mocli integrate --clusters`: Louvain clusters of the latent as a column of obs."""

import mudata as md
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors
from sknetwork.clustering import Louvain

import mocli
from mocli.__main__ import main
from mocli.data.bundle import Codes
from mocli.errors import UsageError
from mocli.tasks.score.clusterings import CellColumns


def by_hand(z, resolution):
    """The graph by scikit-learn, cells in the order of their coordinates."""
    order = np.lexsort(z.T[::-1])
    near = NearestNeighbors(n_neighbors=15).fit(z[order]).kneighbors_graph()
    found = np.empty(len(z), int)
    found[order] = Louvain(resolution, modularity="newman").fit_predict(near.maximum(near.T))
    return found


@pytest.mark.parametrize("resolution", [1.0, 0.3])
def test_clusters_of_all_modalities_are_written(run, unpaired, tmp_path, read, resolution):
    inputs = [unpaired / "rna.h5ad", unpaired / "prot.h5ad"]
    result = run(inputs, links=unpaired / "links.tsv", clusters=resolution, metrics="none")
    found = read(tmp_path / "out.h5mu")
    column = pd.concat([found[m].obs["scmodal_louvain"] for m in ("rna", "prot")])
    assert isinstance(found["rna"].obs["scmodal_louvain"].dtype, pd.CategoricalDtype)
    z = np.concatenate([found[m].obsm["X_scmodal"] for m in ("rna", "prot")])
    assert adjusted_rand_score(by_hand(z, resolution), column.astype(str)) == 1.0
    sizes = column.value_counts()
    assert [sizes[str(i)] for i in range(len(sizes))] == sorted(sizes, reverse=True)
    whole = found.obs["scmodal_louvain"].astype(str)
    assert (whole.loc[column.index] == column.astype(str)).all()
    table = result.report["tables"]["clusters"]
    assert [row[1] for row in table["rows"]] == [int(n) for n in sorted(sizes, reverse=True)]
    assert table["columns"] == ["cluster", "cells", "rna", "prot"]


def test_a_column_of_that_name_is_replaced_with_a_word(run, paired, tmp_path, read):
    data = read(paired / "data.h5mu")
    data["rna"].obs["mine_louvain"] = "kept"
    with md.set_options(pull_on_update=False):
        data.write_h5mu(tmp_path / "data.h5mu")
    given = {"model": "multigrate", "clusters": 1, "key_added": "X_mine", "metrics": "none", "max_steps": 3}
    given |= {"html": False, "threads": 1, "device": "cpu"}
    given["params"] = {"n_hidden": 8, "n_latent": 3, "batch_size": 32}
    result = mocli.integrate([tmp_path / "data.h5mu"], output=tmp_path / "out.h5mu", **given)
    assert any("obs['mine_louvain'] of rna is replaced" in w for w in result.report["warnings"])
    obs = read(tmp_path / "out.h5mu")["rna"].obs["mine_louvain"]
    assert set(obs.astype(str)) <= set("0123456789")
    dry = mocli.integrate([tmp_path / "data.h5mu"], output=tmp_path / "d.h5mu", dry_run=True, **given)
    assert any("'mine_louvain'" in line and line.startswith("warning") for line in dry.plan)
    # a query is clustered among its own cells
    mapped = mocli.integrate(
        [tmp_path / "data.h5mu"], output=tmp_path / "q.h5mu", reference=tmp_path / "out.model", clusters=1,
        html=False, threads=1, device="cpu",
    )  # fmt: skip
    found = read(tmp_path / "q.h5mu")
    assert found["prot"].obs["multigrate_louvain"].notna().all()
    assert sum(row[1] for row in mapped.report["tables"]["clusters"]["rows"]) == 60


def test_cells_of_other_modalities_have_no_cluster():
    codes, cells = Codes("x_louvain", np.array([0, 1, 0]), ("1", "2")), {"rna": np.array([2, 1])}
    clusters = CellColumns.of_codes(codes, cells)
    assert clusters.of_modality("rna")["x_louvain"].tolist() == ["1", "2"]
    whole = clusters.of_whole({"rna": np.array([3, 0])}, 4)["x_louvain"]
    assert whole.codes.tolist() == [1, -1, -1, 0]
    numbers = CellColumns("", {"n": np.array([1.0, 2.0, 3.0], np.float32)}, cells, {"n": -1.0})
    assert numbers.of_whole({"rna": np.array([3, 0])}, 4)["n"].tolist() == [2.0, -1.0, -1.0, 3.0]
    assert numbers.of_whole({"rna": np.array([3, 0])}, 4)["n"].dtype == np.float32


@pytest.mark.parametrize("resolution", [0, -1, float("nan")])
def test_a_resolution_is_above_zero(unpaired, tmp_path, resolution):
    with pytest.raises(UsageError, match="above zero"):
        mocli.integrate([unpaired / "rna.h5ad"], output=tmp_path / "o.h5mu", clusters=resolution)


@pytest.mark.parametrize("given", ["0", "nan", "high"])
def test_the_command_line_refuses_what_is_no_resolution(unpaired, tmp_path, given):
    words = [unpaired / "rna.h5ad", "-o", tmp_path / "o.h5mu", "--clusters", given]
    assert main(["integrate", *map(str, words)]) == 2
