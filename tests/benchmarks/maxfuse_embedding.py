"""MaxFuse on arrays written by `beside_maxfuse.py`; runs in an environment of its own that has maxfuse.

python tests/benchmarks/maxfuse_embedding.py arrays.npz embedding.npz
"""

import sys
import warnings

import numpy as np

warnings.simplefilter("ignore")
import maxfuse  # noqa: E402 - its imports warn

source, target = sys.argv[1:3]
x = np.load(source)
shared = [x[f"shared{i}"] for i in (0, 1)]
active = [x[f"active{i}"] for i in (0, 1)]
rank = [int(min(a.shape[1] - 1, most)) for a, most in zip(active, (40, 15), strict=True)]
first = [int(min(s.shape[1] - 1, most)) for s, most in zip(shared, (25, 20), strict=True)]
np.random.seed(0)  # noqa: NPY002 - the package draws from the global generator
fusor = maxfuse.model.Fusor(
    shared_arr1=shared[0], shared_arr2=shared[1], active_arr1=active[0], active_arr2=active[1],
    labels1=None, labels2=None,
)  # fmt: skip
fusor.split_into_batches(max_outward_size=8000, matching_ratio=4, metacell_size=2, verbose=False)
fusor.construct_graphs(
    n_neighbors1=15, n_neighbors2=15, svd_components1=rank[0], svd_components2=rank[1],
    resolution1=2, resolution2=2, resolution_tol=0.1, verbose=False,
)  # fmt: skip
fusor.find_initial_pivots(wt1=0.3, wt2=0.3, svd_components1=first[0], svd_components2=first[1])
fusor.refine_pivots(
    wt1=0.3, wt2=0.3, svd_components1=rank[0], svd_components2=None,
    cca_components=min(20, *rank), n_iters=3, randomized_svd=False, svd_runs=1, verbose=False,
)  # fmt: skip
fusor.filter_bad_matches(target="pivot", filter_prop=0.3)
fusor.propagate(wt1=0.7, wt2=0.7)
fusor.filter_bad_matches(target="propagated", filter_prop=0)
z = fusor.get_embedding(active_arr1=fusor.active_arr1, active_arr2=fusor.active_arr2)
np.savez(target, z0=np.asarray(z[0], np.float32), z1=np.asarray(z[1], np.float32))
