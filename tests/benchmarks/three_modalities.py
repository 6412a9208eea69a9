"""A training step of a chain of three modalities against the two pairs it consists of.

    python tests/benchmarks/three_modalities.py [--rounds 7]

CPU seconds on one thread of the default recipe's step (50 principal components a modality, 2,000 genes
linked to peaks, 200 genes to proteins); contenders alternate. Target: the chain costs at most 1.6 times
the two pairs together.
"""

import argparse
import statistics

import measure

measure.one_thread()

import numpy as np  # noqa: E402 - threads are set first
from step_setup import loop_of  # noqa: E402

from mocli.data.bundle import FeatureMatrix, LinkedFeatures, Modality, MultiOmics  # noqa: E402
from mocli.models.scmodal.params import ScmodalParams  # noqa: E402
from mocli.types import ModalityKind, Pairing  # noqa: E402

N_CELLS, WIDTH = 5000, 50
LINKS = {("prot", "rna"): 200, ("rna", "atac"): 2000}


def dense(n, p, rng):
    """Standard normal features."""
    return FeatureMatrix(rng.normal(size=(n, p)).astype(np.float32), tuple(map(str, range(p))))


def bundle_of(edges):
    """The modalities of some edges, unpaired, averaged as the default asks for."""
    rng = np.random.default_rng(0)
    names = list(dict.fromkeys(name for edge in edges for name in edge))
    near = rng.integers(N_CELLS, size=(N_CELLS, 71))

    def averaged(p, weight):
        values = dense(N_CELLS, p, rng)
        return FeatureMatrix(values.values, values.names, neighbors=near, smoothing=weight)

    modalities = {
        name: Modality(
            name,
            ModalityKind(name),
            averaged(WIDTH, 0.5),
            tuple(f"{name}{i}" for i in range(N_CELLS)),
            np.ones(N_CELLS, np.float32),
        )
        for name in names
    }
    rows = np.full((len(names) * N_CELLS, len(names)), -1)
    for i in range(len(names)):
        rows[i * N_CELLS : (i + 1) * N_CELLS, i] = np.arange(N_CELLS)
    links = tuple(
        LinkedFeatures(a, b, averaged(n, 0.9), averaged(n, 0.9), tuple(map(str, range(n))))
        for (a, b), n in LINKS.items()
        if (a, b) in edges
    )
    return MultiOmics(modalities, rows, tuple(map(str, range(len(rows)))), Pairing.UNPAIRED, links)


def main():
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    loops = {
        name: loop_of(bundle_of(edges), ScmodalParams())[1]
        for name, edges in (
            ("prot-rna", [("prot", "rna")]),
            ("rna-atac", [("rna", "atac")]),
            ("chain", list(LINKS)),
        )
    }
    contenders = {name: (lambda loop=loop: loop._step(1), 3) for name, loop in loops.items()}
    seconds, _ = measure.alternate(contenders, rounds=rounds)
    found = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [
        c / (a + b)
        for a, b, c in zip(seconds["prot-rna"], seconds["rna-atac"], seconds["chain"], strict=True)
    ]
    print("CPU seconds a step:", {name: round(value, 4) for name, value in found.items()})
    print(f"chain over both pairs: {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")


if __name__ == "__main__":
    main()
