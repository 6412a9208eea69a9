"""Approximate mutual neighbours as the published package finds them: ten random-projection trees.

Uses annoy where it can be imported. Else a small forest of the same kind in numpy,
which searches whole leaves for all queries at once and is faster than annoy at these
sizes, so that the comparison does not gain from it.
"""

import numpy as np

try:
    from annoy import AnnoyIndex
except ImportError:
    AnnoyIndex = None

N_TREES = 10
LIBRARY = "annoy" if AnnoyIndex else "a forest in numpy (annoy is not installed)"


def mutual_pairs(a, b, k):
    """Pairs (i, j), `(n_pairs, 2)`, each among the k approximate neighbours of the other."""
    search = _annoy if AnnoyIndex else _forest
    forward, backward = search(b, a, k), search(a, b, k)
    back = [set(found) for found in backward]
    pairs = [(i, j) for i, found in enumerate(forward) for j in found if i in back[j]]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _annoy(reference, query, k):
    index = AnnoyIndex(reference.shape[1], "angular")
    index.set_seed(0)
    for i, row in enumerate(reference):
        index.add_item(i, row)
    index.build(N_TREES, n_jobs=1)
    return [index.get_nns_by_vector(row, k) for row in query]


def _forest(reference, query, k, seed=0):
    rng = np.random.default_rng(seed)
    reference, query = (
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (reference, query)
    )
    candidate = np.zeros((len(query), len(reference)), dtype=bool)
    for _ in range(N_TREES):
        _descend(reference, query, np.arange(len(reference)), np.arange(len(query)), (k, rng, candidate))
    similarity = np.where(candidate, query @ reference.T, -np.inf)
    nearest = np.argsort(-similarity, axis=1)[:, :k]
    return [row[candidate[i, row]].tolist() for i, row in enumerate(nearest)]


def _descend(reference, query, rows, asked, common):
    k, rng, candidate = common
    if len(rows) <= 2 * k or not len(asked):
        candidate[np.ix_(asked, rows)] = True
        return
    first, second = reference[rng.choice(rows, 2, replace=False)]
    plane = first - second
    side = reference[rows] @ plane
    cut = np.median(side)
    right = query[asked] @ plane > cut
    order = np.argsort(side, kind="stable")
    half = len(rows) // 2
    _descend(reference, query, rows[order[:half]], asked[~right], common)
    _descend(reference, query, rows[order[half:]], asked[right], common)
