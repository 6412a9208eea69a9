"""Predicted changes of proteins against the difference that is measured between two conditions."""

import mudata
import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu

import mocli
from mocli.data.demo import write_demo
from mocli.metrics.correlation import Differential
from mocli.tasks.perturb.truth import compare_with_target, with_measured

GIVEN = {"html": False, "threads": 1, "device": "cpu"}
PARAMS = {"n_hidden": 32, "n_latent": 6, "batch_size": 64}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The demo's genes and peaks, two types of cells, and a model of them."""
    folder = tmp_path_factory.mktemp("contrast")
    write_demo(folder, n_cells=200)
    mocli.integrate(
        folder / "multiome.h5mu", output=folder / "out.h5mu", model="multigrate", params=PARAMS,
        max_steps=200, metrics="none", clusters=None, umap=False, **GIVEN,
    )  # fmt: skip
    return folder


def changes(folder, output, features):
    result = mocli.perturb(
        folder / "multiome.h5mu", from_model=folder / "out.model", source="cell_type=lymph_a",
        target="cell_type=myelo_a", features=features, together=True, target_modality="atac", min_cells=20,
        output=output, **GIVEN,
    )  # fmt: skip
    found = result.report["tables"]["contrast"]
    return result, dict(zip(found["columns"], found["rows"][0], strict=True))


def test_measured_differences_stand_beside_predictions_over_all_cells():
    names = ("a", "b", "c", "d")
    table = pd.DataFrame(
        {"feature": "F", "direction": "up", "group": ["all"] * 4 + ["k"] * 4, "target": names * 2}
    )
    measured = Differential(np.array([1.0, -1.0, 0.1, np.nan]), np.array([1e-6, 1e-5, 0.7, np.nan]))
    found = with_measured(table, names, measured)
    assert list(found["measured_change"][:3]) == [1.0, -1.0, 0.1]
    assert found["measured_change"][4:].isna().all()
    size = np.array([2.0, -3.0, 0.5, 9.0, 0, 0, 0, 0])
    (row,) = compare_with_target(found, size).to_dict("records")
    assert (row["features"], row["differ"], row["found"], row["same sign"]) == (3, 2, 2, 1.0)
    assert row["Pearson"] == pytest.approx(np.corrcoef(size[:3], measured.change[:3])[0, 1])
    own = compare_with_target(found.assign(perturbed=[1, 0, 0, 0] * 2), size)
    assert own["features"].item() == 2


@pytest.mark.slow
def test_what_tells_two_types_apart_moves_the_peaks_as_they_differ(trained, tmp_path):
    with mudata.set_options(pull_on_update=False):
        cells = mudata.read_h5mu(trained / "multiome.h5mu")
    kind = cells["rna"].obs["cell_type"].astype(str).to_numpy()
    counts = cells["rna"].X.toarray()
    logs = np.log1p(counts / counts.sum(1, keepdims=True) * np.median(counts.sum(1)))
    gap = np.abs(logs[kind == "myelo_a"].mean(0) - logs[kind == "lymph_a"].mean(0))
    order = np.argsort(-gap, kind="stable")
    names = cells["rna"].var_names
    result, signature = changes(trained, tmp_path / "a.tsv", list(names[order[:40]]))
    _, others = changes(trained, tmp_path / "b.tsv", list(names[order[-40:]]))
    assert signature["Pearson"] > 0.4
    assert signature["Pearson"] > others["Pearson"] + 0.2
    assert signature["found"] > 2 * signature["by chance"]
    assert signature["same sign"] > 0.8
    assert result.report["metrics"]["perturbation_contrast_pearson_median"]["value"] == pytest.approx(
        signature["Pearson"]
    )
    (path,) = (p for p in result.files if p.suffix == ".tsv" and "measured_fdr" in p.read_text()[:500])
    table = pd.read_csv(path, sep="\t").set_index("target")
    assert (table["measured_fdr"] < 0.05).sum() == signature["differ"]
    peak = table["measured_p"].idxmin()
    x = cells["atac"][:, peak].X.toarray().ravel() / cells["atac"].X.sum(1).A1
    p = mannwhitneyu(x[kind == "myelo_a"], x[kind == "lymph_a"], method="asymptotic").pvalue
    assert np.log10(table.loc[peak, "measured_p"]) == pytest.approx(np.log10(p), rel=0.3)
