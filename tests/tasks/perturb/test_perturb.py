"""`mocli.perturb` from files to files: screens, predictions, truth, refusals."""

import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import mocli
from mocli.errors import InputError, UsageError

QUICK = {"html": False, "threads": 1, "device": "cpu"}
SMALL = {"n_hidden": 16, "n_latent": 4, "batch_size": 64}
N, P = 240, 40
MARKERS = {"UP1": 6.0, "UP2": 5.0, "DOWN1": 0.1}
SILENT = "SILENT"


def write_cells(folder):
    """Two states that differ in three genes, a protein that follows one, two types; RNA and protein."""
    import anndata as ad

    rng = np.random.default_rng(0)
    names = [*MARKERS, SILENT, *(f"G{j}" for j in range(P - len(MARKERS) - 1))]
    state, kind = np.arange(N) % 2, (np.arange(N) // 2) % 3
    mean = np.tile(rng.gamma(2.0, 1.5, P) + 0.5, (N, 1)) * (1 + 0.3 * np.sin(np.outer(kind, np.arange(P))))
    for j, (_, fold) in enumerate(MARKERS.items()):
        mean[:, j] = 5.0 * np.where(state == 1, fold, 1.0)
    mean[:, names.index(SILENT)] = 0
    depth = rng.lognormal(0, 0.2, (N, 1))
    rna = rng.poisson(mean * depth).astype(np.float32)
    protein = np.tile(np.array([30.0, 30, 30, 30, 30]), (N, 1))
    protein[:, 0] *= np.where(state == 1, 4.0, 1.0)
    prot = rng.poisson(protein * rng.lognormal(0, 0.1, (N, 1))).astype(np.float32)
    obs = pd.DataFrame(
        {
            "state": pd.Categorical(np.where(state == 1, "ill", "well")),
            "kind": pd.Categorical([f"k{k}" if k < 2 or i < 60 else "k1" for i, k in enumerate(kind)]),
            "guide": np.where(np.arange(N) % 8 == 1, "UP1", np.where(state == 1, "none", "control")),
        },
        index=[f"c{i}" for i in range(N)],
    )
    parts = {
        "rna": ad.AnnData(sparse.csr_matrix(rna), obs=obs, var=pd.DataFrame(index=names)),
        "prot": ad.AnnData(
            sparse.csr_matrix(prot), obs=obs[[]], var=pd.DataFrame(index=["pUP1", "pA", "pB", "pC", "pD"])
        ),
    }
    with mudata.set_options(pull_on_update=False):
        mudata.MuData(parts).write_h5mu(folder / "data.h5mu")
    return folder / "data.h5mu"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_cells(tmp_path_factory.mktemp("cells"))


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    params = {"n_hidden": 64, "n_latent": 8, "batch_size": 64, "dropout": 0.0, "validation_share": 0}
    # markers are planted in single features, which the likelihoods follow, not in joint components
    params["weight_anchor"] = 0
    mocli.integrate(
        [data], output=folder / "o.h5mu", model="multigrate", params=params, max_steps=500, **QUICK
    )
    return folder / "o.model"


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """scMODAL has no decoder of features here: values are a readout's."""
    folder = tmp_path_factory.mktemp("alone")
    links = folder / "links.tsv"
    links.write_text("rna\tprot\nUP1\tpUP1\nG1\tpA\nG2\tpB\nG3\tpC\n")
    mocli.integrate(
        [data], links=[links], output=folder / "o.h5mu", model="scmodal",
        params={**SMALL, "n_neighbors": 5, "n_pcs": 10}, max_steps=100, **QUICK,
    )  # fmt: skip
    return folder / "o.model"


@pytest.fixture(scope="module")
def settled(data, tmp_path_factory):
    """multiDGD has no encoder: changed cells settle anew."""
    folder = tmp_path_factory.mktemp("settled")
    params = {"n_latent": 6, "n_components": 6, "n_hidden": 32, "batch_size": 64, "validation_share": 0}
    mocli.integrate([data], output=folder / "o.h5mu", model="multidgd", params=params, max_steps=400, **QUICK)
    return folder / "o.model"


@pytest.fixture
def perturb(data, tmp_path):
    def run(model, **options):
        defaults = {"source": "state=well", "target": "state=ill", "output": tmp_path / "o.tsv"}
        given = {k: v for k, v in {**defaults, **options}.items() if v is not None}
        return mocli.perturb([data], from_model=model, **given, **QUICK)

    return run


def read(path):
    return pd.read_csv(path, sep="\t", keep_default_na=True)


def test_planted_markers_lead_in_the_right_direction(perturb, model, tmp_path, check_report):
    perturb(model, effect="log-shift=1")
    report = check_report(tmp_path / "o.report.json")
    table = read(tmp_path / "o.tsv")
    assert list(table.columns) == [
        "feature", "direction", "group", "n_cells", "n_changed", "distance_before", "distance_after",
        "shift", "cosine_before", "cosine_shift", "null_mean", "z", "p", "fdr", "rank", "shift_rank",
    ]  # fmt: skip
    assert len(table) == 2 * P
    best = table[table["rank"] <= 3]
    assert set(zip(best["feature"], best["direction"], strict=True)) == {
        ("UP1", "up"), ("UP2", "up"), ("DOWN1", "down"),
    }  # fmt: skip
    worst = table.tail(3)
    assert set(worst["feature"]) == set(MARKERS)
    np.testing.assert_allclose(
        table["distance_before"] - table["distance_after"], table["shift"], rtol=0, atol=2e-5
    )
    assert report["tables"]["screen"]["rows"][0][0] in MARKERS
    assert report["model"]["name"] == "multigrate"


def test_the_default_screen_finds_what_the_states_differ_in(perturb, model, tmp_path):
    result = perturb(model)
    table = read(tmp_path / "o.tsv")
    assert len(table) == P
    best = table[table["rank"] <= 3]
    assert set(zip(best["feature"], best["direction"], strict=True)) == {
        ("UP1", "up"), ("UP2", "up"), ("DOWN1", "down"),
    }  # fmt: skip
    assert (np.sign(best["difference"]) == np.where(best["direction"] == "up", 1, -1)).all()
    assert "among the" in result.report["conclusion"]
    assert result.report["conclusion"] not in result.report["tables"]["screen"]["sentence"], "said once"
    perturb(model, direction="down", output=tmp_path / "down.tsv")
    assert set(read(tmp_path / "down.tsv")["direction"]) == {"down"}


def test_what_is_not_expressed_scores_exactly_0(perturb, model, tmp_path):
    perturb(model, screen="all", effect="scale")
    silent = read(tmp_path / "o.tsv").set_index("feature").loc[SILENT]
    assert (silent["shift"] == 0).all()
    assert (silent["cosine_shift"] == 0).all()
    assert (silent["n_changed"] == 0).all()
    assert silent[["z", "p", "fdr"]].isna().all(axis=None)


def test_cells_without_an_encoder_settle_anew(perturb, settled, tmp_path):
    result = perturb(settled, effect="log-shift=1", target_modality="prot")
    table = read(tmp_path / "o.tsv")
    best = table[table["rank"] <= 3]
    assert set(zip(best["feature"], best["direction"], strict=True)) == {
        ("UP1", "up"), ("UP2", "up"), ("DOWN1", "down"),
    }  # fmt: skip
    assert result.report["model"]["name"] == "multidgd"
    perturb(settled, effect="knockout", features=[SILENT, "UP1"], output=tmp_path / "k.tsv")
    silent = read(tmp_path / "k.tsv").set_index("feature").loc[SILENT]
    assert silent["shift"] == 0
    assert silent["n_changed"] == 0


@pytest.mark.parametrize("kind", ["model", "settled"])
def test_a_screen_looks_across(perturb, request, tmp_path, check_report, kind):
    """The protein follows the state: what drives it is what brings its profile nearer."""
    perturb(
        request.getfixturevalue(kind), screen="all", effect="log-shift=1", target_modality="prot",
        group_key="kind", min_cells=25,
    )  # fmt: skip
    check_report(tmp_path / "o.report.json")
    assert not (tmp_path / "o.effects.tsv").exists()
    table = read(tmp_path / "o.tsv")
    for _, mine in table.groupby("group"):
        first = mine[mine["across_rank"] <= 3]
        assert ("UP1", "up") in set(zip(first["feature"], first["direction"], strict=True))
        assert sorted(mine["across_rank"]) == list(range(1, len(mine) + 1))
    silent = table[table["n_changed"] == 0]
    assert (silent["across_shift"] == 0).all()
    assert silent["across_p"].isna().all()
    # as if all mean profiles were kept at once
    perturb(
        request.getfixturevalue(kind), features="UP1,G3", effect="log-shift=1", target_modality="prot",
        output=tmp_path / "two.tsv",
    )  # fmt: skip
    key = ["feature", "direction"]
    every, two = (t[t["group"] == "all"].set_index(key) for t in (table, read(tmp_path / "two.tsv")))
    np.testing.assert_allclose(
        two["across_shift"], every.loc[two.index, "across_shift"], rtol=1e-4, atol=1e-8
    )


def test_groups_and_how_much_they_respond(perturb, model, tmp_path, check_report):
    perturb(model, group_key="kind", min_cells=25)
    report = check_report(tmp_path / "o.report.json")
    table = read(tmp_path / "o.tsv")
    assert set(table["group"]) == {"all", "k0", "k1"}
    assert [row[0] for row in report["tables"]["groups_left_out"]["rows"]] == ["k2"]
    assert any("k2" in w for w in report["warnings"])
    rows = report["tables"]["responses"]["rows"]
    assert rows[0][0] == "all"
    for group, *_, top, share, _ in rows:
        mine = table[table["group"] == group].nsmallest(10, "rank")
        assert top == pytest.approx(mine["shift"].mean(), rel=1e-4)
        assert share == pytest.approx(top / mine["distance_before"].iloc[0], rel=1e-4)


@pytest.mark.parametrize("kind", ["model", "alone"])
def test_the_other_modality_follows(perturb, request, tmp_path, check_report, kind):
    perturb(
        request.getfixturevalue(kind), source="state=ill", target=None, features="UP1,G7,SILENT",
        target_modality="prot", effect="knockout",
    )  # fmt: skip
    check_report(tmp_path / "o.report.json")
    table = read(tmp_path / "o.tsv")
    assert set(table["direction"]) == {"down"}
    mine = table[table["feature"] == "UP1"].sort_values("rank")
    if kind == "model":
        assert mine["target"].iloc[0] == "pUP1"
        assert mine["log2_fold_change"].iloc[0] < -0.02
    # nothing changes, so nothing is predicted to
    silent = table[table["feature"] == SILENT]
    assert (silent["change"] == 0).all()
    assert (silent["before"] == silent["after"]).all()
    np.testing.assert_allclose(mine["after"] - mine["before"], mine["change"], atol=1e-4)


def test_a_signature_changes_all_at_once(perturb, model, tmp_path):
    perturb(model, features=["UP1", "UP2"], together=True, direction="up", target_modality="prot")
    both = read(tmp_path / "o.tsv")
    assert list(both["feature"]) == ["UP1+UP2"]
    assert (tmp_path / "o.effects.tsv").exists()
    perturb(model, features=["UP1", "UP2"], direction="up", output=tmp_path / "each.tsv")
    each = read(tmp_path / "each.tsv")
    assert both["shift"].iloc[0] > each["shift"].max()


def test_predicted_cells_are_written(perturb, model, tmp_path, data):
    perturb(model, target=None, features="UP1", target_modality="prot", write_predicted=True)
    with mudata.set_options(pull_on_update=False):
        found = mudata.read_h5mu(tmp_path / "o.predicted.h5mu")["prot_predicted"]
    table = read(tmp_path / "o.tsv").set_index(["direction", "target"])
    assert found.n_obs == 3 * N // 2
    plain = found[(found.obs["perturbed"] == "none").to_numpy()].X.mean(0)
    for direction in ("up", "down"):
        mine = found[(found.obs["direction"] == direction).to_numpy()].X.mean(0)
        for j, name in enumerate(found.var_names):
            row = table.loc[(direction, name)]
            assert plain[j] == pytest.approx(row["before"], rel=1e-3)
            assert mine[j] == pytest.approx(row["after"], rel=1e-3)


def test_truth_beside_predictions(perturb, model, tmp_path, check_report):
    perturb(model, source="guide=control", target=None, truth="guide", effect="scale=1", direction="up")
    report = check_report(tmp_path / "o.report.json")
    table = report["tables"]["truth"]
    row = dict(zip(table["columns"], table["rows"][0], strict=True))
    assert row["feature"] == "UP1"
    assert row["n_cells"] == 30
    assert row["pearson"] is not None
    # the model and the mean are compared over the same perturbations
    log = (tmp_path / "o.log").read_text()
    assert "the model predicts 1 of 2 perturbations: it takes no feature that the others name (none)" in log
    same = f"the mean change of the others gives {row['baseline_pearson']:.3f} over the same"
    assert same in log
    assert same in report["metrics"]["perturbation_pearson_median"]["definition"]
    assert "ways" in report["tables"]
    assert "FDR" not in report["advice"]
    assert "measured" in report["advice"]
    best, baseline = (
        report["metrics"][f"perturbation_{name}_pearson_median"]["value"] for name in ("best", "baseline")
    )
    assert best >= baseline


def test_it_trains_first_and_keeps_what_is_named(data, tmp_path):
    options = {"model": "multigrate", "params": SMALL, "max_steps": 3, "hvg": {"rna": 5}, **QUICK}
    mocli.perturb(
        [f"{data}::rna"], output=tmp_path / "o.tsv", source="state=well", target="state=ill",
        features="G5,G9", **options,
    )  # fmt: skip
    assert set(read(tmp_path / "o.tsv")["feature"]) == {"G5", "G9"}
    assert (tmp_path / "o.model" / "weights.safetensors").exists()


def test_the_same_seed_gives_the_same_bytes(perturb, model, tmp_path):
    for name in ("a.tsv", "b.tsv"):
        perturb(model, output=tmp_path / name, features="UP1,G3", target_modality="prot")
    assert (tmp_path / "a.tsv").read_bytes() == (tmp_path / "b.tsv").read_bytes()
    assert (tmp_path / "a.effects.tsv").read_bytes() == (tmp_path / "b.effects.tsv").read_bytes()


def test_pictures_are_drawn(data, model, tmp_path):
    mocli.perturb(
        [data], from_model=model, output=tmp_path / "o.tsv", source="guide=control", target="guide=none",
        truth="guide", group_key="kind", min_cells=10, effect="scale", threads=1, device="cpu",
    )  # fmt: skip
    page = (tmp_path / "o.report.html").read_text()
    for title in ("The screen", "group by group", "Predicted changes of rna", "Predicted against measured"):
        assert title in page


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"target": "state=il"}, InputError, "did you mean 'ill'"),
        ({"target": "stat=ill"}, InputError, "did you mean 'state'"),
        ({"target": "ill"}, UsageError, "COLUMN=VALUE"),
        ({"source": "state=ill"}, UsageError, "both groups"),
        ({"features": "UP3"}, InputError, "'UP1'"),
        ({"target_modality": "atac", "features": "UP1"}, UsageError, "rna, prot"),
        ({"target_modality": "prot", "target": None}, UsageError, "--features"),
        ({"source_modality": "atac"}, UsageError, "atac"),
        ({"effect": "scale=2"}, UsageError, "lowered"),
        ({"effect": "knockout", "direction": "up"}, UsageError, "only lowers"),
        ({"target": None}, UsageError, "--to"),
        ({"group_key": "knd"}, InputError, "did you mean 'kind'"),
        ({"screen": "all", "features": "UP1"}, UsageError, "--screen"),
        ({"together": True}, UsageError, "--features"),
        ({"write_predicted": True}, UsageError, "--target-modality"),
        ({"write_predicted": True, "target_modality": "prot"}, UsageError, "--features"),
        ({"truth": "guide", "source": None}, UsageError, "--from"),
        ({"truth": "kind"}, InputError, "--truth"),
    ],
)
def test_what_cannot_be_meant_is_refused(perturb, model, options, error, words):
    if options.get("truth") == "kind":
        options = {**options, "target": None}
    with pytest.raises(error) as found:
        perturb(model, **options)
    assert words in str(found.value)


def test_a_dry_run_writes_nothing(data, tmp_path):
    found = mocli.perturb(
        [data], output=tmp_path / "o.tsv", source="state=well", target="state=ill", dry_run=True, **QUICK
    )
    assert any("perturbs rna of 120 cells" in line for line in found.plan)
    assert list(tmp_path.iterdir()) == []
