"""`mocli impute --evaluate --label-key`: what imputed values say of the cells' labels."""

import warnings

import mudata
import numpy as np
import pandas as pd
import pytest

from mocli.data.demo import write_demo
from mocli.errors import InputError
from mocli.tasks.benchmark.table import COLUMNS, Record
from mocli.tasks.impute.impute import impute
from mocli.types import Task

PARAMS = {"n_hidden": 32, "n_latent": 6, "batch_size": 64}
GIVEN = {"threads": 1, "device": "cpu", "html": False}
DIRECTION = {"source": "atac", "target": "rna"}
KEYS = ["imputation_label_shares[atac->rna]", "imputation_top_features[atac->rna]"]


def read(path):
    with warnings.catch_warnings(), mudata.set_options(pull_on_update=False):
        warnings.simplefilter("ignore", UserWarning)
        return mudata.read_h5mu(path)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, n_cells=200)
    return folder / "multiome.h5mu"


@pytest.fixture(scope="module")
def trained(demo, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "out.h5mu"
    result = impute(
        demo, output=output, evaluate=True, label_key="cell_type", model="multigrate", params=PARAMS,
        max_steps=150, hold_out=0.4, **DIRECTION, **GIVEN,
    )  # fmt: skip
    return result, output


def test_figures_are_those_of_the_values_in_the_file(trained, demo):
    result, output = trained
    cells, new = read(demo), read(output)["rna_imputed"]
    label = cells["atac"].obs["cell_type"].astype(str)
    known = label[new.obs_names].to_numpy()
    levels = np.unique(label)
    metrics = result.report["metrics"]
    assert [metrics[key]["n"] for key in KEYS] == [80, 80]
    # top features
    measured, imputed = (pd.DataFrame(v) for v in (new.layers["observed"], new.X))
    x, y = [], []
    for level in np.unique(known):
        own = known == level
        top = (
            (measured[own].mean() - measured[~own].mean())
            .sort_values(ascending=False, kind="stable")
            .index[:5]
        )
        x += list(measured.loc[own, top].mean())
        y += list(imputed.loc[own, top].mean())
    assert metrics[KEYS[1]]["value"] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-3)
    # shares, by the cells that were trained on
    rest = [n for n in cells["rna"].obs_names if n not in set(new.obs_names)]
    counts = cells["rna"][rest].X.toarray()
    real = np.log1p(counts / counts.sum(1, keepdims=True) * np.median(counts.sum(1)))
    axes = np.linalg.svd(real - real.mean(0), full_matrices=False)[2][:50].T
    codes, given = np.searchsorted(levels, label[rest]), []
    for cell in new.X.astype(np.float64):
        near = np.argsort(np.square((real - cell) @ axes).sum(1))[:15]
        given.append(levels[np.bincount(codes[near]).argmax()])
    shares = [[np.mean(np.array(of) == level) for level in levels] for of in (known, given)]
    assert metrics[KEYS[0]]["value"] == pytest.approx(np.corrcoef(*shares)[0, 1], abs=0.03)


def test_simple_ways_are_judged_alike(trained):
    result, _ = trained
    for name, of in result.report["baselines"].items():
        assert set(KEYS) <= set(of["metrics"]), name


def test_a_benchmark_has_them_in_its_table(trained):
    result, _ = trained
    for method, kind, metrics in (
        ("multigrate", "model", result.report["metrics"]),
        ("mean", "control", result.report["baselines"]["mean"]["metrics"]),
    ):
        records = [Record.of((Task.IMPUTE, method, kind, 0, ""), key, metrics[key]) for key in KEYS]
        assert {r.aspect for r in records} == {"imputation"}
        lines = [dict(zip(COLUMNS, r.cells(), strict=True)) for r in records]
        assert [(v["metric"], v["of"], v["better"], v["n"]) for v in lines] == [
            (key.partition("[")[0], "atac->rna", "higher", "80") for key in KEYS
        ]


def test_a_given_model_is_judged_among_the_file_s_own_cells(trained, demo, tmp_path):
    model = trained[1].with_suffix(".model")
    found = {}
    for scale in ("log", "scaled", "counts"):
        report = impute(
            demo, output=tmp_path / f"{scale}.h5mu", from_model=model, evaluate=True, label_key="cell_type",
            scale=scale, **DIRECTION, **GIVEN,
        ).report  # fmt: skip
        found[scale] = [report["metrics"][key]["value"] for key in KEYS]
        assert report["metrics"][KEYS[0]]["n"] == 200
    # standardised values are put back before anything is compared
    np.testing.assert_allclose(found["scaled"], found["log"], rtol=1e-3)
    np.testing.assert_allclose(found["counts"], found["log"], atol=0.3)


def test_without_labels_there_is_none(trained, demo, tmp_path):
    model = trained[1].with_suffix(".model")
    options = {"from_model": model, "evaluate": True, **DIRECTION, **GIVEN}
    report = impute(demo, output=tmp_path / "out.h5mu", **options).report
    assert not set(KEYS) & set(report["metrics"])
    with pytest.raises(InputError, match="no modality has the column"):
        impute(demo, output=tmp_path / "other.h5mu", label_key="cell_typ", **options)


def test_a_label_kept_in_one_modality_holds_for_its_partner(trained, demo, tmp_path):
    cells = read(demo)
    del cells["rna"].obs["cell_type"]
    cells["rna"].write_h5ad(tmp_path / "rna.h5ad")
    cells["atac"].write_h5ad(tmp_path / "atac.h5ad")
    both, one = (
        impute(
            inputs, output=tmp_path / name, from_model=trained[1].with_suffix(".model"), evaluate=True,
            label_key="cell_type", **DIRECTION, **GIVEN,
        ).report["metrics"]
        for inputs, name in ((demo, "a.h5mu"), ([tmp_path / "rna.h5ad", tmp_path / "atac.h5ad"], "b.h5mu"))
    )  # fmt: skip
    assert [both[key]["value"] for key in KEYS] == [one[key]["value"] for key in KEYS]
