"""scMODAL's steps against a slow reference written from the formulas of the paper and its code."""

import numpy as np
import pytest
import torch
from torch import nn

from mocli.data.batches import Batches
from mocli.data.bundle import FeatureMatrix, LinkedFeatures, Modality, MultiOmics
from mocli.models.base import Schedule
from mocli.models.scmodal.model import Scmodal
from mocli.models.scmodal.params import PRESETS, ScmodalParams
from mocli.types import ModalityKind, Pairing

STEPS = 50


def make_bundle(n=(80, 90), p=(40, 12), s=10, seed=0):
    rng = np.random.default_rng(seed)
    modalities, linked = {}, []
    for name, kind, n_obs, n_vars in zip(
        ("rna", "prot"), (ModalityKind.RNA, ModalityKind.PROT), n, p, strict=True
    ):
        x = rng.normal(size=(n_obs, n_vars)).astype(np.float32)
        features = FeatureMatrix(x, tuple(f"{name}{j}" for j in range(n_vars)))
        names = tuple(f"{name}_cell{i}" for i in range(n_obs))
        modalities[name] = Modality(name, kind, features, names, np.ones(n_obs, np.float32))
        linked.append(
            FeatureMatrix(rng.normal(size=(n_obs, s)).astype(np.float32), tuple(map(str, range(s))))
        )
    rows = np.full((sum(n), 2), -1)
    rows[: n[0], 0] = np.arange(n[0])
    rows[n[0] :, 1] = np.arange(n[1])
    return MultiOmics(
        modalities=modalities,
        rows=rows,
        obs_names=tuple(map(str, range(sum(n)))),
        pairing=Pairing.UNPAIRED,
        links=(LinkedFeatures("rna", "prot", *linked, tuple(map(str, range(s)))),),
    )


class SlowScmodal:
    """The authors' step in plain broadcasts: every formula once, nothing shared or detached early."""

    def __init__(self, model, params):
        net = model.module
        self.e = [self.copy(m) for m in net.encoders]
        self.g = [self.copy(m) for m in net.decoders]
        self.d = self.copy(net.discriminators[0])
        self.p = params
        adam = {"lr": params.lr, "betas": (params.beta1, params.beta2), "weight_decay": params.weight_decay}
        self.generator_weights = [w for m in (*self.e, *self.g) for w in m.parameters()]
        self.opt_g = torch.optim.Adam(self.generator_weights, **adam)
        self.opt_d = torch.optim.Adam(self.d.parameters(), **adam)

    @staticmethod
    def copy(mlp):
        layers = []
        for layer in mlp.layers:
            fresh = nn.Linear(layer.in_features, layer.out_features)
            fresh.load_state_dict(layer.state_dict())
            layers += [fresh.to(layer.weight.dtype), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def d_loss(self, z1, z2):
        logit1 = torch.clamp(self.d(z1), -50.0, 50.0)
        logit2 = torch.clamp(self.d(z2), -50.0, 50.0)
        return (torch.log(1 + torch.exp(-logit1)) + torch.log(1 + torch.exp(logit2))).mean()

    def kernel(self, x):
        return torch.exp(-((x[:, None, :] - x[None, :, :]) ** 2).sum(2) / (2 * x.shape[1]))

    def geometry(self, x, z):
        cosine = torch.cosine_similarity(self.kernel(x), self.kernel(z), dim=1, eps=1e-6)
        return -torch.minimum(cosine, torch.tensor(0.975, dtype=x.dtype)).mean()

    def anchors(self, l1, l2):
        l1, l2 = l1.numpy(), l2.numpy()
        cosine = (l1 @ l2.T) / np.linalg.norm(l1, axis=1)[:, None] / np.linalg.norm(l2, axis=1)[None]
        k = self.p.n_neighbors
        forward = {(i, j) for i in range(len(l1)) for j in np.argsort(-cosine[i])[:k]}
        backward = {(i, j) for j in range(len(l2)) for i in np.argsort(-cosine[:, j])[:k]}
        return sorted(forward & backward)

    def step(self, x1, x2, l1, l2):
        (e1, e2), (g1, g2), p = self.e, self.g, self.p
        z1, z2 = e1(x1), e2(x2)
        for _ in range(p.critic_steps):
            critic = self.d_loss(z1, z2)
            self.opt_d.zero_grad()
            critic.backward(retain_graph=True)
            self.opt_d.step()
        pairs = self.anchors(l1, l2)
        mnn = sum(((z1[i] - z2[j]) ** 2).sum() / z1.shape[1] for i, j in pairs)
        terms = {
            "adversarial": -self.d_loss(z1, z2),
            "reconstruction": ((g1(z1) - x1) ** 2).mean() + ((g2(z2) - x2) ** 2).mean(),
            "cycle": ((z1 - e2(g2(z1))) ** 2).mean() + ((z2 - e1(g1(z2))) ** 2).mean(),
            "mnn": mnn / (len(pairs) if p.mnn_reduction == "mean" else 1),
            "geometry": self.geometry(x1, z1) + self.geometry(x2, z2),
        }
        total = sum(getattr(p, f"weight_{name}") * value for name, value in terms.items())
        self.opt_g.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(self.generator_weights, p.clip_norm)
        self.opt_g.step()
        return {"critic": critic, **terms}


def paper(**overrides):
    return ScmodalParams(**{**PRESETS["paper"], **overrides})


def run_both(bundle, params, dtype):
    """Terms of every step from the loop's own step and from the reference, on the same minibatches."""
    from mocli.train.loop import Signals, Training, _Stretch

    torch.manual_seed(3)
    model = Scmodal.from_bundle(bundle, params)
    model.module.to(dtype)
    slow = SlowScmodal(model, params)
    phase = model.phases(Schedule(max_steps=STEPS), bundle)[0]
    stretch = _Stretch(model, bundle, phase, Training(torch.device("cpu"), seed=5), Signals(), 0.0)
    draws = Batches(bundle, phase.sampling, device="cpu", generator=torch.Generator().manual_seed(5))
    cast = CastBatches(stretch.batches, dtype)
    stretch.batches = cast
    ours, theirs = [], []
    edge = bundle.links[0].edge
    for step in range(STEPS):
        batch = cast.convert(draws.next(step))
        ours.append({k: v.item() for k, v in stretch._step(step).items()})
        l1, l2 = batch.links[edge]
        theirs.append({k: v.item() for k, v in slow.step(*batch.x.values(), l1, l2).items()})
    return ours, theirs


class CastBatches:
    def __init__(self, inner, dtype):
        self.inner, self.dtype = inner, dtype
        self.epoch_over = inner.epoch_over

    def convert(self, batch):
        from dataclasses import replace

        x = {k: v.to(self.dtype) for k, v in batch.x.items()}
        links = {k: (a.to(self.dtype), b.to(self.dtype)) for k, (a, b) in batch.links.items()}
        return replace(batch, x=x, links=links)

    def next(self, step):
        return self.convert(self.inner.next(step))


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 2e-3)], ids=["float64", "float32"]
)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_fifty_steps_equal_the_slow_reference(dtype, rtol, reduction):
    params = paper(n_hidden=32, batch_size=48, n_neighbors=6, mnn_reduction=reduction)
    ours, theirs = run_both(make_bundle(), params, dtype)
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.keys() == reference.keys()
        for term, value in reference.items():
            assert mine[term] == pytest.approx(value, rel=rtol, abs=rtol), term


def prepared(inputs, links, label, pairing):
    from mocli.tasks.prepare.load import load
    from mocli.tasks.prepare.plan import make_plan
    from mocli.tasks.run.options import DataOptions, TrainOptions
    from mocli.types import Task

    hvg = {"rna": 1000}  # the reference is slow
    options = DataOptions(inputs=inputs, links=[links], label_key=label, pairing=pairing, hvg=hvg)
    made = make_plan(options, TrainOptions(), Task.INTEGRATE, lambda _: None)
    return load(made, paper(), seed=0, say=lambda _: None, warn=lambda _: None).bundle


def assert_fifty_equal(bundle):
    # B = 64: the reference holds B x B x p
    ours, theirs = run_both(bundle, paper(batch_size=64, n_hidden=64), torch.float64)
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(reference, rel=1e-7, abs=1e-7)


def test_fifty_steps_on_the_demo_data(tmp_path):
    from mocli.data.demo import write_demo

    write_demo(tmp_path, n_cells=200, seed=0)
    inputs = [str(tmp_path / "rna.h5ad"), str(tmp_path / "prot.h5ad")]
    assert_fifty_equal(prepared(inputs, str(tmp_path / "rna-prot.tsv"), "cell_type", "auto"))


@pytest.mark.slow
@pytest.mark.real_data
def test_fifty_steps_on_real_cells(shared_data):
    inputs = [str(shared_data / "eccite_pbmc_49adt.h5mu")]
    links = str(shared_data / "eccite_pbmc_49adt.links.tsv")
    assert_fifty_equal(prepared(inputs, links, "cell_type_gated", "unpaired"))


def test_published_defaults():
    p = paper()
    weights = [p.weight_adversarial, p.weight_reconstruction, p.weight_cycle, p.weight_mnn, p.weight_geometry]
    assert weights == [1, 10, 10, 1, 10]
    assert (p.n_latent, p.n_hidden, p.batch_size, p.n_neighbors, p.critic_steps) == (20, 512, 500, 30, 5)
    assert (p.lr, p.beta1, p.beta2, p.weight_decay, p.clip_norm, p.init_sd) == (
        1e-3,
        0.9,
        0.999,
        1e-3,
        5,
        0.1,
    )
    model = Scmodal.from_bundle(make_bundle(), p)
    assert model.phases(Schedule("paper"), make_bundle())[0].max_steps == 10_000
    assert model.phases(Schedule("paper"), make_bundle())[0].plateau is None


def test_initial_weights_and_biases_have_the_authors_spread():
    torch.manual_seed(0)
    model = Scmodal.from_bundle(make_bundle(), ScmodalParams())
    every = torch.cat([w.flatten() for w in model.module.parameters()])
    assert every.std().item() == pytest.approx(0.1, rel=0.02)
    assert model.module.encoders[0].layers[0].bias.std().item() == pytest.approx(0.1, rel=0.15)


def test_cycle_and_reconstruction_by_hand_on_four_cells():
    torch.manual_seed(1)
    bundle = make_bundle(n=(4, 4), p=(5, 3), s=2)
    model = Scmodal.from_bundle(bundle, ScmodalParams(n_hidden=6, n_latent=2, batch_size=4))
    batch = Batches(
        bundle, model.phases(Schedule(), bundle)[0].sampling, device="cpu", generator=torch.Generator()
    ).next(0)
    terms = model.losses(model.prepare(batch), "generator").terms

    def mlp(module, x):
        w = [(m.weight.detach().numpy().astype(float), m.bias.detach().numpy()) for m in module.layers]
        return np.maximum(x @ w[0][0].T + w[0][1], 0) @ w[1][0].T + w[1][1]

    (e1, e2), (g1, g2) = model.module.encoders, model.module.decoders
    x1, x2 = (batch.x[m].numpy().astype(float) for m in ("rna", "prot"))
    z1, z2 = mlp(e1, x1), mlp(e2, x2)
    ae = ((mlp(g1, z1) - x1) ** 2).mean() + ((mlp(g2, z2) - x2) ** 2).mean()
    la = ((mlp(e2, mlp(g2, z1)) - z1) ** 2).mean() + ((mlp(e1, mlp(g1, z2)) - z2) ** 2).mean()
    assert terms["reconstruction"].item() == pytest.approx(ae, rel=1e-5)
    assert terms["cycle"].item() == pytest.approx(la, rel=1e-5)
