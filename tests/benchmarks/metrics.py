"""Seconds of every metric, in one run as `mocli integrate` makes it: what is shared is computed once.

python tests/benchmarks/metrics.py [--cells 6000] [--dimensions 20] [--labels 20] [--threads 2]

Two modalities of so many cells each, all paired, three batches, linked and own features. Neighbours,
graph and clusters are computed by the first metric that needs them and named apart; the rest is what
each metric adds.
"""

import argparse
import os
import time

import numpy as np

from mocli.metrics.embedding import Embedding


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=6000, help="of each modality")
    parser.add_argument("--dimensions", type=int, default=20)
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    import torch
    from measure import emit, show, status_mb

    from mocli.metrics.clusters import RESOLUTIONS, louvain
    from mocli.metrics.embedding import neighbor_graph
    from mocli.metrics.registry import available_metrics

    torch.set_num_threads(options.threads)
    e = embedding(options)
    before = status_mb("VmHWM")
    shared = {
        "neighbours": lambda: e.neighbors,
        "neighbour graph": lambda: neighbor_graph(e),
        "clusters": lambda: [louvain(e, resolution) for resolution in RESOLUTIONS],
    }
    metrics = {name: lambda one=one: one(e) for name, one in available_metrics().items()}
    rows, begun = [], time.perf_counter()
    for name, compute in (shared | metrics).items():
        wall, cpu = time.perf_counter(), time.process_time()
        found = compute()
        row = {"what": name, "wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        row |= {k: round(v, 3) for k, v in row.items() if k != "what"}
        rows.append(row | ({"value": f"{found[0].value:.3f}"} if name in metrics else {}))
    total = round(time.perf_counter() - begun, 1)
    title = f"{options.cells:,} + {options.cells:,} cells in {options.dimensions} dimensions"
    show(f"{title}: {total} s in all", rows, ["what", "wall_s", "cpu_s", "value"])
    peak = round(status_mb("VmHWM") - before)
    seconds = {row["what"]: row["wall_s"] for row in rows}
    emit("metrics", {**vars(options), "total_s": total, "peak_mb_above_start": peak, "wall_s": seconds})


def embedding(options):
    """Cells of so many types, half mixed between modalities and batches."""
    rng = np.random.default_rng(0)
    n, d = options.cells, options.dimensions
    label = rng.choice(options.labels, n, p=rng.dirichlet(np.full(options.labels, 3.0)))
    batch = rng.integers(0, 3, n)
    truth = rng.normal(size=(options.labels, d))[label] * 1.2 + rng.normal(size=(n, d))
    shift = rng.normal(size=(2, 3, d)) * 0.3
    z = {
        m: (truth + 0.5 * rng.normal(size=(n, d)) + shift[i][batch]).astype("f4")
        for i, m in enumerate(("rna", "prot"))
    }
    own = (truth @ rng.normal(size=(d, 50)) + rng.normal(size=(n, 50))).astype("f4")
    linked = own[:, : min(50, 2 * d)]
    names = tuple(f"link{i}" for i in range(linked.shape[1]))
    return Embedding(
        z=z,
        label=dict.fromkeys(z, label),
        batch=dict.fromkeys(z, batch),
        pairs={("rna", "prot"): np.stack([np.arange(n)] * 2, axis=1)},
        linked={("rna", "prot"): (linked, linked, names)},
        own={m: (np.arange(n), own) for m in z},
    )


if __name__ == "__main__":
    main()
