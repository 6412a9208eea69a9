"""`--transfer-labels`: who gets a label, from whom, how sure, and how it is checked."""

from dataclasses import replace
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist

import mocli
from mocli.data.bundle import FeatureMatrix, Modality, MultiOmics
from mocli.data.files.inputs import open_inputs
from mocli.errors import InputError, UsageError
from mocli.tasks.integrate.carried import Assigned, Carried, advise, describe_carried
from mocli.tasks.integrate.check import check_carried, entries_of, transfer
from mocli.tasks.integrate.labels import Labels, carry, read_labels
from mocli.tasks.integrate.options import TransferOptions
from mocli.tasks.trained.latent import Latent
from mocli.types import ModalityKind, Pairing

ANYTHING = TransferOptions(min_confidence=0.5, unknown_below=0.0)
METRICS = ("accuracy", "unknown", "accuracy_known", "calibration_error")


def bundle_of(latent, *, rows=None, empty=()):
    """A bundle with nothing but cells: who is who, and whose library is zero."""
    from scipy import sparse

    sizes = {name: len(z) for name, z in latent.items()}
    pairing = Pairing.UNPAIRED if rows is None else Pairing.MOSAIC
    if rows is None:
        rows = np.full((sum(sizes.values()), len(sizes)), -1)
        start = 0
        for column, n in enumerate(sizes.values()):
            rows[start : start + n, column] = np.arange(n)
            start += n
    modalities = {}
    for name, n in sizes.items():
        library = np.ones(n, np.float32)
        library[[i for m, i in empty if m == name]] = 0
        features = FeatureMatrix(values=sparse.csr_matrix((n, 1), dtype=np.float32), names=("f",))
        modalities[name] = Modality(
            name=name,
            kind=ModalityKind.OTHER,
            features=features,
            obs_names=tuple(f"{name}{i}" for i in range(n)),
            library=library,
        )
    names = tuple(f"c{i}" for i in range(len(rows)))
    return MultiOmics(
        modalities=modalities, rows=rows, obs_names=names, pairing=pairing, links=(), batch=None, label=None
    )


@pytest.fixture
def three():
    """Three modalities of 60, 50 and 40 cells in two clouds that overlap a little, and what is true."""
    rng = np.random.default_rng(0)
    truth = {name: rng.integers(0, 2, n) for name, n in (("a", 60), ("b", 50), ("c", 40))}
    latent = {
        name: (rng.normal(size=(len(t), 3)) + 2.5 * t[:, None]).astype(np.float32)
        for name, t in truth.items()
    }
    return latent, truth


def brute_vote(query, reference, codes, k=15):
    """Winner and its share of the weight, cell by cell."""
    d = cdist(query.astype(float), reference.astype(float))
    winners, shares = [], []
    for row in d:
        near = np.argsort(row, kind="stable")[:k]
        weight = np.exp(-0.5 * (row[near] / row[near][-1]) ** 2)
        share = np.bincount(codes[near], weights=weight, minlength=2) / weight.sum()
        winners.append(share.argmax())
        shares.append(share.max())
    return np.array(winners), np.array(shares)


def all_of(latent, names):
    return np.concatenate([latent[name] for name in names])


def test_cells_without_a_label_are_voted_on_by_the_labelled_cells_of_the_others(three):
    latent, truth = three
    codes = {"a": truth["a"], "b": np.full(50, -1), "c": truth["c"].copy()}
    codes["c"][:10] = -1
    done = carry(Labels("type", codes, ("x", "y")), latent, bundle_of(latent), ANYTHING, device="cpu")
    voters = np.concatenate([truth["a"], codes["c"]])
    known = voters >= 0
    winner, share = brute_vote(latent["b"], all_of(latent, "ac")[known], voters[known])
    np.testing.assert_array_equal(done.codes("b"), winner)
    np.testing.assert_allclose(done.assigned["b"].confidence, share, atol=1e-5)
    # c's own labels do not vote on c
    winner, share = brute_vote(latent["c"][:10], latent["a"], truth["a"])
    np.testing.assert_array_equal(done.codes("c")[:10], winner)
    np.testing.assert_array_equal(done.codes("c")[10:], truth["c"][10:])
    np.testing.assert_array_equal(done.assigned["c"].confidence[10:], 1)
    np.testing.assert_array_equal(done.codes("a"), truth["a"])
    assert [int(o.sum()) for o in done.had_label.values()] == [60, 0, 30]


def test_unknown_where_neighbours_disagree_cells_are_far_or_hold_no_signal(three):
    latent, truth = three
    latent = {**latent, "b": latent["b"].copy()}
    latent["b"][0] += 1000
    codes = {"a": truth["a"], "b": np.full(50, -1), "c": np.full(40, -1)}
    done = carry(
        Labels("type", codes, ("x", "y")),
        latent,
        bundle_of(latent, empty=[("b", 1)]),
        TransferOptions(min_confidence=0.9),
        device="cpu",
    )
    assert list(done.codes("b")[:2]) == [-1, -1]
    said = done.assigned["b"]
    assert said.mapping[0] == pytest.approx(1 / 61)  # none of the 60 cells lies as far
    assert said.best[0] >= 0
    assert (said.best[1], said.confidence[1], said.mapping[1]) == (-1, 0, 0)  # no signal, no place
    _, share = brute_vote(latent["b"][2:], latent["a"], truth["a"])
    far = said.mapping[2:] < done.unknown_below["b"]
    np.testing.assert_array_equal(done.codes("b")[2:] < 0, (share < 0.9) | far)
    assert 0 < (share < 0.9).sum() < 48
    words = done.of_modality("b")["type_transferred"]
    assert set(words) == {"x", "y", "unknown"}


def test_a_label_holds_for_the_same_cell_in_another_modality_unless_unpaired():
    z = np.arange(6, dtype=np.float32)[:, None]
    codes = {"a": np.array([0, 1, 0, 1, 0, 1]), "b": np.full(6, -1)}
    rows = np.stack([np.arange(6), np.arange(6)[::-1]], axis=1)
    labels = Labels("type", codes, ("x", "y"))
    paired = bundle_of({"a": z, "b": z}, rows=rows)
    done = carry(labels, {"a": z, "b": z}, paired, ANYTHING, device="cpu")
    np.testing.assert_array_equal(done.codes("b"), codes["a"][::-1])
    assert done.had_label["b"].all()
    apart = carry(labels, {"a": z, "b": z}, bundle_of({"a": z, "b": z}), ANYTHING, device="cpu")
    assert not apart.had_label["b"].any()


def test_of_one_cell_in_two_modalities_the_own_label_wins_then_the_surer_vote(three):
    latent, truth = three
    codes = {"a": truth["a"].copy(), "b": np.full(50, -1), "c": np.full(40, -1)}
    codes["a"][:5] = -1
    done = carry(Labels("type", codes, ("x", "y")), latent, bundle_of(latent), ANYTHING, device="cpu")
    cells = {"a": np.arange(60), "b": np.arange(50), "c": np.arange(20, 60)}
    whole = done.of_whole(cells, 62)
    names = np.array(["x", "y", "unknown"], dtype=object)
    assert list(whole["type_transferred"][5:60]) == list(names[truth["a"][5:]])
    assert whole["type_confidence"].dtype == np.float32
    assert (whole["type_confidence"][5:60] == 1).all()
    # the first cells of a have no voter that is not a's own: what b knows is no label
    np.testing.assert_array_equal(whole["type_confidence"][:5], done.assigned["b"].confidence[:5])
    assert list(whole["type_transferred"][60:]) == ["unknown", "unknown"]
    assert list(whole["type_confidence"][60:]) == [0, 0]


# the comparison


def check(labels, latent, bundle, pairs=None):
    asked = TransferOptions(min_confidence=0.7, unknown_below=0.0)
    found = check_carried(labels, latent, bundle, pairs or {}, asked, device="cpu", seed=0)
    return {vote.modality: entries_of(vote, labels.name) for vote in found}


def test_the_comparison_is_what_the_others_would_have_said(three):
    latent, truth = three
    entries = check(Labels("type", truth, ("x", "y")), latent, bundle_of(latent))
    assert list(entries) == ["a", "b", "c"]
    for name in truth:
        others = [n for n in truth if n != name]
        voters = np.concatenate([truth[n] for n in others])
        winner, share = brute_vote(latent[name], all_of(latent, others), voters)
        right, known = winner == truth[name], share >= 0.7
        value = {m: entries[name][f"carried_label_{m}[type->{name}]"]["value"] for m in METRICS}
        assert value["accuracy"] == pytest.approx(right.mean())
        assert value["unknown"] == pytest.approx(1 - known.mean())
        assert value["accuracy_known"] == pytest.approx(right[known].mean())
        bins = np.ceil(share * 10).astype(int) - 1
        expected = sum(
            abs(share[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in set(bins)
        )
        assert value["calibration_error"] == pytest.approx(expected, abs=1e-5)
        entry = entries[name][f"carried_label_accuracy[type->{name}]"]
        assert entry["n"] == len(truth[name])
        assert {"title", "definition", "sentence", "better", "range"} <= set(entry)


def test_a_true_partner_never_votes():
    """Every cell has a label of its own, which only its partner, at the same place, can give."""
    n = 40
    z = np.arange(n, dtype=np.float32)[:, None]
    truth = np.arange(n)
    order = np.random.default_rng(1).permutation(n)
    latent = {"a": z, "b": z[order]}
    levels = tuple(map(str, range(n)))
    labels = Labels("type", {"a": truth, "b": truth[order]}, levels)
    pairs = {("a", "b"): np.stack([order, np.arange(n)], axis=1)}

    def accuracy(entries, name):
        return entries[name][f"carried_label_accuracy[type->{name}]"]["value"]

    free = check(labels, latent, bundle_of(latent))
    held = check(labels, latent, bundle_of(latent), pairs)
    for name in "ab":
        assert accuracy(free, name) == 1
        assert accuracy(held, name) == 0
    # labels that only one side has are compared with those of true partners
    one = Labels("type", {"a": truth, "b": np.full(n, -1)}, levels)
    assert list(check(one, latent, bundle_of(latent), pairs)) == ["b"]
    assert check(one, latent, bundle_of(latent)) == {}


def test_cells_with_one_place_for_both_modalities_are_labelled_counted_and_doubted_once():
    rng = np.random.default_rng(0)
    n = 80
    truth = np.arange(n) % 2
    z = (rng.normal(size=(n, 3)) + 9 * truth[:, None]).astype(np.float32)
    own = truth.copy()
    own[truth == 1] = np.where(np.arange(n // 2) < 12, 0, 1)  # 12 of "x" lie among "y"
    own[[3, 4]] = -1
    labels = Labels("type", {"a": own, "b": own}, ("x", "y"))
    rows = np.stack([np.arange(n), np.arange(n)], axis=1)
    bundle = replace(bundle_of({"a": z, "b": z}, rows=rows), pairing=Pairing.PAIRED)
    said, warned = [], []
    report = SimpleNamespace(tables={}, metrics={}, conclude=lambda _: None, advice=None)
    run = SimpleNamespace(
        say=said.append, warn=warned.append, report=report, device="cpu", options=SimpleNamespace(seed=0)
    )
    pairs = {("a", "b"): rows}
    (carried,) = transfer(run, ANYTHING, [labels], pairs, bundle, Latent.of_cells(z, bundle))
    assert said[0] == "transferred type by k-NN to 2 a+b cells, 0 of them unknown"
    assert len([line for line in said if "is known (78 cells)" in line]) == 1
    assert {key.partition("[")[2] for key in report.metrics} == {"type->a+b]"}
    assert [row[0] for row in report.tables["disputes_type"]["rows"]] == ["a+b"]
    assert "neighbours disagree with the type of" in warned[-1]
    np.testing.assert_array_equal(carried.disputed["a"], carried.disputed["b"])
    # a label that is another in the second modality is doubted there
    labels = Labels("type", {"a": truth, "b": own}, ("x", "y"))
    transfer(run, ANYTHING, [labels], pairs, bundle, Latent.of_cells(z, bundle))
    assert [row[0] for row in report.tables["disputes_type"]["rows"]] == ["b"]


# options and columns


@pytest.fixture
def files(tmp_path):
    """Files rna (cell_type, n_genes, group as numbers) and prot (none)."""
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(["T", "B", None, "unknown"]),
            "n_genes": [1.0, 2.0, 3.0, 4.0],
            "blank": pd.Categorical([None] * 4, categories=["x"]),
        },
        index=list("abcd"),
    )
    x = np.ones((4, 2), np.float32)
    ad.AnnData(x, obs=obs).write_h5ad(tmp_path / "rna.h5ad")
    ad.AnnData(x, obs=pd.DataFrame(index=list("efgh"))).write_h5ad(tmp_path / "prot.h5ad")
    return open_inputs([str(tmp_path / "rna.h5ad"), str(tmp_path / "prot.h5ad")], kinds={})


def test_a_column_becomes_codes_and_unknown_is_no_label(files):
    (labels,) = read_labels(files, TransferOptions(("cell_type",)))
    assert labels.levels == ("B", "T")
    assert list(labels.codes["rna"]) == [1, 0, -1, -1]
    assert list(labels.codes["prot"]) == [-1] * 4
    assert "2 of 4 rna cells" in labels.summary
    (same,) = read_labels(files, TransferOptions(("rna:cell_type",)))
    assert same.name == "cell_type"


@pytest.mark.parametrize(
    ("column", "error", "words", "hint"),
    [
        ("cell_typ", InputError, "no modality has the column 'cell_typ'", "'cell_type'"),
        ("n_genes", InputError, "holds numbers", "cell_type"),
        ("blank", InputError, "no cell has a value", None),
        ("cell_type,rna:cell_type", UsageError, "under one name", None),
    ],
)
def test_a_column_that_cannot_be_carried_is_refused(files, column, error, words, hint):
    with pytest.raises(error, match=words) as caught:
        read_labels(files, TransferOptions(tuple(column.split(","))))
    assert hint is None or hint in str(caught.value.hint)


# from files to files


def test_labels_arrive_in_the_output_and_the_report(run, unpaired, tmp_path, read, check_report):
    prot = ad.read_h5ad(unpaired / "prot.h5ad")
    del prot.obs["cell_type"]
    prot.write_h5ad(tmp_path / "prot.h5ad")
    run(
        [unpaired / "rna.h5ad", tmp_path / "prot.h5ad"],
        links=[unpaired / "links.tsv"],
        transfer_labels="cell_type",
        unknown_below=0.4,
    )
    out = read(tmp_path / "out.h5mu")
    own = ad.read_h5ad(unpaired / "rna.h5ad").obs["cell_type"]
    assert list(out["rna"].obs["cell_type_transferred"]) == list(own)
    assert (out["rna"].obs["cell_type_confidence"] == 1).all()
    carried = out["prot"].obs
    assert "cell_type" not in carried
    assert set(carried["cell_type_transferred"]) <= {*own, "unknown"}
    assert carried["cell_type_confidence"].dtype == np.float32
    assert carried["cell_type_confidence"].between(0, 1).all()
    table = check_report(tmp_path / "out.report.json")
    sure = (carried["cell_type_confidence"] >= 0.5) & (carried["cell_type_mapping"] >= 0.4)
    assert "mapping score below 0.4" in table["conclusion"]
    np.testing.assert_array_equal(carried["cell_type_transferred"] != "unknown", sure)
    assert set(carried["cell_type_transferred_best"]) <= set(own)
    unknown = int((carried["cell_type_transferred"] == "unknown").sum())
    assert table["conclusion"].startswith(f"{unknown} of 60 cells")
    rows = table["tables"]["labels_cell_type_k-NN"]["rows"]
    assert {row[0]: row[1] for row in rows} == carried["cell_type_transferred"].value_counts().to_dict()
    for column in ("cell_type_transferred", "cell_type_confidence", "cell_type_mapping"):
        parts = [out[name].obs[column] for name in ("rna", "prot")]
        assert list(out.obs[column]) == list(pd.concat(parts))
    assert "transferred cell_type by k-NN to 60 prot cells" in (tmp_path / "out.log").read_text()
    # no other modality can say what rna's labels should be
    report = check_report(tmp_path / "out.report.json")
    assert not [m for m in report["metrics"] if m.startswith("carried_label")]


def test_known_labels_are_compared_in_the_report_and_the_log(run, unpaired, tmp_path, check_report):
    run(
        [unpaired / "rna.h5ad", unpaired / "prot.h5ad"],
        links=[unpaired / "links.tsv"],
        transfer_labels=["cell_type"],
    )
    metrics = check_report(tmp_path / "out.report.json")["metrics"]
    found = {m for m in metrics if m.startswith("carried_label")}
    assert found == {f"carried_label_{m}[cell_type->{n}]" for m in METRICS for n in ("rna", "prot")}
    assert metrics["carried_label_accuracy[cell_type->prot]"]["n"] == 60
    log = (tmp_path / "out.log").read_text()
    assert "all have a label" in log
    assert "where cell_type of prot is known (60 cells)" in log


def test_one_modality_has_nobody_to_take_labels_from(unpaired, tmp_path):
    with pytest.raises(UsageError, match="between modalities, but there is only one"):
        mocli.integrate(
            unpaired / "rna.h5ad", output=tmp_path / "o.h5mu", transfer_labels="cell_type", dry_run=True
        )


def test_a_column_nobody_has_stops_a_dry_run_too(run, unpaired):
    with pytest.raises(InputError, match="--transfer-labels"):
        run(
            [unpaired / "rna.h5ad", unpaired / "prot.h5ad"],
            links=[unpaired / "links.tsv"],
            transfer_labels="celltypes",
            dry_run=True,
        )


def test_known_labels_of_every_transferred_column_are_held_against_it(tmp_path):
    from mocli.tasks.integrate.carried import conclusion, confusions

    cells = pd.DataFrame({"kind": ["T", "T", "B", "B"], "state": ["x", "y", "x", "x"]}, index=list("abcd"))
    ad.AnnData(np.ones((4, 1), np.float32), obs=cells).write_h5ad(tmp_path / "rna.h5ad")
    files = open_inputs([str(tmp_path / "rna.h5ad")])

    def column(name, levels, best):
        said = Assigned(np.array(best), np.ones(4, np.float32), np.ones(4, np.float32))
        return Carried(name, levels, {"rna": said}, {"rna": np.zeros(4, bool)}, 0.5, {"rna": 0.0})

    found = confusions(
        [column("kind", ("B", "T"), [1, 1, 0, 1]), column("state", ("x", "y"), [0, 0, 0, 0])], files
    )
    assert list(found) == ["kind of rna", "state of rna"]
    # cells measured in two modalities that lie in one place are counted once
    one = column("kind", ("B", "T"), [1, 1, 0, 1])
    both = replace(
        one,
        assigned={**one.assigned, "prot": one.assigned["rna"]},
        had_label={"rna": one.had_label["rna"], "prot": one.had_label["rna"]},
        unknown_below={"rna": 0.0, "prot": 0.0},
        again={"prot": np.array([True, True, True, False])},
    )
    assert conclusion(both).startswith("none of 5 cells")
    np.testing.assert_array_equal(found["kind of rna"][0], [[1, 1, 0], [0, 2, 0]])
    np.testing.assert_array_equal(found["state of rna"][0], [[3, 0, 0], [1, 0, 0]])


def test_cells_measured_in_both_modalities_are_called_by_both():
    none, some, all_of_them = np.zeros(3, bool), np.array([True, False, True]), np.ones(3, bool)
    of = {name: Assigned.nothing(3) for name in ("rna", "prot")}
    had = dict.fromkeys(of, none)

    def names(again):
        carried = Carried("t", ("a",), of, had, 0.5, dict.fromkeys(of, 0.0), again=again)
        return [carried.measured(name) for name in of if not carried.counted_before(name)]

    assert names({"rna": none, "prot": all_of_them}) == ["rna+prot"]
    assert names({"rna": none, "prot": some}) == ["rna", "prot"]
    assert names({}) == ["rna", "prot"]


def carried_with(confidence, noticed):
    n = len(confidence)
    votes = Assigned(np.zeros(n, np.int64), np.array(confidence, np.float32), np.full(n, 0.9, np.float32))
    scores = np.where(np.arange(10) < 10 * noticed, 0.01, 0.5)
    left_out = {"a": {0: scores, 1: scores}, "b": {}}  # b has the labels, and nobody to take any from
    had_label = {"a": np.zeros(n, bool), "b": np.ones(n, bool)}
    return Carried("type", ("x", "y"), {"a": votes}, had_label, 0.5, {"a": 0.1, "b": 0.0}, left_out)


def test_a_run_warns_where_a_missing_type_would_not_be_noticed_and_says_what_to_do_about_disagreement():
    def told(carried):
        said, warned = [], []
        report = SimpleNamespace(tables={}, conclude=lambda _: None, advice=None)
        describe_carried(SimpleNamespace(say=said.append, warn=warned.append, report=report), carried)
        return "\n".join(said), warned, report.advice

    said, warned, advice = told(carried_with([0.9, 0.9, 0.3, 0.4], noticed=0.1))
    assert "would be noticed" not in said
    assert "with each of 2 labels left out in turn, 10% of its cells on average would be noticed" in warned[0]
    assert "as unknown (each; a mapping score below 0.1)" in warned[0]
    assert advice.startswith("Neighbours disagree on type of 50% of the cells: transfer a column of coarser")
    assert "--min-confidence below 0.5" in advice
    said, warned, advice = told(carried_with([0.9] * 9 + [0.3], noticed=0.8))
    assert "lacked one of 2 labels, 80% of its cells would be noticed, as unknown (each; " in said
    assert not warned
    assert advice is None
    assert advise(carried_with([0.9], noticed=1)) is None
