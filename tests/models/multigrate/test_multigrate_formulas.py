"""Multigrate's posteriors and losses against a second computation from the formulas."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import sparse, stats

from mocli.data.batches import BundleRows, dense_rows
from mocli.data.bundle import Codes, Continuous, FeatureMatrix, Modality, MultiOmics
from mocli.models.base import Conditions, Schedule
from mocli.models.multigrate.model import Multigrate, _n_components
from mocli.models.multigrate.networks import anchors, components, log_dispersion
from mocli.models.multigrate.params import PRESETS, MultigrateParams
from mocli.nn.mixture import BANDWIDTHS
from mocli.nn.principal import Measured, joint_components
from mocli.types import ModalityKind, Pairing, Preset

N, P = 24, {"rna": 9, "atac": 12, "prot": 4}
HAVE = {"rna": np.arange(0, 18), "atac": np.arange(8, 24), "prot": np.arange(4, 14)}
LIKELIHOODS = {"rna": "nb", "atac": "poisson", "prot": "normal"}


def bundle(likelihoods=LIKELIHOODS, *, pairing=Pairing.MOSAIC, continuous=2):
    rng = np.random.default_rng(0)
    modalities, rows = {}, np.full((N, len(P)), -1)
    for column, (name, p) in enumerate(P.items()):
        cells = HAVE[name] if pairing is Pairing.MOSAIC else np.arange(N)
        rows[cells, column] = np.arange(len(cells))
        x = rng.poisson(2.0, size=(len(cells), p)).astype(np.float32)
        values = (
            rng.normal(size=x.shape).astype(np.float32)
            if likelihoods[name] == "normal"
            else sparse.csr_matrix(x)
        )
        modalities[name] = Modality(
            name,
            ModalityKind(name),
            FeatureMatrix(values, tuple(map(str, range(p)))),
            tuple(f"c{i}" for i in cells),
            x.sum(1),
            likelihoods[name],
        )
    return MultiOmics(
        modalities,
        rows,
        tuple(f"c{i}" for i in range(N)),
        pairing,
        batch=Codes("batch", np.arange(N) % 3, ("a", "b", "c")),
        covariates=(Codes("donor", np.arange(N) % 2 - (np.arange(N) == 5), ("x", "y")),),
        continuous=Continuous(tuple("uv"[:continuous]), rng.gamma(2, size=(N, continuous)).astype(np.float32))
        if continuous
        else None,
    )


def build(data, **params):
    torch.manual_seed(0)
    settings = {
        "n_latent": 3,
        "n_hidden": 7,
        "n_covariate": 2,
        "dropout": 0.0,
        "encoder_components": 0,
        "weight_anchor": 0.0,
    } | params
    model = Multigrate.from_bundle(data, MultigrateParams(**settings))
    model.module.eval()
    return model


def everything(data):
    return BundleRows(data, "cpu").take_cells(torch.arange(data.n_cells), 0)


def experts(model, data):
    """Mean and log variance of each modality for its own cells, as numpy."""
    batch = everything(data)
    found = {}
    for name, at in batch.positions.items():
        conditions = Conditions({k: v[at] for k, v in batch.codes.items()}, batch.continuous[at])
        found[name] = [t.detach().numpy() for t in model.module.encode(name, batch.values(name), conditions)]
    return found


@pytest.mark.parametrize("mix", ["product", "mixture"])
def test_the_joint_latent_combines_what_was_measured(mix):
    data = bundle()
    model = build(data, mix=mix)
    single = experts(model, data)
    joint = model.encode_cells(everything(data)).detach().numpy()
    for cell in range(N):
        parts = [
            (mu[row], np.exp(lv[row]))
            for column, (mu, lv) in enumerate(single.values())
            if (row := data.rows[cell, column]) >= 0
        ]
        if mix == "product":
            precision = 1 + sum(1 / v for _, v in parts)
            expected = sum(mu / v for mu, v in parts) / precision
        else:
            expected = sum(mu for mu, _ in parts) / len(parts)
        np.testing.assert_allclose(joint[cell], expected, rtol=1e-4, atol=1e-6)


def test_a_cell_of_one_modality_lies_where_that_modality_alone_puts_it():
    data = bundle(continuous=0)
    model = build(data, encoder_covariates=False)
    joint = model.encode_cells(everything(data)).detach()
    alone = np.flatnonzero((data.rows >= 0).sum(1) == 1)
    for column, name in enumerate(data.modalities):
        own = alone[data.rows[alone, column] >= 0]
        x = torch.as_tensor(dense_rows(data.modalities[name].features, data.rows[own, column]))
        torch.testing.assert_close(model.encode(name, x).detach(), joint[own], rtol=1e-4, atol=1e-6)


def test_reconstruction_equals_the_likelihoods_from_scipy():
    data = bundle()
    model = build(data, modality_weights={"atac": 0.5})
    net, batch = model.module, everything(data)
    z = torch.randn(N, 3)
    found = float(net.reconstruction(net.posterior(batch), z).detach())
    expected = 0.0
    for m, (name, at) in enumerate(batch.positions.items()):
        conditions = Conditions({k: v[at] for k, v in batch.codes.items()}, batch.continuous[at])
        x = batch.values(name)
        x = (x if isinstance(x, torch.Tensor) else x.dense).numpy()
        mean = model.decode(name, z[at], conditions, torch.as_tensor(x.sum(1))).detach().numpy().astype(float)
        if name == "rna":
            r = np.exp(net.decoders[m].log_scale.detach().numpy())
            expected -= stats.nbinom.logpmf(x, r, r / (r + mean)).sum()
        elif name == "atac":
            expected -= 0.5 * stats.poisson.logpmf(x, mean).sum()
        else:
            expected += ((x - mean) ** 2).sum()
    assert found == pytest.approx(expected / N, rel=1e-4)


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "bernoulli", "ziln", "normal"])
@pytest.mark.parametrize("dispersion", ["feature", "batch"])
def test_every_likelihood_trains_and_decodes(likelihood, dispersion):
    data = bundle({**LIKELIHOODS, "rna": likelihood})
    model = build(data, dispersion=dispersion)
    model.module.train()
    losses = model.losses(model.prepare(everything(data)), "all")
    losses.total.backward()
    assert all(torch.isfinite(v) for v in losses.terms.values())
    assert all(torch.isfinite(p.grad).all() for p in model.module.parameters() if p.grad is not None)
    with torch.no_grad():
        expected = model.decode("rna", torch.randn(5, 3))
    assert expected.shape == (5, 9)
    assert torch.isfinite(expected).all()
    if likelihood in {"nb", "poisson"}:
        torch.testing.assert_close(expected.sum(1), model.module.depth[0].expand(5))


def mmd(x, y):
    def kernel(a, b):
        square = ((a[:, None] - b[None]) ** 2).sum(2)
        return np.mean([np.exp(-g * square) for g in BANDWIDTHS], axis=0).mean()

    return kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)


def test_alignments_equal_brute_force():
    data = bundle()
    model = build(data, align_on="batch")
    net = model.module
    step = net.posterior(everything(data))
    mean = step.mean.detach().numpy()
    batch = data.batch.codes
    expected = sum(mmd(mean[batch == a], mean[batch == b]) for a, b in combinations(range(3), 2))
    assert float(net.latent_alignment(step, step.mean).detach()) == pytest.approx(
        expected, rel=1e-3, abs=1e-5
    )
    expected, single = 0.0, experts(model, data)
    for name, (mu, _) in single.items():
        own = batch[HAVE[name]]
        expected += sum(mmd(mu[own == a], mu[own == b]) for a, b in combinations(range(3), 2))
    for a, b in combinations(single, 2):
        both = np.intersect1d(HAVE[a], HAVE[b])
        if len(both) > 1:
            rows = [np.searchsorted(HAVE[name], both) for name in (a, b)]
            expected += mmd(single[a][0][rows[0]], single[b][0][rows[1]])
    assert float(net.marginal_alignment(step).detach()) == pytest.approx(expected, rel=5e-3, abs=1e-5)


def test_jeffreys_takes_groups_of_any_size():
    data = bundle()
    model = build(data, alignment="jeffreys", weight_latent=2.0, weight_marginal=3.0)
    losses = model.losses(model.prepare(everything(data)), "all")
    assert set(losses.terms) == {"reconstruction", "kl", "latent_alignment", "marginal_alignment"}
    assert all(torch.isfinite(v) and v >= 0 for v in losses.terms.values())


@pytest.mark.parametrize(
    ("by", "pairing", "expected"),
    [
        ("mocli", Pairing.PAIRED, (0.5, 0.3, 0.0, 0.0)),
        ("mocli", Pairing.MOSAIC, (0.5, 0.3, 300.0, 0.0)),
        ("paper", Pairing.PAIRED, (0.0, 1e-5, 0.0, 0.0)),
        ("paper", Pairing.MOSAIC, (0.0, 1e-2, 0.0, 4000.0)),
    ],
)
def test_weights_left_to_the_data_follow_the_pairing(by, pairing, expected):
    p = build(bundle(pairing=pairing), settled_by=by).params
    assert (p.modality_dropout, p.weight_kl, p.weight_latent, p.weight_marginal) == expected
    asked = build(bundle(), weight_kl=0.5, weight_latent=0.0)
    assert (asked.params.weight_kl, asked.params.weight_latent) == (0.5, 0)
    assert "latent_alignment" not in asked.losses(asked.prepare(everything(bundle())), "all").terms


def test_the_kl_weight_rises_over_the_first_third_of_the_steps():
    data = bundle(continuous=0)
    model = build(data, weight_kl=2.0, weight_latent=0.0)
    model.phases(Schedule(max_steps=30), data)
    weights = []
    for step in (0, 4, 9, 25):
        losses = model.losses(model.prepare(replace(everything(data), step=step)), "all")
        weights.append(float(((losses.total - losses.terms["reconstruction"]) / losses.terms["kl"]).detach()))
    assert weights == pytest.approx([0.2, 1.0, 2.0, 2.0], rel=1e-2)


def test_the_published_schedule():
    data = bundle()
    (phase,) = build(data, settled_by="paper").phases(Schedule(Preset.PAPER), data)
    assert phase.max_steps == 200
    assert (phase.sampling.batch_size, phase.sampling.independent) == (256, False)
    assert phase.groups[0].decoupled_decay
    assert (phase.groups[0].lr, phase.groups[0].weight_decay) == (1e-3, 1e-3)
    assert phase.validation.weights == {"reconstruction": 1.0}
    assert (phase.validation.share, phase.validation.patience, phase.validation.every) == (0.1, 10, 1)
    # Table 5, with 16 x 2 for two covariates beside 16 latent dimensions
    model = Multigrate.from_bundle(bundle(continuous=0), MultigrateParams(**PRESETS["paper"]))
    shapes = {k: tuple(v.shape) for k, v in model.module.state_dict().items()}
    assert shapes["encoders.0.blocks.0.linear.weight"] == (9, 128)
    assert shapes["encoders.0.blocks.1.linear.weight"] == (16, 128)
    assert shapes["encoders.0.mean.weight"] == shapes["encoders.0.log_variance.weight"] == (16, 16)
    assert shapes["decoders.0.blocks.0.linear.weight"] == (128, 16)
    assert shapes["decoders.0.blocks.0.side.weight"] == (128, 32)
    assert shapes["decoders.0.blocks.1.linear.weight"] == (128, 128)
    assert shapes["decoders.0.head.weight"] == (9, 128)
    assert not any("norm" in k for k in shapes)


def test_modality_dropout_shows_one_modality_and_reconstructs_all():
    data = bundle(pairing=Pairing.PAIRED, continuous=0)
    model = build(data, modality_dropout=1.0, encoder_covariates=False)
    net, batch = model.module, everything(data)
    net.train()
    torch.manual_seed(3)
    shown = net._hide(torch.ones(3, N, dtype=torch.bool))
    assert (shown.sum(0) == 1).all()
    assert (shown.sum(1) > 2).all()
    partly = torch.tensor([[True] * N, [False] * N, [True] * N])
    assert not (net._hide(partly) & ~partly).any()
    step = net.posterior(batch)
    assert step.present.all()
    net.eval()
    assert torch.equal(net.posterior(batch).mean, net.posterior(batch).mean)


def test_covariates_reach_the_decoder_and_a_missing_level_stands_at_the_mean():
    data = bundle()
    model = build(data)
    net = model.module
    z = torch.zeros(2, 3)
    with torch.no_grad():
        codes = {"batch": torch.tensor([0, 1]), "donor": torch.tensor([-1, -1])}
        side = net.covariates(2, (codes, torch.ones(2, 2)))
        assert side.shape == (2, 6)
        assert torch.equal(side[0, 2:4], net.covariates.tables[1].weight.mean(0))
        assert not torch.equal(*model.decode("rna", z, Conditions(codes, torch.ones(2, 2))))
        averaged = net.covariates(1, None)
        torch.testing.assert_close(averaged[0, :2], net.covariates.tables[0].weight.mean(0))


@pytest.mark.parametrize("form", ["sigmoid", "log_sigmoid", "mlp"])
def test_two_continuous_covariates_share_one_embedding(form):
    data = bundle()
    model = build(data, continuous_response=form)
    response = model.module.covariates.response
    values = torch.from_numpy(data.continuous.values)
    if form == "sigmoid":
        scaled = (values - values.mean(0)) / values.std(0, correction=0)
        torch.testing.assert_close(response(values), torch.sigmoid(scaled) @ response.directions)
    if form == "log_sigmoid":
        torch.testing.assert_close(response(values), torch.sigmoid(torch.log1p(values)) @ response.directions)
    assert response(values).shape == (N, 2)


def test_saved_shapes_come_back_whatever_the_order_of_keys():
    data = bundle()
    model = build(data, dispersion="batch")
    again = Multigrate.from_spec(model.spec(), model.params)
    assert again.shape == model.shape
    again.module.load_state_dict(model.module.state_dict())
    again.module.eval()
    batch = everything(data)
    assert torch.equal(again.encode_cells(batch), model.encode_cells(batch))


@pytest.mark.parametrize("normalization", ["layer", "batch", "none"])
@pytest.mark.parametrize("n_layers", [0, 1, 2])
def test_depths_and_normalisations(normalization, n_layers):
    data = bundle()
    model = build(data, normalization=normalization, n_layers=n_layers, activation="tanh", init="xavier")
    model.module.train()
    # one cell of a modality has no statistics of its own
    batch = BundleRows(data, "cpu").take_cells(torch.tensor([0, 1, 8]), 0)
    losses = model.losses(model.prepare(batch), "all")
    losses.total.backward()
    assert torch.isfinite(losses.total)


def test_encoders_see_fixed_components_of_what_they_would_see():
    data = bundle(pairing=Pairing.PAIRED, continuous=0)
    model = build(data, encoder_components=3)
    name, p = "rna", P["rna"]
    x = data.modalities[name].features.values.toarray().astype(np.float64)
    total = x.sum(1, keepdims=True)
    seen = np.log1p(x * np.median(total) / total)
    scale = np.sqrt((seen**2).mean(0)) + 0.05
    even = (seen - seen.mean(0)) / scale
    scores = even @ np.linalg.svd(even, full_matrices=False)[2][:3].T
    with torch.no_grad():
        values = torch.from_numpy(x).float()
        got = model.module.encoders[0].projection(model.module._input(name, values)).numpy()
    assert p > 3
    assert got.shape == (N, 3)
    np.testing.assert_allclose(np.abs(got), np.abs(scores) / scores.std(), rtol=1e-3, atol=1e-3)
    # they are no weights: nothing trains them, and a saved model has them
    before = model.module.encoders[0].projection.weight.clone()
    (phase,) = model.phases(Schedule(), data)
    assert all(w is not model.module.encoders[0].projection.weight for w in phase.groups[0].parameters)
    again = Multigrate.from_spec(model.spec(), model.params)
    again.module.load_state_dict(model.module.state_dict())
    assert torch.equal(again.module.encoders[0].projection.weight, before)
    assert not again.module.encoders[0].projection.weight.requires_grad


def test_components_follow_the_seed_of_the_run_and_a_query_keeps_its_reference_s(monkeypatch):
    monkeypatch.setattr("mocli.models.multigrate.networks.FIT_CELLS", 12)
    data = bundle(pairing=Pairing.PAIRED, continuous=0)

    def projection(model):
        return model.module.encoders[0].projection

    def fitted(seed):
        torch.manual_seed(seed)
        params = MultigrateParams(n_latent=3, n_hidden=7, n_covariate=2, encoder_components=3)
        return Multigrate.from_bundle(data, params)

    one, same, other = (fitted(seed) for seed in (1, 1, 2))
    for part in ("weight", "bias"):
        assert torch.equal(getattr(projection(one), part), getattr(projection(same), part))
        assert not torch.equal(getattr(projection(one), part), getattr(projection(other), part))
    torch.manual_seed(3)
    query = one.extended(replace(data, batch=Codes("batch", np.arange(N) % 4, ("a", "b", "c", "d"))))
    assert torch.equal(projection(query).weight, projection(one).weight)
    assert torch.equal(projection(query).bias, projection(one).bias)


def test_encoders_see_components_unless_asked_otherwise():
    assert build(bundle(), encoder_components=None).module.encoders[0].projection is None, "few features"
    wide = FeatureMatrix(sparse.random(N, 5001, 0.01, "csr", np.float32), tuple(map(str, range(5001))))
    assert _n_components(wide, None) == min(50, N)
    assert _n_components(wide, 0) == 0
    paper = MultigrateParams(**PRESETS["paper"])
    assert (paper.encoder_components, paper.weight_anchor) == (0, 0)


def test_a_feature_that_was_never_seen_moves_no_component():
    """Also where there are as many components as features."""
    data = bundle()
    m = data.modalities["rna"]
    values = m.features.values.toarray()
    values[:, 2] = 0
    loadings, _ = components(
        replace(m, features=replace(m.features, values=values)), P["rna"], "lognorm", seed=0
    )
    assert loadings[2].abs().max() < 1e-3
    assert loadings[3].abs().max() > 0.01


def test_cells_with_all_modalities_are_drawn_to_their_joint_components():
    data = bundle(continuous=0)
    whole = (data.rows >= 0).all(1)
    settings = replace(MultigrateParams(), n_latent=3, anchor_neighbors=0)
    points, drawn = anchors(data, settings, seed=0)
    assert drawn.bool().tolist() == whole.tolist()
    assert not points[~torch.from_numpy(whole)].any()
    values = points[torch.from_numpy(whole)].numpy()
    assert values.std() == pytest.approx(1, rel=1e-3)
    model = build(data, weight_anchor=2.0)
    step = model.prepare(everything(data))
    model.module.keep_anchors(points, drawn)
    apart = ((step.mean.detach() - points) ** 2).sum(1).numpy()
    terms = model.losses(step, "all").terms
    assert float(terms["anchor"].detach()) == pytest.approx(apart[whole].sum() / N, rel=1e-4)
    assert "anchors" not in model.module.state_dict()
    model.look_again(data, same_cells=True)
    assert "anchor" in model.losses(step, "all").terms
    model.look_again(data, same_cells=False)
    assert "anchor" not in model.losses(step, "all").terms


def test_neighbours_take_noise_out_of_anchors():
    data = bundle(pairing=Pairing.PAIRED, continuous=0)
    settings = replace(MultigrateParams(), n_latent=3, anchor_neighbors=4)
    plain, _ = anchors(data, replace(settings, anchor_neighbors=0), seed=0)
    near, _ = anchors(data, settings, seed=0)
    distance = torch.cdist(plain.double(), plain.double()).fill_diagonal_(torch.inf)
    order = distance.topk(4, largest=False).indices
    mean = 0.5 * plain + 0.5 * plain[order].mean(1)
    torch.testing.assert_close(near, mean / mean.std(correction=0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kinds", [("rna", "atac", "prot"), ("rna", "prot")])
def test_anchors_are_cleaned_where_there_are_peaks(kinds):
    data = bundle(pairing=Pairing.PAIRED, continuous=0)
    data = replace(
        data,
        modalities={k: data.modalities[k] for k in kinds},
        rows=np.tile(np.arange(N)[:, None], len(kinds)),
        batch=None,
    )
    points, _ = anchors(data, replace(MultigrateParams(), n_latent=3, anchor_neighbors=0), seed=0)
    every = np.arange(N)
    modalities = [
        Measured(m.features.values, every, every, m.features.median_total() if m.is_counted else None)
        for m in data.modalities.values()
    ]
    cleaned, plain = (
        joint_components(modalities, N, 3, batch=None, seed=0, cleaned=c) for c in (True, False)
    )
    expected, other = (cleaned, plain) if "atac" in kinds else (plain, cleaned)
    for z, alike in ((expected, True), (other, False)):
        r = np.abs(np.diag(np.corrcoef(points.numpy().T, z.T)[:3, 3:])).min()
        assert (r > 1 - 1e-6) == alike


def test_counts_begin_at_the_dispersion_of_their_moments():
    rng = np.random.default_rng(0)
    r, depth = np.array([0.3, 1.0, 5.0, 1e6]), rng.uniform(20, 200, 40_000)
    mean = depth[:, None] * np.array([0.2, 0.3, 0.4, 0.1])
    x = rng.poisson(mean * rng.gamma(r, 1 / r, mean.shape)).astype(np.float32)
    # against other features that make the depth known
    rest = rng.poisson(depth[:, None] * 20, (len(depth), 1)).astype(np.float32)
    values = sparse.csr_matrix(np.hstack([x, rest]))
    got = torch.exp(log_dispersion(FeatureMatrix(values, tuple("abcde")))).numpy()
    np.testing.assert_allclose(got[:3], r[:3], rtol=0.1)
    assert got[3] > 30
    dense = log_dispersion(FeatureMatrix(values.toarray(), tuple("abcde"))).exp().numpy()
    np.testing.assert_allclose(dense, got, rtol=1e-4)
