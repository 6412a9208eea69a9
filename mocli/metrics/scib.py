"""scIB totals: batch removal, conservation of biology, and both in one number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mocli.metrics.clusters import ARI_BOUNDS, ari_best, nmi_best
from mocli.metrics.graph import graph_connectivity
from mocli.metrics.isolated import silhouette_isolated
from mocli.metrics.registry import Score, metric
from mocli.metrics.silhouette import silhouette_batch, silhouette_label, silhouette_modality

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mocli.metrics.embedding import Embedding
    from mocli.metrics.registry import Metric

BATCH, BIO = 0.4, 0.6

_OF_BATCH = (
    "graph connectivity, batch silhouette within labels and, where there are several modalities that share "
    "labels, modality silhouette within labels"
)
_OF_BIO = (
    "ARI and NMI of Louvain clusters at the best resolution, rescaled label silhouette and, where there are "
    "batches, silhouette of isolated labels"
)
_LOWEST = ARI_BOUNDS[0] / 3  # of the bio total, all else being 0
_WHERE = "scIB, Nat Methods 2022; Multigrate, evaluation (its choice of metrics)"


@metric(
    name="scib_batch",
    title="scIB batch total",
    better="higher",
    bounds=(0.0, 1.0),
    needs={"batches", "label"},
    sentence="How well batches are removed inside each cell type, several metrics in one; 1 is best.",
    definition=f"Mean of {_OF_BATCH}. kBET and iLISI are not part of it.",
    section=_WHERE,
    headline=2,
    aspect="total",
)
def scib_batch(e: Embedding) -> Iterable[Score]:
    """Average the metrics of batch removal."""
    yield Score(_batch(e), _n(e))


@metric(
    name="scib_bio",
    title="scIB bio total",
    better="higher",
    bounds=(_LOWEST, 1.0),
    needs={"label"},
    sentence="How well cell types are kept, several metrics in one; 1 is best.",
    definition=f"Mean of {_OF_BIO}.",
    section=_WHERE,
    headline=3,
    aspect="total",
)
def scib_bio(e: Embedding) -> Iterable[Score]:
    """Average the metrics of biology."""
    yield Score(_bio(e), _n(e))


@metric(
    name="scib_total",
    title="scIB total",
    better="higher",
    bounds=(BIO * _LOWEST, 1.0),
    needs={"batches", "label"},
    sentence="Batch removal and conservation of cell types in one number; 1 is best. Compare methods on the "
    "same data with it.",
    definition="0.4 scIB batch total + 0.6 scIB bio total. "
    f"Batch: mean of {_OF_BATCH}. Bio: mean of {_OF_BIO}.",
    section=_WHERE,
    headline=1,
    aspect="total",
)
def scib_total(e: Embedding) -> Iterable[Score]:
    """Weigh both totals."""
    yield Score(BATCH * _batch(e) + BIO * _bio(e), _n(e))


def _batch(e: Embedding) -> float:
    return _mean(e, [graph_connectivity, silhouette_batch], [silhouette_modality])


def _bio(e: Embedding) -> float:
    return _mean(e, [ari_best, nmi_best, silhouette_label], [silhouette_isolated])


def _mean(e: Embedding, required: Sequence[Metric], where_defined: Sequence[Metric]) -> float:
    values = [m(e)[0].value for m in required]
    values += [v for m in where_defined if m.applies_to(e) and not math.isnan(v := m(e)[0].value)]
    return math.fsum(values) / len(values)


def _n(e: Embedding) -> int:
    return graph_connectivity(e)[0].n
