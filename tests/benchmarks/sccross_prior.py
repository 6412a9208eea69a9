"""scCross' prior for atlases: seconds and peak memory by metacells, and how they compare with all cells.

    python tests/benchmarks/sccross_prior.py [--cells 200000] [--compare 20000] [--features 100]

Two modalities of so many cells each, of 12 types, with linked features that differ by a shift and noise. Of
`--compare` cells the prior is made from all cells and from metacells: label transfer by the nearest cell
of the other modality and agreement of clusters with types (k-means, adjusted Rand index), both ways.
"""

import argparse
import time

import measure

measure.one_thread()

import numpy as np  # noqa: E402 - threads are set first
from sklearn.cluster import KMeans  # noqa: E402
from sklearn.metrics import adjusted_rand_score  # noqa: E402

from mocli.data.bundle import FeatureMatrix, LinkedFeatures  # noqa: E402
from mocli.models.registry import resolve, traits_of  # noqa: E402
from mocli.models.sccross.model import _of_edge  # noqa: E402
from mocli.nn.neighbors import knn  # noqa: E402

TYPES = 12


def make(n, p, seed):
    """Linked features of two modalities, `(n, p)` each, and types."""
    rng = np.random.default_rng(seed)
    profile = rng.normal(0, 1.0, (TYPES, p))
    sides, types = [], []
    for shift in (0.0, 0.7):
        kind = rng.integers(0, TYPES, n)
        state = rng.normal(0, 1, (n, 3)) @ rng.normal(0, 0.3, (3, p))
        sides.append((profile[kind] + state + shift + rng.normal(0, 1.5, (n, p))).astype(np.float32))
        types.append(kind)
    names = tuple(f"g{j}" for j in range(p))
    link = LinkedFeatures("rna", "atac", *(FeatureMatrix(x, names) for x in sides), names)
    return link, types


def run(link, n_metacells):
    params = resolve(traits_of("sccross"), {"n_metacells": n_metacells})
    begun = time.perf_counter()
    prior = _of_edge(link, {}, params, seed=0)
    return [z.numpy() for z in prior], time.perf_counter() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--compare", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=100)
    options = parser.parse_args()
    rows = []
    link, types = make(options.compare, options.features, 0)
    for way, n in (("all cells", options.compare), ("metacells", options.compare // 10)):
        (a, b), seconds = run(link, n)
        near = knn(a[:5000], b, 1)[1][:, 0]
        z = np.concatenate([a[:5000], b[:5000]])
        label = np.concatenate([types[0][:5000], types[1][:5000]])
        found = KMeans(TYPES, n_init=20, random_state=0).fit_predict(z)
        rows.append(
            {
                "prior": f"{options.compare:,} + {options.compare:,} cells, {way} ({n:,})",
                "seconds": round(seconds, 1),
                "label transfer": round(float((types[1][near] == types[0][:5000]).mean()), 4),
                "ARI": round(adjusted_rand_score(label, found), 4),
                "peak MB": round(measure.status_mb("VmHWM")),
            }
        )
    link, _ = make(options.cells, options.features, 1)
    _, seconds = run(link, 10_000)
    what = f"{options.cells:,} + {options.cells:,} cells, metacells (10,000)"
    rows.append({"prior": what, "seconds": round(seconds, 1), "peak MB": round(measure.status_mb("VmHWM"))})
    measure.show("the prior of scCross", rows, list(rows[0]))
    measure.emit("sccross_prior", {"rows": rows})


if __name__ == "__main__":
    main()
