"""What every metric of simulated cells must do, over whatever is registered, and brute force for some."""

import functools
import math

import numpy as np
import pytest
from scipy import sparse, stats

from mocli.metrics.generated import Generated, by_label, judge, log_at_depth
from mocli.metrics.registry import available_metrics

METRICS = available_metrics("simulated")
N, GENES, PEAKS = 150, 40, 44
each_metric = pytest.mark.parametrize("name", METRICS)


def measure(rng, kind, p, *, depth, program):
    """Counts of cells of three types; a program of half of the features differs within types."""
    profile = np.random.default_rng(p).gamma(0.8, 1.0, size=(3, p)) + 0.05
    loading = np.r_[np.ones(p // 2), np.zeros(p - p // 2)]
    rate = profile[kind] * np.exp(0.8 * program[:, None] * loading)
    rate *= depth / rate.sum(1, keepdims=True)
    return sparse.csr_matrix(rng.poisson(rate).astype(np.float32))


def cells_of(seed, kind):
    rng = np.random.default_rng(seed)
    program, depth = rng.normal(size=len(kind)), rng.lognormal(0, 0.3, size=(len(kind), 1))
    return {
        "rna": measure(rng, kind, GENES, depth=200 * depth, program=program),
        "atac": measure(rng, kind, PEAKS, depth=150 * depth, program=program),
    }, np.stack([program, kind, depth[:, 0]], 1).astype("f4")


def together(real, simulated, kind, latent):
    return Generated(
        real=real,
        simulated=simulated,
        real_label=dict.fromkeys(real, kind),
        simulated_label=kind,
        levels=("a", "b", "c"),
        counted=frozenset(real),
        paired=True,
        latent=dict.fromkeys(real, latent),
    )


@functools.cache
def good():
    kind = np.arange(N) % 3
    (real, z), (simulated, w) = cells_of(0, kind), cells_of(1, kind)
    return together(real, simulated, kind, (z, w))


@functools.cache
def bad():
    """Cells of another type, all alike, twice as deep, without what features share."""
    kind = np.arange(N) % 3
    real, z = cells_of(0, kind)
    rng = np.random.default_rng(2)
    other = (kind + 1) % 3
    flat = np.zeros(N)
    simulated = {
        name: measure(rng, other, p, depth=np.full((N, 1), 500.0), program=flat)
        for name, p in (("rna", GENES), ("atac", PEAKS))
    }
    return together(real, simulated, kind, (z, z[np.argsort(other, kind="stable")]))


def parts(metric):
    return ("rna", "atac") if "two" in metric.needs else ("rna",)


@each_metric
def test_says_what_it_is(name):
    m = METRICS[name]
    assert m.name == name
    assert m.bounds[0] <= m.best <= m.bounds[1]
    assert m.title
    assert m.section
    assert m.sentence.endswith(".")
    assert m.definition.endswith(".")


@each_metric
def test_cells_like_real_ones_are_nearer_to_the_best(name):
    m = METRICS[name]
    of = parts(m)
    near, far = by_label(m, good(), of), by_label(m, bad(), of)
    assert list(near) == list(far) == [0, 1, 2]
    for value in (*near.values(), *far.values()):
        assert m.bounds[0] <= value <= m.bounds[1]
    assert np.mean([abs(v - m.best) for v in near.values()]) < np.mean(
        [abs(v - m.best) for v in far.values()]
    )


@each_metric
def test_order_of_cells_matters_little(name):
    m, cells = METRICS[name], good()
    p, q = np.random.default_rng(3).permutation(N), np.random.default_rng(4).permutation(N)
    other = Generated(
        real={k: x[p] for k, x in cells.real.items()},
        simulated={k: x[q] for k, x in cells.simulated.items()},
        real_label={k: x[p] for k, x in cells.real_label.items()},
        simulated_label=cells.simulated_label[q],
        levels=cells.levels,
        counted=cells.counted,
        paired=True,
        latent={k: (z[p], w[q]) for k, (z, w) in cells.latent.items()},
    )
    before, after = (list(by_label(m, c, parts(m)).values()) for c in (cells, other))
    # folds and halves are drawn among rows
    drawn = {"discriminability": 0.25, "component_variance_ratio": 0.4}
    np.testing.assert_allclose(before, after, atol=drawn.get(name, 1e-5))


@each_metric
def test_a_single_cell_is_no_error(name):
    m, cells = METRICS[name], good()
    one = together(
        {k: x[:1] for k, x in cells.real.items()},
        {k: x[:1] for k, x in cells.simulated.items()},
        np.zeros(1, np.int64),
        (np.zeros((1, 2), "f4"),) * 2,
    )
    assert all(math.isnan(v) or m.bounds[0] <= v <= m.bounds[1] for v in by_label(m, one, parts(m)).values())


def test_the_report_s_entries():
    found = {j.key: j for j in judge(good())}
    assert {"discriminability[rna]", "variance_ratio[atac]", "cross_correlation[rna-atac]"} <= set(found)
    assert abs(found["discriminability[rna]"].entry["value"] - 0.5) < 0.2
    assert found["discriminability[rna]"].entry["better"] is None
    assert found["zero_fraction[rna]"].entry["better"] == "lower"
    assert found["nearest_label[rna]"].entry["better"] == "higher"
    assert set(found["nearest_label[rna]"].by_label) == {0, 1, 2}


def test_halves_of_real_cells_are_the_best_one_can_ask():
    (halves,) = good().halves()
    assert halves.real["rna"].shape[0] + halves.simulated["rna"].shape[0] == N
    for judged in judge(halves):
        if judged.metric.name == "variance_ratio":
            assert judged.entry["value"] == pytest.approx(1, abs=0.1)


def test_brute_force():
    cells = good()
    x, y = (m.toarray()[cells.simulated_label == 1] for m in (cells.real["rna"], cells.simulated["rna"]))
    zeros = np.abs((x == 0).mean(0) - (y == 0).mean(0)).mean()
    assert by_label(METRICS["zero_fraction"], cells, ("rna",))[1] == pytest.approx(zeros, rel=1e-6)
    ks = stats.ks_2samp(x.sum(1), y.sum(1)).statistic
    assert by_label(METRICS["library_ks"], cells, ("rna",))[1] == pytest.approx(ks)
    seen = (x > 0).mean(0) >= 0.05
    fano = [np.log2(m.var(0)[seen] / m.mean(0)[seen]) for m in (x, y)]
    expected = np.median(np.abs(fano[0] - fano[1]))
    assert by_label(METRICS["mean_variance"], cells, ("rna",))[1] == pytest.approx(expected, rel=1e-4)
    depth = float(np.median(np.asarray(cells.real["rna"].sum(1))))
    logged = [np.log1p(m / m.sum(1, keepdims=True) * depth) for m in (x, y)]
    ratio = logged[1].var(0).sum() / logged[0].var(0).sum()
    assert by_label(METRICS["variance_ratio"], cells, ("rna",))[1] == pytest.approx(ratio, rel=1e-4)
    r = [np.corrcoef(m.T)[np.triu_indices(GENES, 1)] for m in logged]
    agreement = np.corrcoef(*r)[0, 1]
    assert by_label(METRICS["feature_correlation"], cells, ("rna",))[1] == pytest.approx(agreement, rel=1e-3)


def test_counts_at_equal_depth():
    x = sparse.csr_matrix(np.array([[1.0, 3.0], [0.0, 0.0], [2.0, 2.0]]))
    np.testing.assert_allclose(log_at_depth(x, 8.0).toarray(), np.log1p([[2, 6], [0, 0], [4, 4]]))
