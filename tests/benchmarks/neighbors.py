"""Nearest neighbours in n log n beside the exact search: seconds and recall.

python tests/benchmarks/neighbors.py [--cells 50000] [--dimensions 30] [--neighbors 100] [--threads 2]

Cells of 20 types with spreads that fall from dimension to dimension, as principal components do. The
exact search is timed on 300 cells and scaled up.
"""

import argparse
import time

import numpy as np


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--dimensions", type=int, default=30)
    parser.add_argument("--neighbors", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    import torch
    from measure import emit, show

    from mocli.nn.nearby import nearby
    from mocli.nn.neighbors import knn

    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(1)
    n, d, k = options.cells, options.dimensions, options.neighbors
    kind = rng.integers(0, 20, n)
    x = rng.normal(size=(20, d))[kind] * 1.5 + rng.normal(size=(n, d)) * np.linspace(1, 0.2, d)
    x = x.astype("f4")
    rows = []
    for metric in ("euclidean", "cosine"):
        begun = time.perf_counter()
        found = nearby(x, x, k, metric=metric)[1]
        took = time.perf_counter() - begun
        asked = np.random.default_rng(5).choice(n, 300, replace=False)
        begun = time.perf_counter()
        exact = knn(x[asked], x, k, metric=metric)[1]
        whole = (time.perf_counter() - begun) * n / 300
        pairs = zip(found[asked], exact, strict=True)
        recall = float(np.mean([len(np.intersect1d(a, b)) / k for a, b in pairs]))
        row = {"metric": metric, "seconds": took, "exact_s": whole, "ratio": whole / took, "recall": recall}
        rows.append({key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()})
    show(f"{n:,} cells, {k} neighbours", rows, ["metric", "seconds", "exact_s", "ratio", "recall"])
    emit("neighbors", {**vars(options), "rows": rows})


if __name__ == "__main__":
    main()
