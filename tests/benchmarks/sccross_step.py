"""One scCross training step in each of its two stages, and the bare matrix products of each.

    python tests/benchmarks/sccross_step.py [--rounds 7] [--features 3000 20000] [--batch 128]

CPU seconds on one thread; contenders alternate in random order within each round. `generation` is the second
stage with critics of generated values. Prints a table and one JSON line. Targets: the second stage at most
2.5 times the first, both at most 1.7 times their products.
"""

import argparse
import statistics

import measure

measure.one_thread()

import numpy as np  # noqa: E402 - threads are set first
import torch  # noqa: E402
from matrix_products import Recorder, Replay, gflop  # noqa: E402
from scipy import sparse  # noqa: E402

from mocli.data.bundle import FeatureMatrix, LinkedFeatures, Modality, MultiOmics  # noqa: E402
from mocli.models.base import Schedule  # noqa: E402
from mocli.models.sccross.model import Sccross  # noqa: E402
from mocli.models.sccross.params import SccrossParams  # noqa: E402
from mocli.train.loop import Signals, Training, _Stretch  # noqa: E402
from mocli.types import ModalityKind, Pairing  # noqa: E402

torch.set_num_threads(1)
DENSITY = {"rna": 0.07, "atac": 0.02}
N_LINKS = 200


def make_bundle(widths, n_cells=2000):
    """Sparse counts of as many unpaired cells in each modality."""
    rng = np.random.default_rng(0)
    modalities, sides = {}, []
    for (name, density), p in zip(DENSITY.items(), widths, strict=True):
        x = sparse.random(n_cells, p, density, "csr", np.float32, rng, lambda size: rng.geometric(0.5, size))
        x = sparse.csr_matrix(x, dtype=np.float32)
        features = FeatureMatrix(x, tuple(map(str, range(p))))
        names = tuple(f"{name}{i}" for i in range(n_cells))
        totals = np.asarray(x.sum(1), np.float32).ravel()
        modalities[name] = Modality(name, ModalityKind(name), features, names, totals, "nb")
        linked = rng.normal(size=(n_cells, N_LINKS)).astype(np.float32)
        sides.append(FeatureMatrix(linked, tuple(map(str, range(N_LINKS)))))
    rows = np.full((2 * n_cells, 2), -1)
    rows[:n_cells, 0] = rows[n_cells:, 1] = np.arange(n_cells)
    link = LinkedFeatures("rna", "atac", *sides, tuple(map(str, range(N_LINKS))))
    return MultiOmics(modalities, rows, tuple(map(str, range(len(rows)))), Pairing.UNPAIRED, (link,))


def stretch_of(bundle, number, **settings):
    """The training loop's stretch of a stage, whose `_step(i)` is one step."""
    torch.manual_seed(0)
    model = Sccross.from_bundle(bundle, SccrossParams(validation_share=0.0, **settings))
    model.module.train()
    phase = model.phases(Schedule(), bundle)[number]
    return _Stretch(model, bundle, phase, Training(torch.device("cpu"), seed=0), Signals(), 0.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--features", type=int, nargs=2, default=[3000, 20_000], help="genes and peaks")
    parser.add_argument("--batch", type=int, default=128, help="cells of each modality in a minibatch")
    options = parser.parse_args()
    bundle = make_bundle(options.features)
    stages = {
        "first": stretch_of(bundle, 0, batch_size=options.batch),
        "second": stretch_of(bundle, 1, batch_size=options.batch),
        "generation": stretch_of(bundle, 1, batch_size=options.batch, weight_generation=1.0),
    }
    contenders = {name: (lambda stage=stage: stage._step(1), 3) for name, stage in stages.items()}
    products = {}
    for name in ("first", "second"):
        stages[name]._step(0)
        # products of a matrix and a vector are part of the likelihood
        with Recorder(unknown=("bmm", "baddbmm")) as recorder:
            stages[name]._step(1)
        products[name] = round(gflop(recorder.shapes()), 2)
        contenders[f"{name}_products"] = (Replay(recorder.seen), 3)
    seconds, _ = measure.alternate(contenders, rounds=options.rounds)
    row = {
        "features": "+".join(map(str, options.features)),
        **{f"{name}_ms": round(1e3 * statistics.median(s), 1) for name, s in seconds.items()},
        "second_over_first": measure.ratio(seconds["second"], seconds["first"]),
        "first_over_products": measure.ratio(seconds["first"], seconds["first_products"]),
        "second_over_products": measure.ratio(seconds["second"], seconds["second_products"]),
    }
    measure.show(f"One step, B = {options.batch}, one thread, CPU milliseconds", [row], list(row))
    print(f"  GFLOP of products: {products}")
    measure.emit("sccross_step", {"rounds": options.rounds, **row, "torch": torch.__version__})


if __name__ == "__main__":
    main()
