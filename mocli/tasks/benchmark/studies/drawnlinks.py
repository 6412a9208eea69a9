"""Links for studies: of some features only, drawn at random or the most informative, and wrong ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mocli.data.batches import dense_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mocli.data.bundle import FeatureMatrix, LinkedFeatures, MultiOmics
    from mocli.data.links.edges import EdgeLinks
    from mocli.types import DoubleArray, IntArray

LEADING = 10
"""Number of principal components; without labels, a feature is worth the share of its variance in these."""


def informative(bundle: MultiOmics, link: LinkedFeatures) -> dict[str, float]:
    """Return how informative each linked feature is, from 0 to 1, the mean of both modalities.

    With labels the share of its variance that lies between them (eta squared), as panels are chosen to tell
    types apart; without labels the share that the leading principal components hold.
    """
    sides = [(link.source, link.source_features), (link.target, link.target_features)]
    shares = [_told(features, bundle.codes_of(bundle.label, name)) for name, features in sides]
    return dict(zip(link.names, map(float, np.mean(shares, axis=0)), strict=True))


def _told(features: FeatureMatrix, labels: IntArray | None) -> DoubleArray:
    x = dense_rows(features, np.arange(features.n_obs)).astype(np.float64)
    if labels is not None:
        x, labels = x[labels >= 0], labels[labels >= 0]
    x -= x.mean(0)
    total = np.maximum((x**2).sum(0), 1e-12)
    if labels is None:
        _, vectors = np.linalg.eigh(x.T @ x)
        projected = x @ vectors[:, -LEADING:]
        share: DoubleArray = ((projected @ vectors[:, -LEADING:].T) ** 2).sum(0) / total
        return share
    member = np.eye(int(labels.max(initial=0)) + 1)[labels]
    sums, sizes = member.T @ x, np.maximum(member.sum(0), 1)[:, None]
    between: DoubleArray = (sums**2 / sizes).sum(0) / total
    return between


def told_apart(edge: EdgeLinks) -> bool:
    """Say whether the name of every linked feature identifies it: no earlier feature has the name."""
    for names, index in ((edge.source_names, edge.source_index), (edge.target_names, edge.target_index)):
        first = {name: k for k, name in reversed(list(enumerate(names)))}
        if any(first[names[k]] != k for k in index):
            return False
    return True


def fewer(
    edge: EdgeLinks, n: int, seed: int, *, by_name: bool = True, worth: Mapping[str, float] | None = None
) -> list[str]:
    """Return the links of n of the linked features: drawn at random, or those of most worth."""
    names, columns = edge.target_names, edge.target_index
    if len(np.unique(edge.target_index)) >= len(np.unique(edge.source_index)):
        names, columns = edge.source_names, edge.source_index
    features = np.unique(columns)
    n = min(n, len(features))
    if worth is None:
        drawn = np.random.default_rng(seed).choice(features, n, replace=False)
    else:
        order = np.argsort([-worth.get(names[k], 0.0) for k in features], kind="stable")
        drawn = features[order[:n]]
    rows = np.flatnonzero(np.isin(columns, drawn))
    return list(_rows(edge, rows, edge.target_index, by_name=by_name))


def wrong(edge: EdgeLinks, share: float, seed: int, *, by_name: bool = True) -> list[str]:
    """Return all links, that share of which has the target of another link."""
    rng = np.random.default_rng(seed)
    n = len(edge.weight)
    chosen = rng.choice(n, max(2, round(share * n)), replace=False) if n > 1 else np.arange(0)
    target = edge.target_index.copy()
    # in the order of targets, and moved by the longest run of one: none meets its own again, unless one
    # target has more than half of them
    chosen = chosen[np.argsort(target[chosen], kind="stable")]
    longest = int(np.unique(target[chosen], return_counts=True)[1].max(initial=0))
    target[chosen] = np.roll(target[chosen], longest)
    pairs = np.stack([edge.source_index, target], axis=1)
    _, first = np.unique(pairs, axis=0, return_index=True)
    return list(_rows(edge, np.sort(first), target, by_name=by_name))


def _rows(edge: EdgeLinks, numbers: IntArray, target: IntArray, *, by_name: bool) -> Iterator[str]:
    for i in numbers:
        source, other = edge.source_index[i], target[i]
        one, two = (edge.source_names[source], edge.target_names[other]) if by_name else (source, other)
        yield f"{edge.source}\t{one}\t{edge.target}\t{two}\t{edge.weight[i]:.6g}\t{edge.sign[i]:.0f}"
