"""`mocli impute --compare-groups`: do imputed or decoded values differ between groups as measured ones do."""

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest

import mocli
from mocli.data.demo import write_demo
from mocli.errors import InputError, UsageError
from mocli.tasks.impute.holdout import Groups
from mocli.tasks.impute.impute import impute

GIVEN = {"threads": 1, "device": "cpu", "html": False, "source": "atac", "target": "rna", "evaluate": True}
PARAMS = {"n_hidden": 32, "n_latent": 6, "batch_size": 64}
KEY = "imputation_group_change[atac->rna; {}]"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The demo, its columns in the peaks alone; `half` says whether the state is high."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, n_cells=300)
    with mudata.set_options(pull_on_update=False):
        both = mudata.read_h5mu(folder / "multiome.h5mu")
        both["atac"].obs["half"] = np.where(both["atac"].obs["state"] > 0, "high", "low")
        rng = np.random.default_rng(0)
        both["atac"].obs["drawn"] = rng.permutation(both["atac"].obs["half"].to_numpy())
        both.write_h5mu(folder / "data.h5mu")
    return folder / "data.h5mu"


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "o.h5ad"
    options = {"model": "multigrate", "params": PARAMS, "max_steps": 200, "hold_out": 0.5}
    return impute(data, output=output, compare_groups="cell_type", **options, **GIVEN)


def test_types_differ_in_imputed_values_as_in_measured_ones(trained):
    report = trained.report
    assert report["metrics"][KEY.format("cell_type")]["value"] > 0.6
    rows = [
        dict(zip(report["tables"]["groups"]["columns"], r, strict=True))
        for r in report["tables"]["groups"]["rows"]
    ]
    ours = {row["group"]: row for row in rows if row["method"] == "model"}
    assert set(ours) >= {"lymph_a", "lymph_b", "myelo_a"}
    assert all(row["found"] > 1.5 * row["by chance"] and row["p"] < 0.01 for row in ours.values())
    # a mean is the same in all groups
    assert report["baselines"]["mean"]["metrics"][KEY.format("cell_type")]["value"] is None
    assert report["baselines"]["ridge"]["metrics"][KEY.format("cell_type")]["value"] > 0.5
    table = pd.read_csv(trained.output.with_suffix(".groups.tsv"), sep="\t")
    assert set(table["group"]) == set(ours)
    own = table[table["group"] == "lymph_a"]
    assert len(own) == 400
    assert (own["measured_fdr"] < 0.05).sum() == ours["lymph_a"]["differ"]
    r = np.corrcoef(own["measured_change"], own["imputed_change"])[0, 1]
    assert r == pytest.approx(ours["lymph_a"]["Pearson"], abs=0.01)


def test_two_groups_are_held_against_each_other_and_chance_shows(trained, data, tmp_path):
    found = {}
    for column in ("half", "drawn"):
        report = impute(
            data, output=tmp_path / f"{column}.h5ad", from_model=trained.output.with_suffix(".model"),
            compare_groups=column, **GIVEN,
        ).report  # fmt: skip
        rows = [row for row in report["tables"]["groups"]["rows"] if row[1] == "model"]
        assert [row[0] for row in rows] == ["high"]
        found[column] = rows[0]
    assert found["half"][3] > 5 > found["drawn"][3]
    assert found["half"][8] > found["drawn"][8]


def test_what_cannot_be_compared_is_refused(data, tmp_path, trained):
    model = trained.output.with_suffix(".model")
    options = {"output": tmp_path / "o.h5ad", "from_model": model, **GIVEN}
    with pytest.raises(InputError, match="no two groups of cells"):
        impute(data, compare_groups="true_cell", **options)
    with pytest.raises(InputError, match="no modality has the column"):
        impute(data, compare_groups="hal", **options)
    with pytest.raises(UsageError, match="needs both"):
        impute(data, compare_groups="half", **{**options, "evaluate": False})


def test_groups_too_small_are_found_before_training(data, tmp_path):
    options = {"output": tmp_path / "o.h5ad", "model": "multigrate", "hold_out": 0.1, **GIVEN}
    for dry_run in (True, False):
        with pytest.raises(InputError, match="no two groups of cells") as caught:
            impute(data, compare_groups="cell_type=lymph_a,myelo_a", dry_run=dry_run, **options)
        assert "hide more cells" in caught.value.hint
    assert not (tmp_path / "o.model").exists()
    with pytest.raises(InputError) as caught:
        impute(data, compare_groups="cell_type=lymph_a,mielo_a", dry_run=True, **options)
    assert "'myelo_a'" in caught.value.hint
    impute(data, compare_groups="cell_type=lymph_a,myelo_a", dry_run=True, **options | {"hold_out": 0.5})


def decoded(data, trained, output, **options):
    options = {"from_model": trained.output.with_suffix(".model"), "source": "rna", "target": "rna"} | options
    return impute(data, output=output, **{**GIVEN, "evaluate": False, **options})


def test_groups_are_compared_by_what_the_model_expects(trained, data, tmp_path):
    done = decoded(data, trained, tmp_path / "o.h5ad", compare_groups="cell_type=lymph_a,myelo_a", html=True)
    table = pd.read_csv(tmp_path / "o.groups.tsv", sep="\t")
    assert (set(table["group"]), set(table["against"])) == ({"lymph_a"}, {"myelo_a"})
    with mudata.set_options(pull_on_update=False):
        both = mudata.read_h5mu(data)
    label = both["atac"].obs["cell_type"].reindex(both["rna"].obs_names)
    values = pd.DataFrame(
        ad.read_h5ad(tmp_path / "o.h5ad").X, index=both["rna"].obs_names, columns=both["rna"].var_names
    )
    change = values[label == "lymph_a"].mean() - values[label == "myelo_a"].mean()
    found = table.set_index("feature")
    np.testing.assert_allclose(found["model_change"], change[found.index], atol=1e-4)
    assert np.abs(found["model_change"]).is_monotonic_decreasing
    # no test of decoded values, which would call nearly all features
    assert not {"model_p", "model_fdr"} & set(table)
    differs = found["measured_fdr"] < 0.05
    assert differs.sum() > 20
    same_sign = np.sign(found["model_change"]) == np.sign(found["measured_change"])
    assert same_sign[differs].mean() > 0.65
    assert f"{same_sign[differs].sum():,} of them have the same sign" in done.report["conclusion"]
    assert done.report["tables"]["group_features"]["rows"][0][2] == found.index[0]
    assert "the model's against measured" in (tmp_path / "o.report.html").read_text().replace("&#39;", "'")


def test_the_batch_is_held_while_groups_are_compared(trained, data, tmp_path):
    with pytest.raises(UsageError, match="in one batch, not each cell in its own"):
        decoded(data, trained, tmp_path / "o.h5ad", compare_groups="half", decode_batch="own")


def test_a_model_that_cannot_decode_compares_no_groups(data, tmp_path):
    from mocli.tasks.impute.options import ImputeOptions
    from mocli.tasks.impute.work import check_asked
    from mocli.tasks.trained.saved import load_model

    mocli.integrate(
        data, output=tmp_path / "i.h5mu", model="otcca", pairing="unpaired",
        links=data.parent / "rna-atac.tsv", html=False, umap=False, metrics="none", threads=1, device="cpu",
    )  # fmt: skip
    options = ImputeOptions(source="rna", target="rna", compare_groups="cell_type")
    with pytest.raises(UsageError, match="what the model expects of rna: otcca has no decoder"):
        check_asked(options, load_model(tmp_path / "i.model"), "rna")


def test_groups_are_read_as_they_are_written():
    for text in ("cell_type", "cell_type=B,CD14 Mono"):
        assert str(Groups.parse(text)) == text
    for text in ("", "cell_type=", "cell_type=B", "cell_type=B,B", "=B,C"):
        with pytest.raises(UsageError, match="a column of obs, or a column and two of its values"):
            Groups.parse(text)
    group = np.array(["a"] * 20 + ["b"] * 20 + ["c"] * 5 + [None], dtype=object)
    assert Groups("x").chosen(group) == (["a", "b"], "all others")
    assert Groups("x", ("b", "a")).chosen(group) == (["b"], "a")
    with pytest.raises(InputError, match="no two groups") as caught:
        Groups("x", ("a", "c")).chosen(group)
    assert "c: 5" in str(caught.value.found)
    with pytest.raises(InputError) as caught:
        Groups("x", ("aa", "b")).chosen(group)
    assert "'a'" in caught.value.hint
    with pytest.raises(InputError) as caught:
        Groups("x", ("a", "dd")).chosen(group, np.array([*group, "dd"], dtype=object))
    assert "hide more cells" in caught.value.hint
