"""What every metric must do, over whatever the registry finds."""

import functools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mocli.metrics
from mocli.errors import UsageError
from mocli.metrics import embedding
from mocli.metrics.embedding import Embedding
from mocli.metrics.registry import Score, available_metrics, evaluate

METRICS = available_metrics()
N, D, S = 150, 6, 4
each_metric = pytest.mark.parametrize("name", METRICS)


BATCH = np.arange(N) // 3 % 2


def build(z_a, z_b, label, *, linked_a, linked_b, rows=None):
    """Embedding of two modalities that measured the same cells."""
    rows = np.arange(len(z_a)) if rows is None else rows
    return Embedding(
        z={"rna": z_a, "prot": z_b},
        label={"rna": label, "prot": label[rows]},
        label_levels=("B", "NK", "T"),
        batch={"rna": BATCH, "prot": BATCH[rows]},
        pairs={("rna", "prot"): np.stack([rows, np.arange(len(z_b))], axis=1)},
        linked={("rna", "prot"): (linked_a, linked_b, tuple("wxyz"))},
        own={"rna": (np.arange(N), OWN), "prot": (np.arange(N), OWN[rows])},
        seed=0,
    )


def cells():
    rng = np.random.default_rng(0)
    label = np.arange(N) % 3
    truth = rng.normal(size=(3, D))[label] * 6 + rng.normal(size=(N, D))
    linked = truth @ rng.normal(size=(D, S))
    noise = rng.normal(scale=0.05, size=(2, N, D))
    return rng, label, truth.astype("f4") + noise.astype("f4"), linked.astype("f4")


OWN = cells()[2][0] + BATCH[:, None].astype("f4")  # as measured: batches are apart


def fresh():
    _, label, (z_a, z_b), linked = cells()
    return build(z_a, z_b, label, linked_a=linked, linked_b=linked)


# a metric keeps its scores with the embedding: what the tests only read is computed once
perfect = functools.cache(fresh)


@functools.cache
def ruined():
    """Cells shuffled within each modality, and modalities and batches far apart."""
    rng, label, (z_a, z_b), linked = cells()
    gap = 40 * BATCH[:, None].astype("f4")
    z_a, z_b = rng.permutation(z_a) + gap, rng.permutation(z_b) + gap + 90
    return build(z_a, z_b, label, linked_a=linked, linked_b=linked)


def values(name, e):
    return {s.of: s.value for s in METRICS[name](e)}


def check_bounds(metric, scores):
    low, high = metric.bounds
    for score in scores:
        assert math.isnan(score.value) or low <= score.value <= high, (metric.name, score)
        assert score.n >= 0


def test_the_metrics_of_the_report_are_there():
    assert set(METRICS) >= {
        "label_transfer",
        "foscttm",
        "pair_distance",
        "mixing",
        "kbet",
        "silhouette",
        "silhouette_modality",
        "kbet_batch",
        "silhouette_batch",
        "link_concordance",
        "graph_connectivity",
        "ari_best",
        "nmi_best",
        "ilisi_batch",
        "clisi",
        "silhouette_isolated",
        "scib_total",
    }


@each_metric
def test_says_what_it_is(name):
    m = METRICS[name]
    assert m.name == name
    assert m.better in ("higher", "lower")
    assert m.bounds[0] < m.bounds[1]
    assert m.title
    assert m.section
    assert m.sentence.endswith(".")
    assert m.definition.endswith(".")


@each_metric
def test_perfect_beats_ruined(name):
    m, good, bad = METRICS[name], values(name, perfect()), values(name, ruined())
    assert good
    assert good.keys() == bad.keys()
    sign = 1 if m.better == "higher" else -1
    for of, value in good.items():
        assert sign * value > sign * bad[of]
    for e in (perfect(), ruined()):
        scores = m(e)
        check_bounds(m, scores)
        assert all(math.isfinite(s.value) and s.n > 0 for s in scores)


@functools.cache
def in_two_orders():
    _, label, (z_a, z_b), linked = cells()
    z_b = z_b + np.float32(0.3)
    before = build(z_a, z_b, label, linked_a=linked, linked_b=linked)
    p, q = np.random.default_rng(1).permutation(N), np.random.default_rng(2).permutation(N)
    after = Embedding(
        z={"rna": z_a[p], "prot": z_b[q]},
        label={"rna": label[p], "prot": label[q]},
        batch={"rna": BATCH[p], "prot": BATCH[q]},
        pairs={("rna", "prot"): np.stack([np.argsort(p), np.argsort(q)], axis=1)},
        linked={("rna", "prot"): (linked[p], linked[q], tuple("wxyz"))},
        own={"rna": (np.arange(N), OWN[p]), "prot": (np.arange(N), OWN[q])},
    )
    return before, after


@each_metric
def test_order_of_cells_does_not_matter(name):
    before, after = in_two_orders()
    assert values(name, after) == pytest.approx(values(name, before), rel=1e-5)


@functools.cache
def scaled_by(factor):
    e = perfect()
    return Embedding(
        z={m: z * np.float32(factor) for m, z in e.z.items()},
        label=e.label,
        batch=e.batch,
        pairs=e.pairs,
        linked=e.linked,
        own=e.own,
    )


@each_metric
@pytest.mark.parametrize("factor", [1e-25, 4096.0, 1e30])
def test_scale_does_not_matter(name, factor):
    assert values(name, scaled_by(factor)) == pytest.approx(values(name, perfect()), rel=1e-3)


@each_metric
def test_same_seed_same_value(name):
    assert values(name, fresh()) == values(name, perfect())


@functools.cache
def awkward():
    """Embeddings that real runs produce and that leave some metric undefined."""
    rng, label, (z, other), x = cells()
    pairs, links = {("a", "b"): np.stack([np.arange(N)] * 2, 1)}, {("a", "b"): (x, x, tuple("wxyz"))}

    def both(za, zb, la=label, lb=label, **more):
        return Embedding(z={"a": za, "b": zb}, label={"a": la, "b": lb}, **more)

    few = {"pairs": {("a", "b"): np.array([[0, 0]])}, "linked": {("a", "b"): (x[:1], x[:1], tuple("wxyz"))}}
    none = np.zeros((0, 2), dtype=int)
    return {
        "one modality": Embedding(z={"a": z}, label={"a": label}),
        "one label": both(z, other, 0 * label, 0 * label, pairs=pairs, linked=links),
        "unknown labels": both(z, other, 0 * label - 1, label, pairs=pairs, linked=links),
        "labels on one side": Embedding(z={"a": z, "b": other}, label={"a": label}),
        "every cell its own label": both(z, other, np.arange(N), np.arange(N, 2 * N)),
        "collapsed": both(0 * z + 3, 0 * other + 3, pairs=pairs, linked=links),
        "collapsed by modality": both(0 * z, 0 * other + 1, pairs=pairs, linked=links),
        "not finite": both(np.where(z > 5, np.nan, z), other, pairs=pairs, linked=links),
        "infinite": both(np.where(z > 5, np.inf, z), other, pairs=pairs, linked=links),
        "one cell each": both(z[:1], other[:1], label[:1], label[:1], **few),
        "an empty modality": both(
            z,
            other[:0],
            lb=label[:0],
            pairs={("a", "b"): none},
            linked={("a", "b"): (x, x[:0], tuple("wxyz"))},
        ),
        "no cell at all": both(z[:0], z[:0], label[:0], label[:0], pairs={("a", "b"): none}),
        "constant links": both(z, other, linked={("a", "b"): (0 * x, 0 * x + 2, tuple("wxyz"))}),
        "no links": both(z, other, linked={("a", "b"): (x[:, :0], x[:, :0], ())}),
        "every cell twice": both(np.repeat(z[:75], 2, 0), np.repeat(z[:75], 2, 0), pairs=pairs, linked=links),
        "one latent dimension": both(z[:, :1], other[:, :1], pairs=pairs, linked=links),
        "three modalities, one rare": Embedding(z={"a": z, "b": other, "c": rng.normal(size=(2, D))}),
    }


@each_metric
@pytest.mark.parametrize("case", awkward())
def test_awkward_data_give_a_number_or_nan(name, case):
    e = awkward()[case]
    if METRICS[name].applies_to(e):
        check_bounds(METRICS[name], METRICS[name](e))


@pytest.mark.parametrize("case", ["collapsed", "not finite", "infinite", "no cell at all"])
def test_no_geometry_no_value(case):
    """A latent at one point would have a FOSCTTM of 0, the best there is."""
    results = evaluate(awkward()[case])
    assert results
    assert all(entry["value"] is None for entry in results.values())


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_small_inputs(data):
    d = data.draw(st.integers(1, 3))
    n = {m: data.draw(st.integers(0, 14)) for m in ("a", "b")}
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    spread = data.draw(st.sampled_from([0, 1, 3, 1000]))  # small spreads give many ties
    linked = tuple(rng.integers(-spread, spread + 1, size=(k, 2)).astype("f4") for k in n.values())
    together = min(n.values())
    e = Embedding(
        z={m: rng.integers(-spread, spread + 1, size=(k, d)).astype("f4") for m, k in n.items()},
        label={m: rng.integers(-1, 3, size=k) for m, k in n.items()},
        pairs={("a", "b"): np.stack([np.arange(together)] * 2, 1)},
        linked={("a", "b"): (*linked, ("x", "y"))},
    )
    for m in METRICS.values():
        check_bounds(m, m(e))


def test_evaluate_gives_json_for_what_is_known():
    results = evaluate(perfect())
    assert {"mixing", "kbet", "label_transfer[rna->prot]", "foscttm[rna-prot]"} <= results.keys()
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert results["pair_distance[rna-prot]"]["range"] == [0.0, None]
    told = {"value", "better", "range", "n", "title", "definition", "sentence", "leading"}
    assert set(results["mixing"]) == told
    unlabelled = evaluate(Embedding(z=perfect().z))
    assert unlabelled.keys() == {"mixing", "kbet", "ilisi_modality", "seurat_alignment"}
    assert evaluate(awkward()["one label"])["silhouette"]["value"] is None


def test_evaluate_chosen_names():
    assert evaluate(perfect(), ["kbet", "silhouette"]).keys() == {"kbet", "silhouette"}
    with pytest.raises(UsageError, match="foscttm"):
        evaluate(perfect(), ["foscttn"])


def test_refuses_shapes_that_do_not_fit():
    z = np.zeros((3, 2), "f4")
    with pytest.raises(ValueError, match="one latent"):
        Embedding(z={"a": z, "b": z[:, :1]})
    with pytest.raises(ValueError, match="2 codes for 3 cells"):
        Embedding(z={"a": z}, label={"a": np.zeros(2, int)})
    with pytest.raises(ValueError, match="linked features"):
        Embedding(z={"a": z, "b": z}, linked={("a", "b"): (z, z[:2], ("x", "y"))})


def test_a_new_file_is_a_new_metric(tmp_path, monkeypatch):
    (tmp_path / "toy_family.py").write_text(
        "from mocli.metrics.embedding import Embedding\n"
        "from mocli.metrics.registry import Score, metric\n"
        "@metric(Embedding, better='higher', bounds=(0, 1))\n"
        "def toy(e):\n"
        "    'Toy.\\n\\nA toy.\\n\\nOne.\\n\\nSource: test.'\n"
        "    yield Score(1.0, len(e.joint))\n"
    )
    monkeypatch.setattr(mocli.metrics, "__path__", [*mocli.metrics.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "mocli.metrics.toy_family", raising=False)
    assert "toy" in available_metrics()
    assert evaluate(perfect())["toy"]["value"] == 1.0
    monkeypatch.undo()
    sys.modules.pop("mocli.metrics.toy_family", None)
    assert "toy" not in available_metrics()


def test_neighbours_and_pair_distances_are_computed_once(monkeypatch):
    calls = []
    for module, function in (("embedding", "nearby_blocks"), ("matching", "matched_distances")):
        target = f"mocli.metrics.{module}.{function}"
        original = getattr(sys.modules[f"mocli.metrics.{module}"], function)
        monkeypatch.setattr(target, lambda *a, _f=original, _n=function, **k: calls.append(_n) or _f(*a, **k))
    evaluate(fresh(), ["mixing", "kbet", "foscttm", "pair_distance"])
    assert sorted(calls) == ["matched_distances", "nearby_blocks"]


def test_drawn_cells_find_the_same_neighbours(monkeypatch):
    e = perfect()
    _, everyone = e.neighbors
    monkeypatch.setattr(embedding, "MAX_CELLS", 40)
    drawn = fresh()
    rows, neighbors = drawn.neighbors
    assert len(rows) == 40
    np.testing.assert_array_equal(neighbors, everyone[rows])
    twins = Embedding(z={"a": np.zeros((30, 2), "f4"), "b": np.ones((400, 2), "f4")})
    rows, neighbors = twins.neighbors  # more duplicates than neighbours
    assert neighbors.shape == (40, 300)
    assert not (neighbors == rows[:, None]).any()


def test_listing_metrics_imports_nothing_heavy():
    code = (
        "import sys; from mocli.metrics.registry import available_metrics as a; a();"
        "print([m for m in ('torch', 'sklearn', 'scipy', 'anndata') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_score_defaults():
    assert Score(1.0, 2) == Score(1.0, 2, None)
