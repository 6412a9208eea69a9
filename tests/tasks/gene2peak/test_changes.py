"""Silencing genes in a model: steps, gradients and sums against torch's own, nulls against brute force."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse, stats
from sklearn.metrics import average_precision_score

from mocli.data.bundle import Codes, FeatureMatrix, Modality, MultiOmics
from mocli.data.features.index import Features
from mocli.data.features.intervals import overlaps
from mocli.errors import InputError
from mocli.models.base import Surprised
from mocli.models.multidgd.model import MultiDGD
from mocli.models.multidgd.params import MultiDGDParams
from mocli.models.multigrate.model import Multigrate
from mocli.models.multigrate.params import MultigrateParams
from mocli.tasks.gene2peak.changes import Original, Step, Way, changes, moved, push
from mocli.tasks.gene2peak.peaksets import Closing, PeakSet, read_peak_sets
from mocli.tasks.gene2peak.truth import precision_recall
from mocli.tasks.gene2peak.units import MatchedNull, PeakPanel, choose_units, strata_of, tail_p
from mocli.tasks.infer.query import LatentCells
from mocli.train.predict import encode_cells
from mocli.types import ModalityKind, Pairing

N, GENES, PEAKS = 60, 12, 17
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bundle():
    rng = np.random.default_rng(0)

    def modality(name, kind, p, rate):
        x = sparse.csr_matrix(rng.poisson(rate, (N, p)).astype(np.float32))
        names = tuple(f"{name}{j}" for j in range(p))
        return Modality(
            name=name, kind=kind, features=FeatureMatrix(x, names), obs_names=tuple(map(str, range(N))),
            library=np.asarray(x.sum(1), np.float32).ravel(), likelihood="nb",
        )  # fmt: skip

    mods = {
        "rna": modality("rna", ModalityKind.RNA, GENES, 0.8),
        "atac": modality("atac", ModalityKind.ATAC, PEAKS, 0.6),
    }
    return MultiOmics(
        modalities=mods,
        rows=np.tile(np.arange(N)[:, None], 2),
        obs_names=tuple(map(str, range(N))),
        pairing=Pairing.PAIRED,
        batch=Codes("batch", np.arange(N) % 2, ("a", "b")),
    )


@pytest.fixture(scope="module")
def placed(bundle):
    torch.manual_seed(0)
    model = MultiDGD.from_bundle(
        bundle, MultiDGDParams(n_latent=4, n_hidden=8, n_components=3, start="origin")
    )
    rng = np.random.default_rng(1)
    with torch.no_grad():
        model.module.branch("rna").log_scale.copy_(torch.from_numpy(rng.normal(size=GENES)))
    model.module.eval()
    z = rng.normal(size=(N, 4)).astype(np.float32)
    return LatentCells(model, bundle, z, CPU)


def counts_of(placed):
    return sparse.csr_matrix(placed.bundle.modalities["rna"].features.values)


def gradient_by_backward(placed, cell, genes, value):
    """Backward through -ln NB written with torch's own distribution, one cell at a time."""
    model = placed.model
    z = torch.from_numpy(placed.z[[cell]]).requires_grad_()
    library = torch.tensor([float(counts_of(placed)[cell].sum())])
    mean = model.decode("rna", z, placed.conditions(np.array([cell])), library)[0, genes]
    r = 1 + torch.exp(model.module.branch("rna").log_scale[genes])
    law = torch.distributions.NegativeBinomial(r, logits=torch.log(mean / r), validate_args=False)
    target = torch.zeros_like(mean) if value == 0 else value * mean.detach()
    (-law.log_prob(target).sum()).backward()
    return z.grad[0].numpy()


@pytest.mark.parametrize("raised", [False, True])
def test_the_gradient_is_that_of_one_cell_and_gene_alone(placed, raised):
    # upstream's libraries of one cell met all cells' predictions; here no cell knows of another
    x = counts_of(placed)
    units = [np.array([3]), np.array([1, 7])]
    pushes = push(placed, "rna", x, units, way=Way.LATENT, raised=raised)
    for k, unit in enumerate(units):
        run = pushes.of(k)
        expressing = np.flatnonzero((x[:, unit] > 0).sum(1))
        assert np.array_equal(np.sort(pushes.cells[run]), expressing)
        for cell, gradient in list(zip(pushes.cells[run], pushes.gradient[run], strict=True))[:6]:
            own = gradient_by_backward(placed, cell, unit, 2.0 if raised else 0)
            np.testing.assert_allclose(gradient, own, rtol=2e-3, atol=1e-6)


def test_the_first_step_is_adams():
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.normal(size=(5, 4)))
    gradient = torch.from_numpy(rng.normal(size=(5, 4)) * 10.0 ** rng.integers(-6, 1, size=(5, 4)))
    own = z.clone().requires_grad_()
    own.grad = gradient.clone()
    torch.optim.Adam([own], lr=1e-2, betas=(0.5, 0.7), weight_decay=1e-4).step()
    torch.testing.assert_close(moved(gradient, z, Step.ADAM), own.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(moved(gradient, z, Step.SIGN), z - 0.01 * torch.sign(gradient))
    step = moved(gradient, z, Step.NORM) - z
    torch.testing.assert_close(step.norm(dim=1), torch.full((5,), 0.02, dtype=torch.float64))
    cosine = torch.nn.functional.cosine_similarity(step, gradient)
    torch.testing.assert_close(cosine, torch.full((5,), -1.0, dtype=torch.float64))


def test_a_flat_gradient_moves_nothing_along_it():
    z = torch.zeros(2, 3)
    for step in Step:
        assert torch.equal(moved(torch.zeros(2, 3), z, step), z)


@pytest.mark.parametrize("step", list(Step))
def test_sums_over_groups_are_numpys(placed, step, monkeypatch):
    x = counts_of(placed)
    units = [np.array([j]) for j in range(GENES)]
    pushes = push(placed, "rna", x, units, way=Way.LATENT, raised=False)
    groups = np.arange(N) % 3
    seen = {}

    def look(unit, cells, difference):
        seen.setdefault(unit, []).append((cells, difference.numpy()))

    for kept in (10**9, 0):
        monkeypatch.setattr("mocli.tasks.gene2peak.changes.KEPT", kept)
        monkeypatch.setattr("mocli.tasks.gene2peak.changes.DECODED", 20 * PEAKS)
        original = Original(placed, "atac", np.arange(N))
        found = list(changes(original, pushes, step=step, groups=groups, n_groups=3, look=look))
        assert [c.unit for c in found] == list(range(GENES))
        for change in found[:4]:
            cells = pushes.cells[pushes.of(change.unit)]
            gradient = torch.from_numpy(pushes.gradient[pushes.of(change.unit)])
            z = torch.from_numpy(placed.z[cells])
            with torch.no_grad():
                before = placed.decode("atac", z, cells).numpy()
                after = placed.decode("atac", moved(gradient, z, step), cells).numpy()
            np.testing.assert_allclose(before.sum(1), 1, rtol=1e-5)
            for g in range(3):
                mine = groups[cells] == g
                assert change.n_cells[g] == mine.sum()
                np.testing.assert_allclose(change.delta[g], (after - before)[mine].sum(0), atol=2e-6)
                np.testing.assert_allclose(change.before[g], before[mine].sum(0), rtol=1e-5)
            assert sum(len(c) for c, _ in seen[change.unit]) % len(cells) == 0


def test_a_silenced_gene_is_expected_less_and_a_raised_one_more(placed):
    x = counts_of(placed)
    for raised in (False, True):
        pushes = push(placed, "rna", x, [np.array([2])], way=Way.LATENT, raised=raised)
        z = torch.from_numpy(placed.z[pushes.cells])
        with torch.no_grad():
            after = moved(torch.from_numpy(pushes.gradient), z, Step.NORM)
            change = placed.decode("rna", after, pushes.cells) - placed.decode("rna", z, pushes.cells)
        assert bool(((change[:, 2] > 0) == raised).all())


def test_through_the_encoder_is_the_difference_of_two_encodings(bundle):
    torch.manual_seed(0)
    model = Multigrate.from_bundle(bundle, MultigrateParams(n_latent=5))
    model.module.eval()
    placed = LatentCells(model, bundle, encode_cells(model, bundle, CPU), CPU)
    assert not isinstance(model, Surprised)
    x = counts_of(placed)
    pushes = push(placed, "rna", x, [np.array([4])], way=Way.INPUT, raised=False)
    dense = x.toarray()
    assert np.array_equal(pushes.cells, np.flatnonzero(dense[:, 4]))
    dense[:, 4] = 0
    without = bundle.modalities["rna"].features
    mods = dict(bundle.modalities)
    mods["rna"] = replace(mods["rna"], features=replace(without, values=sparse.csr_matrix(dense)))
    again = encode_cells(model, replace(bundle, modalities=mods), CPU)
    np.testing.assert_allclose(pushes.gradient, (placed.z - again)[pushes.cells], atol=2e-5)
    # a model without a likelihood of its own goes through its decoder, too
    pushes = push(placed, "rna", x, [np.array([4])], way=Way.LATENT, raised=False)
    assert np.isfinite(pushes.gradient).all()
    assert np.abs(pushes.gradient).max() > 0


def test_tails_are_counts():
    pool = np.array([-3.0, -1, 0, 0, 2])
    values = np.array([-3.0, -5, 0, 9])
    low = np.array([(1 + (pool <= v).sum()) / 6 for v in values])
    high = np.array([(1 + (pool >= v).sum()) / 6 for v in values])
    np.testing.assert_allclose(tail_p(pool, values, "negative"), low)
    np.testing.assert_allclose(tail_p(pool, values, "positive"), high)
    np.testing.assert_allclose(tail_p(pool, values, "two-sided"), np.minimum(1, 2 * np.minimum(low, high)))


def world(seed, n_genes=60, n_peaks=3_000, linked=0):
    """Genes of different scales against peaks whose noise rises as they are less open; some links planted."""
    rng = np.random.default_rng(seed)
    openness = rng.gamma(1.0, 1.0, n_peaks)
    chrom = rng.integers(20, size=n_peaks)
    home = rng.integers(20, size=n_genes)
    scale = np.exp(rng.normal(0, 1, n_genes))
    change = rng.standard_t(4, (n_genes, n_peaks)) * scale[:, None] / np.sqrt(0.1 + openness) + 0.3
    units = np.repeat(np.arange(n_genes), 12)
    peaks = np.array([rng.choice(np.flatnonzero(chrom == home[g])) for g in units])
    planted = rng.permutation(len(units)) < linked
    change[units[planted], peaks[planted]] -= (
        9 * scale[units[planted]] / np.sqrt(0.1 + openness[peaks[planted]])
    )
    panel = PeakPanel.draw(openness, rng.integers(100_000, size=n_peaks), chrom, rng)
    strata = strata_of(rng.integers(20, 900, n_genes), scale)
    homes = [home[[g]] for g in range(n_genes)]
    null = MatchedNull(panel, change[:, panel.members].astype(np.float32), strata, homes)
    return null, units, peaks, change, planted


@pytest.mark.parametrize("alternative", ["two-sided", "negative"])
def test_p_is_uniform_where_genes_have_nothing_to_do_with_peaks(alternative):
    shares, statistics = [], []
    for seed in range(4):
        null, units, peaks, change, _ = world(seed)
        z, p = null.score(units, peaks, change[units, peaks], alternative)
        assert np.isfinite(p).all()
        assert p.min() > 0
        shares.append((p <= 0.05).mean())
        statistics.append(stats.kstest(p, "uniform").statistic)
    assert 0.035 < np.mean(shares) < 0.065
    assert np.mean(statistics) < 0.05
    assert abs(z.mean()) < 0.15


def test_planted_links_are_found_at_the_rate_promised():
    for alternative in ("two-sided", "negative"):
        right = []
        for seed in range(4):
            null, units, peaks, change, planted = world(seed, linked=150)
            _, p = null.score(units, peaks, change[units, peaks], alternative)
            found = stats.false_discovery_control(p) < 0.1
            right.append(planted[found].mean())
            assert found[planted].mean() > 0.4
        assert np.mean(right) >= 0.85


def test_z_is_by_matched_peaks_of_other_chromosomes():
    null, units, peaks, change, _ = world(3)
    z, _ = null.score(units, peaks, change[units, peaks], "two-sided")
    panel = null.panel
    for k in (0, 100, 400):
        alike = (panel.bins[panel.members] == panel.bins[peaks[k]]) & ~np.isin(
            panel.chrom[panel.members], null.homes[units[k]]
        )
        others = change[units[k], panel.members[alike]]
        assert z[k] == pytest.approx(
            (change[units[k], peaks[k]] - others.mean()) / others.std(ddof=1), rel=1e-3
        )


def test_a_gene_of_too_few_cells_has_no_p():
    null, units, peaks, change, _ = world(4)
    null.changes[5] = np.nan
    change[5] = np.nan
    z, p = null.score(units, peaks, change[units, peaks], "two-sided")
    assert np.isnan(z[units == 5]).all()
    assert np.isnan(p[units == 5]).all()
    assert np.isfinite(p[units != 5]).all()


def test_panels_match_accessibility_and_distance():
    rng = np.random.default_rng(0)
    openness, near = rng.random(2_000), rng.integers(60_000, size=2_000)
    near[:500] = 100
    panel = PeakPanel.draw(openness, near, np.zeros(2_000, np.int64), rng)
    kind = np.searchsorted([2_000, 20_000], near)
    for b in np.unique(panel.bins):
        mine = panel.bins == b
        assert len(np.unique(kind[mine])) == 1
        inside = openness[kind == kind[mine][0]]
        span = (inside >= openness[mine].min()) & (inside <= openness[mine].max())
        assert span.sum() == mine.sum()
    assert np.bincount(panel.bins[panel.members]).max() <= 100
    # a class too small to draw from is not told apart
    near[:] = 50_000
    near[:7] = 0
    assert (np.bincount(PeakPanel.draw(openness, near, np.zeros(2_000, np.int64), rng).bins) > 50).all()


def test_compared_genes_are_expressed_alike():
    rng = np.random.default_rng(0)
    n_cells, mean = rng.integers(5, 500, 400), rng.gamma(2, 1, 400)
    asked = np.array([int(np.argmax(n_cells))])
    home = rng.integers(5, size=400)
    units = choose_units(asked, n_cells, mean, home, together=False, min_cells=20, rng=rng)
    others = np.concatenate(units.columns[1:])
    assert units.n_asked == 1
    assert len(units.columns) > 30
    assert len(set(units.strata.tolist())) == 1
    assert n_cells[others].min() > np.median(n_cells)
    assert asked[0] not in others
    together = choose_units(
        np.array([1, 2, 3]), n_cells + 20, mean, home, together=True, min_cells=20, rng=rng
    )
    assert together.n_asked == 1
    assert {len(c) for c in together.columns} == {3}
    assert all(not set(c) & {1, 2, 3} for c in together.columns[1:])


def test_overlaps_are_brute_force():
    rng = np.random.default_rng(0)

    def frame(n):
        start = rng.integers(0, 3_000, n)
        chrom = np.array(["chr1", "chr2", None], dtype=object)[rng.integers(3, size=n)]
        return pd.DataFrame({"chrom": chrom, "start": start, "end": start + rng.integers(1, 300, n)})

    a, b = frame(70), frame(90)
    first, second = overlaps(a, b)
    expected = [
        (i, j)
        for i, x in enumerate(a.itertuples())
        for j, y in enumerate(b.itertuples())
        if x.chrom is not None and x.chrom == y.chrom and x.start < y.end and y.start < x.end
    ]
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == expected


PEAK_NAMES = ("chr1:100-200", "chr1:300-400", "chr2:100-200")


def test_peak_sets_by_name_and_by_place(tmp_path):
    peaks = Features("atac", ModalityKind.ATAC, PEAK_NAMES)
    (tmp_path / "a.tsv").write_text(
        "set\tpeak\nGATA1\tchr1:100-200\nGATA1\tchr2-100-200\nSPI1\tchr1:300-400\nSPI1\tx\n"
    )
    warnings = []
    sets = read_peak_sets(tmp_path / "a.tsv", peaks, warnings.append)
    assert {name: at.tolist() for name, at in sets.items()} == {"GATA1": [0, 2], "SPI1": [1]}
    assert "2 of 5 lines" in warnings[0]
    (tmp_path / "a.bed").write_text("chr1\t150\t350\tGATA1\n1\t399\t400\tSPI1\nchr1\t400\t500\tSPI1\n")
    sets = read_peak_sets(tmp_path / "a.bed", peaks, warnings.append)
    assert {name: at.tolist() for name, at in sets.items()} == {"GATA1": [0, 1], "SPI1": [1]}
    (tmp_path / "b.tsv").write_text("GATA1\tchr9:1-2\n")
    with pytest.raises(InputError, match="no peak of the peak sets"):
        read_peak_sets(tmp_path / "b.tsv", peaks, warnings.append)
    for text in ("", "one\ntwo\n"):
        (tmp_path / "c.tsv").write_text(text)
        with pytest.raises(InputError, match="peak sets"):
            read_peak_sets(tmp_path / "c.tsv", peaks, warnings.append)


def test_fraction_closing_is_by_cell():
    one = PeakSet("A", 1, np.zeros(0, np.int64), np.array([0, 2]), np.array([1]))
    closing = Closing([one], np.array([0, 0, 1, -1]), 2)
    difference = torch.tensor([[-1.0, 1, -1], [1, 1, -1], [1, -1, 1], [-1, -1, -1]])
    closing.look(1, np.array([0, 1]), difference[:2])
    closing.look(1, np.array([2, 3]), difference[2:])
    closing.look(0, np.array([0]), difference[:1])
    np.testing.assert_allclose(closing.mean(0, 0), [(1 + 0.5 + 0 + 1) / 4, 2 / 4])
    np.testing.assert_allclose(closing.mean(1, 0), [0.75, 0])
    np.testing.assert_allclose(closing.mean(2, 0), [0, 1])


def test_precision_is_sklearns():
    rng = np.random.default_rng(0)
    truth, score, gene = rng.random(60) < 0.3, rng.normal(size=60), np.repeat(np.arange(6), 10)
    truth[gene == 5] = False
    rows = precision_recall(truth, {"a": score}, gene)
    assert rows[0]["auprc"] == pytest.approx(average_precision_score(truth, score))
    of_genes = [average_precision_score(truth[gene == g], score[gene == g]) for g in range(5)]
    assert rows[0]["auprc_by_gene"] == pytest.approx(np.mean(of_genes))
    assert rows[-1] == {
        "score": "chance", "auprc": pytest.approx(truth.mean()), "n_genes": 5, "n_pairs": 60,
        "auprc_by_gene": pytest.approx(np.mean([truth[gene == g].mean() for g in range(5)])),
    }  # fmt: skip
    score[3] = np.nan
    assert precision_recall(truth, {"a": score}, gene)[0]["auprc"] is not None
