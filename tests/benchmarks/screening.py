"""Exact neighbours by candidates of float32, beside the search in float64 alone: seconds, and equality.

python tests/benchmarks/screening.py [--queries 1000] [--reference 20000]

One thread; the shapes of data are those between which the two ways differ most: spread, in types, and types
that are thousands of times farther apart than their cells, where float32 cannot tell neighbours apart.
"""

import argparse
import time

import numpy as np
import torch
from measure import emit, show

from mocli.nn.neighbors import rows_per_tile
from mocli.nn.screening import Points, distances_between, nearest_points, smallest


def data(shape, n, d, rng):
    """Return cells, `(n, d)`."""
    centre = 3 * rng.normal(size=(12, d))[rng.integers(0, 12, n)]
    within = rng.normal(size=(n, d))
    return {"spread": within, "types": centre + within, "far types": 100 * centre + 0.01 * within}[shape]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--reference", type=int, default=20_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for shape in ("spread", "types", "far types"):
        x = torch.as_tensor(data(shape, options.reference, 20, np.random.default_rng(0)).astype("f4"))
        q, r = Points.of(x[: options.queries].double(), x.double())
        tiles = torch.arange(options.queries).split(rows_per_tile(r.exact))
        for k in (15, 300):
            begun = time.process_time()
            ours = [nearest_points(q.take(tile), r, k) for tile in tiles]
            between = time.process_time()
            plain = [smallest(distances_between(q.exact[tile], r.exact), k) for tile in tiles]
            seconds = between - begun, time.process_time() - between
            same = all(
                torch.equal(a, b)
                for one, other in zip(ours, plain, strict=True)
                for a, b in zip(one, other, strict=True)
            )
            row = {"data": shape, "k": k, "s": seconds[0], "float64 s": seconds[1], "same": same}
            rows.append(row | {"ratio": round(seconds[1] / seconds[0], 2)})
    show(f"{options.queries:,} of {options.reference:,} cells, 20 dimensions", rows, list(rows[0]))
    emit("screening", {**vars(options), "rows": rows})


if __name__ == "__main__":
    main()
