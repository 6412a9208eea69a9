"""Real cells measured together go through multiDGD: clusters are cell types, batches mix."""

import json

import pytest

import mocli
from mocli.report.file import validate

pytestmark = pytest.mark.real_data


@pytest.mark.parametrize(
    ("name", "batch", "least"), [("citeseq_pbmc10x_2batch", "batch", 0.6), ("eccite_pbmc_49adt", None, 0.4)]
)
def test_clusters_are_cell_types(shared_data, tmp_path, name, batch, least):
    mocli.integrate(
        [shared_data / f"{name}.h5mu"],
        output=tmp_path / "o.h5mu",
        model="multidgd",
        label_key="cell_type_gated",
        batch_key=batch,
        html=False,
        threads=1,
        metrics="all",
        device="cpu",
        max_steps=150,
    )
    report = json.loads((tmp_path / "o.report.json").read_text())
    validate(report)
    base = report["baselines"]["principal_components"]["metrics"]
    found = report["metrics"]
    assert found["cluster_agreement"]["value"] > least
    assert found["silhouette"]["value"] > base["silhouette"]["value"]
    if batch:
        assert found["kbet_batch"]["value"] > base["kbet_batch"]["value"] + 0.2
