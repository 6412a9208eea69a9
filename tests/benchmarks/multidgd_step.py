"""One multiDGD training step: mocli's, the same through dense autograd, and the bare matrix products.

    python tests/benchmarks/multidgd_step.py [--rounds 7] [--features 3000 20000] [--penalty 0]

`dense` is the published way: counts as a dense matrix, the likelihood's lgamma through autograd, a second
pass over all weights for the L1 penalty where one is asked for. Both step the same model with the same
optimisers. CPU seconds on one thread; contenders alternate in random order within each round. The losses
must first agree. Prints a table and one JSON line. Targets: at least 4 times less than dense, at most
1.7 times the products.
"""

import argparse
import statistics

import measure

measure.one_thread()

import numpy as np  # noqa: E402 - threads are set first
import torch  # noqa: E402
from matrix_products import Recorder, Replay, gflop  # noqa: E402
from scipy import sparse  # noqa: E402

from mocli.data.bundle import Codes, FeatureMatrix, Modality, MultiOmics  # noqa: E402
from mocli.models.base import Losses, Schedule  # noqa: E402
from mocli.models.multidgd.model import MultiDGD  # noqa: E402
from mocli.models.multidgd.params import PRESETS, MultiDGDParams  # noqa: E402
from mocli.train.loop import Signals, Training, _Stretch  # noqa: E402
from mocli.types import ModalityKind, Pairing  # noqa: E402

torch.set_num_threads(1)
DENSITY = {"rna": 0.07, "atac": 0.02}
EPSILON = 1e-10


def make_bundle(widths, n_cells=2000):
    """Sparse counts of as many cells, two batches."""
    rng = np.random.default_rng(0)
    modalities = {}
    for (name, density), p in zip(DENSITY.items(), widths, strict=True):
        x = sparse.random(n_cells, p, density, "csr", np.float32, rng, lambda size: rng.geometric(0.5, size))
        x = sparse.csr_matrix(x, dtype=np.float32)
        features = FeatureMatrix(x, tuple(map(str, range(p))))
        totals = np.asarray(x.sum(1), np.float32).ravel()
        names = tuple(map(str, range(n_cells)))
        modalities[name] = Modality(name, ModalityKind(name), features, names, totals, "nb")
    cells = np.arange(n_cells)
    return MultiOmics(
        modalities,
        np.stack([cells, cells], 1),
        tuple(map(str, cells)),
        Pairing.PAIRED,
        batch=Codes("batch", cells % 2, ("a", "b")),
    )


class Dense(MultiDGD):
    """The same model with its likelihood written out on dense counts."""

    def losses(self, prepared, group):
        net, total = self.module, 0
        shared = net.hidden(prepared.z, prepared.c, None)
        for name in net.names:
            branch, x = net.branch(name), prepared.batch.values(name).dense
            r = torch.exp(branch.log_dispersion)
            mean = torch.softmax(branch(shared), 1) * x.sum(1, keepdim=True)
            log = torch.lgamma(x + r) - torch.lgamma(r) - torch.lgamma(x + 1)
            log = log + x * torch.log(mean / (r + mean + EPSILON) + EPSILON)
            log = log + r * torch.log(r / (r + mean + EPSILON))
            total = total - log.sum()
        terms = {"reconstruction": total / len(prepared.z)}
        total = total + net.mixture_loss(prepared) + net.covariate_loss(prepared) + net.prior_loss()
        if self.params.weight_l1:
            total = total + self.params.weight_l1 * net.l1()
        return Losses(terms, total)


def stretch_of(bundle, kind, penalty):
    """The training loop's stretch, whose `_step(i)` is one step."""
    torch.manual_seed(0)
    settings = PRESETS["paper"] | {"n_components": 22, "weight_l1": penalty, "validation_share": 0.0}
    model = kind.from_bundle(bundle, MultiDGDParams(**settings))
    model.module.train()
    phase = model.phases(Schedule(max_steps=10_000), bundle)[0]
    return _Stretch(model, bundle, phase, Training(torch.device("cpu"), seed=0), Signals(), 0.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--features", type=int, nargs=2, default=[3000, 20_000], help="genes and peaks")
    parser.add_argument("--penalty", type=float, default=0.0, help="weight of the L1 penalty")
    options = parser.parse_args()
    bundle = make_bundle(options.features)
    ours, dense = (stretch_of(bundle, kind, options.penalty) for kind in (MultiDGD, Dense))
    difference = abs(ours._step(0)["reconstruction"].item() / dense._step(0)["reconstruction"].item() - 1)
    assert difference < 1e-4, difference
    # products of a matrix and a vector are part of the likelihood
    with Recorder(unknown=("bmm", "baddbmm")) as recorder:
        ours._step(1)
    contenders = {
        "sparse": (lambda: ours._step(1), 5),
        "dense": (lambda: dense._step(1), 2),
        "products": (Replay(recorder.seen), 5),
    }
    seconds, _ = measure.alternate(contenders, rounds=options.rounds)
    row = {
        "features": "+".join(map(str, options.features)),
        **{f"{name}_ms": round(1e3 * statistics.median(s), 1) for name, s in seconds.items()},
        "dense_over_sparse": measure.ratio(seconds["dense"], seconds["sparse"]),
        "sparse_over_products": measure.ratio(seconds["sparse"], seconds["products"]),
    }
    measure.show("One step, B = 128, one thread, CPU milliseconds", [row], list(row))
    print(f"  GFLOP of products: {gflop(recorder.shapes()):.2f}; losses differ by {difference:.1e}")
    measure.emit("multidgd_step", {"rounds": options.rounds, **row, "torch": torch.__version__})


if __name__ == "__main__":
    main()
