"""The input of metrics: coordinates of cells, what is known about them, and shared computations.

Every metric is invariant to shifting and scaling the latent, so
`Embedding` hands out coordinates whose squares neither overflow nor vanish.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from mocli.metrics.registry import Scored
from mocli.nn.nearby import nearby, nearby_blocks
from mocli.nn.neighbors import chunks, others_than, without_self
from mocli.types import CSR, BoolArray, FloatArray, IntArray, RowNumbers

Edge = tuple[str, str]
Linked = tuple[FloatArray, FloatArray, tuple[str, ...]]
Own = tuple[IntArray, FloatArray]

MAX_NEIGHBORS = 300  # the neighbourhood of the mixing metric
NEAR = 90  # those whose distances are kept: thrice the perplexity of LISI
ACROSS = 15  # neighbours in the other modality
NEIGHBORS = 15  # of a cell in the k-NN graph
MAX_CELLS = 20_000  # metrics that average over cells draw this many


@dataclass(frozen=True, eq=False)
class Embedding(Scored):
    """A latent space and what is known about its cells.

    Attributes:
        z: Latent of each modality, `(n_m, d)`, rows in file order.
        label: Codes of each modality, `(n_m,)`, -1 unknown; a modality may be missing.
        label_levels: What the codes mean.
        batch: Codes of each modality, `(n_m,)`, -1 unknown.
        pairs: For modalities (a, b) the rows of the same cell in both, `(n_pairs, 2)`.
        linked: For modalities (a, b) the dense linked features `(n_a, s)`, `(n_b, s)` and their names.
        own: For a modality some of its rows `(m,)`, and the coordinates `(m, c)` of these cells by their
            measured features alone, before any correction (principal components).
        seed: Random seed of the metrics that draw cells.
        device: Torch device on which neighbours and distances are computed.
    """

    z: Mapping[str, FloatArray]
    label: Mapping[str, IntArray] | None = None
    label_levels: tuple[str, ...] = ()
    batch: Mapping[str, IntArray] | None = None
    pairs: Mapping[Edge, IntArray] | None = None
    linked: Mapping[Edge, Linked] | None = None
    own: Mapping[str, Own] | None = None
    seed: int = 0
    device: str = "cpu"

    kind = "embedding"

    def __post_init__(self) -> None:
        widths = {np.shape(z)[1:] for z in self.z.values()}
        if len(widths) != 1 or len(next(iter(widths))) != 1:
            raise ValueError(f"modalities must share one latent, got row shapes {sorted(widths)}")
        for codes in (self.label or {}, self.batch or {}):
            for name, values in codes.items():
                if len(values) != len(self.z[name]):
                    raise ValueError(f"{len(values)} codes for {len(self.z[name])} cells of '{name}'")
        for (a, b), (x, y, _) in (self.linked or {}).items():
            if (len(x), len(y)) != (len(self.z[a]), len(self.z[b])) or x.shape[1] != y.shape[1]:
                raise ValueError(f"linked features of {a} and {b} have shapes {x.shape} and {y.shape}")
        for name, (cells, places) in (self.own or {}).items():
            if len(cells) != len(places) or np.max(cells, initial=-1) >= len(self.z[name]):
                raise ValueError(f"{len(places)} own coordinates of {len(cells)} rows of '{name}' do not fit")

    def holds(self, need: str) -> bool:
        """Whether there are two `modalities` or `batches`, a `label`, `pairs`, `linked` or `own` features."""
        if need == "modalities":
            return len(self.z) > 1
        if need == "batches":
            return len(np.unique(self.joint_batch)) > 1
        return bool(getattr(self, need))

    @property
    def n(self) -> int:
        """Rows of `joint`."""
        return len(self.joint)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names, in the order in which `joint` stacks them."""
        return tuple(self.z)

    @cached_property
    def finite(self) -> bool:
        """Whether no coordinate is NaN or infinite."""
        return all(bool(np.isfinite(z).all()) for z in self.z.values())

    @cached_property
    def degenerate(self) -> bool:
        """Whether the latent holds no geometry: not finite, no cell, or all cells at one point."""
        return not self.finite or len(self.joint) == 0 or bool((self.joint == self.joint[0]).all())

    @cached_property
    def joint(self) -> FloatArray:
        """All cells, modality after modality, `(n, d)`, scaled by a power of two to at most 1.

        Zero where the latent is not finite: the scores are then void anyway.
        """
        stacked = np.concatenate([np.asarray(z) for z in self.z.values()])
        if not self.finite:
            return np.zeros(stacked.shape, np.float32)
        peak = float(np.abs(stacked).max(initial=0.0))
        # exact: ties stay ties; in place, as there may be very many cells
        np.ldexp(stacked, -math.frexp(peak)[1], out=stacked)
        return stacked.astype(np.float32, copy=False)

    @cached_property
    def modality_codes(self) -> IntArray:
        """Number of the modality of every row of `joint`, `(n,)`."""
        return np.repeat(np.arange(len(self.z)), [len(z) for z in self.z.values()])

    @cached_property
    def joint_label(self) -> IntArray:
        """Label code of every row of `joint`, -1 unknown, `(n,)`."""
        label = self.label or {}
        parts = [np.asarray(label.get(m, np.full(len(z), -1))) for m, z in self.z.items()]
        return np.concatenate(parts).astype(np.int64)

    @cached_property
    def joint_batch(self) -> IntArray:
        """Batch code of every row of `joint`, -1 unknown, `(n,)`."""
        batch = self.batch or {}
        parts = [np.asarray(batch.get(m, np.full(len(z), -1))) for m, z in self.z.items()]
        return np.concatenate(parts).astype(np.int64)

    def rows(self, modality: str) -> FloatArray:
        """Coordinates of one modality, `(n_m, d)`, on the scale of `joint`."""
        return self.joint[self.modality_codes == self.modalities.index(modality)]

    def search(self, query: FloatArray, reference: FloatArray, k: int) -> IntArray:
        """Rows of the reference nearest to each query, `(n_query, k)`, as `nearby` finds them."""
        return nearby(query, reference, k, device=self.device)[1]

    def nearest_known(self, giver: str, receiver: str) -> tuple[IntArray, IntArray]:
        """Receiving cells of known label (all, or `MAX_CELLS` drawn) and the nearest giving cell of each.

        Rows of both modalities, `(m,)` each; the second is empty if no cell can give.
        """
        to, nearest = self.nearby_known(giver, receiver)
        return to, nearest[:, 0] if nearest.shape[1] else nearest.ravel()

    def nearby_known(self, giver: str, receiver: str) -> tuple[IntArray, IntArray]:
        """As `nearest_known`, with the 15 nearest (all, if fewer): `(m,)` and `(m, k)`."""
        label = self.label or {}
        to, givers = (np.flatnonzero(np.asarray(label[m]) >= 0) for m in (receiver, giver))
        if len(givers) and (len(to), len(givers)) == (len(self.z[receiver]), len(self.z[giver])):
            return self.across(receiver, giver)
        to = self.draw(to)
        if not len(givers):
            return to, np.zeros((len(to), 0), np.int64)

        def find() -> IntArray:
            return self.search(self.rows(receiver)[to], self.rows(giver)[givers], ACROSS)

        return to, givers[self.share(("nearest known", giver, receiver), find)]

    def across(self, asking: str, searched: str) -> tuple[IntArray, IntArray]:
        """Return cells of one modality (all, or `MAX_CELLS` drawn) and their 15 nearest cells of another.

        Rows of the two modalities, `(m,)` and `(m, k)`, nearest first, k = 15 or all cells if fewer.
        """
        cells = self.draw(np.arange(len(self.z[asking])))

        def find() -> IntArray:
            return self.search(self.rows(asking)[cells], self.rows(searched), ACROSS)

        return cells, self.share(("across", asking, searched), find)

    def draw(self, candidates: IntArray) -> IntArray:
        """Return at most `MAX_CELLS` of the rows, drawn once per seed, in ascending order."""
        if len(candidates) <= MAX_CELLS:
            return candidates
        chosen = np.random.default_rng(self.seed).choice(candidates, MAX_CELLS, replace=False)
        return cast("IntArray", np.sort(chosen))

    @cached_property
    def neighbors(self) -> tuple[IntArray, NDArray[np.int32]]:
        """Rows of `joint` (all, or `MAX_CELLS` drawn) and their nearest other cells of all modalities.

        `(m,)` and `(m, k)`, nearest first, with k = 300 or n - 1 if that is less.
        """
        return self._around[:2]

    @property
    def near_distances(self) -> FloatArray:
        """Distances to the first 90 (all, if fewer) of the neighbours, `(m, <= 90)`."""
        return self._around[2]

    @cached_property
    def _around(self) -> tuple[IntArray, NDArray[np.int32], FloatArray]:
        n = len(self.joint)
        cells = self.draw(np.arange(n))
        k = max(0, min(MAX_NEIGHBORS, n - 1))
        neighbors = np.empty((len(cells), k), np.int32)
        distances = np.empty((len(cells), min(k, NEAR)), np.float32)
        for rows, near, at in nearby_blocks(self.joint[cells], self.joint, k + 1, device=self.device):
            others = others_than(at, cells[rows])
            shape = len(at), k
            neighbors[rows] = at[others].reshape(shape)
            distances[rows] = near[others].reshape(shape)[:, :NEAR]
        return cells, neighbors, distances


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest cells of every cell, found once and shared.

    They are kept in the order of coordinates, so that the same coordinates have the same neighbours,
    whatever the order of the cells.

    Attributes:
        order: Rows of the cells in that order, `(n,)`.
        places: Coordinates, `(n, d)`.
        distances, neighbors: Distances and positions, each cell itself among them: `(n, k + 1)`, k = 15 or n
            - 1 if that is less.
    """

    order: IntArray
    places: FloatArray
    distances: FloatArray
    neighbors: RowNumbers

    @classmethod
    def of(cls, z: FloatArray, *, device: str = "cpu") -> Nearest:
        """Search for the neighbours of cells at coordinates `(n, d)`."""
        places = np.asarray(z, np.float32) if np.isfinite(z).all() else np.zeros(z.shape, np.float32)
        order, exponent = _by_coordinates(places), math.frexp(float(np.abs(places).max(initial=0.0)))[1]
        places = places[order]
        scaled = np.ldexp(places, -exponent)  # exact, and squares neither overflow nor vanish
        if not len(places):
            return cls(order, places, np.zeros((0, 1), np.float32), np.zeros((0, 1), np.int32))
        distances, neighbors = nearby(scaled, scaled, min(NEIGHBORS + 1, len(places)), device=device)
        # held to the end of a run, so in as few bytes as do
        return cls(order, places, np.ldexp(distances, exponent), neighbors.astype(np.int32))

    def among(self, z: FloatArray) -> Nearest | None:
        """Return the same for cells in another order, at coordinates `(n, d)`; None if these differ."""
        order = _by_coordinates(z)
        return replace(self, order=order) if np.array_equal(z[order], self.places) else None

    def joined(self) -> CSR:
        """The symmetric graph of 0 and 1, in the order of coordinates, `(n, n)`."""
        return joined(without_self(self.neighbors, np.arange(len(self.neighbors))))


def _by_coordinates(z: FloatArray) -> IntArray:
    """Return the positions that sort rows by coordinate."""
    return np.lexsort(z.T[::-1]) if z.shape[1] else np.arange(len(z))


def neighbor_graph(e: Embedding) -> tuple[IntArray, CSR]:
    """Return cells (all, or `MAX_CELLS` drawn) and their k-NN graph.

    Returns:
        Rows of the joint latent, `(m,)`, in an order that depends on the coordinates alone (as what follows
        may depend on it), and the symmetric graph of 0 and 1, `(m, m)`.
    """

    def build() -> tuple[IntArray, CSR]:
        cells, lists = e.neighbors
        members = np.zeros(len(e.joint), bool)
        members[cells] = True
        neighbors = lists[:, :NEIGHBORS].astype(np.int64)
        if len(cells) < len(e.joint):
            neighbors = nearest_among(e, np.arange(len(cells)), members, NEIGHBORS)
        order = coordinate_order(e, cells)
        place = np.empty(len(e.joint), np.int64)
        place[cells[order]] = np.arange(len(cells))
        return cells[order], joined(place[neighbors[order]])

    return e.share("neighbor graph", build)


def joined(neighbors: RowNumbers) -> CSR:
    """Return the symmetric graph of 0 and 1 in which each of m is joined to those it lists, `(m, k)`."""
    from scipy.sparse import csr_matrix

    m, k = neighbors.shape
    ends = np.arange(m + 1) * k
    directed = csr_matrix((np.ones(neighbors.size), neighbors.ravel(), ends), shape=(m, m))
    graph = directed.maximum(directed.T).tocsr()
    graph.sort_indices()
    return graph


def coordinate_order(e: Embedding, cells: IntArray) -> IntArray:
    """Positions that sort rows of the joint latent by coordinate, so that file order does not matter."""
    return _by_coordinates(e.joint[cells])


def nearest_among(e: Embedding, asking: IntArray, members: BoolArray, k: int) -> IntArray:
    """Nearest other members of each querying cell, from the shared neighbours where these suffice.

    Args:
        asking: `(m,)` positions in the cells of `e.neighbors`; each is a member itself.
        members: `(n,)` over the joint latent.
        k: At most 300, or the other members if fewer.

    Returns:
        Rows of the joint latent, `(m, k)`, nearest first.
    """
    cells, lists = e.neighbors
    candidates = np.flatnonzero(members)
    k = max(0, min(k, len(candidates) - 1))
    nearest = np.empty((len(asking), k), np.int64)
    for rows in chunks(len(asking), 2048):
        asking_here = asking[rows]
        hits = members[lists[asking_here]]
        first = np.argsort(~hits, axis=1, kind="stable")[:, :k]
        nearest[rows] = np.take_along_axis(lists[asking_here], first, axis=1)
        short = np.flatnonzero(hits.sum(axis=1) < k)
        if len(short):
            asking_cells = cells[asking_here[short]]
            places = e.search(e.joint[asking_cells], e.joint[candidates], k + 1)
            nearest[rows.start + short] = without_self(candidates[places], asking_cells)
    return nearest
