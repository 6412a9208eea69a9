"""`mocli links check`: hold a link table against the data it is for."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mocli.data.features.index import features_of, nearest_names
from mocli.data.features.proposal import SUGGESTED
from mocli.data.files.inputs import open_inputs
from mocli.data.links.edges import match_links, tables_of
from mocli.data.links.route import MatrixRoute, parse_route
from mocli.errors import UsageError
from mocli.tasks.links.linkagreement import agreement, layer_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mocli.data.files.inputs import ModalityFile
    from mocli.data.links.edges import EdgeLinks
    from mocli.tasks.links.linkagreement import Agreement
    from mocli.types import BoolArray, IntArray

MANY = 10  # at least so many links, and so many times the median of the side
_BLOCK = 256 * 2**20  # bytes of a matrix read at once


@dataclass(frozen=True)
class Problem:
    """One finding: what is wrong with which feature."""

    problem: str
    modality: str
    feature: str
    detail: str


@dataclass(frozen=True)
class Side:
    """What a table says of one modality of an edge, in numbers.

    Attributes
    ----------
    n_named
        Features linked and names found nowhere.
    n_constant
        Linked features with one value in all cells, which carry no information.
    n_many
        Features with very many links: at least 10, and more than 10 times the
        median of their side.
    """

    modality: str
    n_features: int
    n_linked: int
    n_unmatched: int
    n_constant: int
    n_many: int


@dataclass(frozen=True)
class Edge:
    """The links between two modalities, in numbers.

    Attributes
    ----------
    n_cells
        Cells that both modalities have and that were looked at; 0 where fewer
        than 50 are shared.
    correlation
        Median over linked features of their correlation in these cells.
    n_contradicted
        Linked features whose correlation is clearly below zero.
    """

    source: Side
    target: Side
    n_rows: int
    n_links: int
    n_repeated: int
    n_cells: int = 0
    correlation: float | None = None
    n_contradicted: int = 0


@dataclass(frozen=True)
class Audit:
    """What is right and wrong with link tables.

    Attributes
    ----------
    n_repeated
        Rows that stand in a table more than once.
    notes
        What was assumed on reading and matching, as the log says it.
    """

    tables: tuple[str, ...]
    edges: tuple[Edge, ...]
    problems: tuple[Problem, ...]
    n_repeated: int
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the audit as plain values, for JSON."""
        return asdict(self)


def audit_links(
    tables: Sequence[str | Path],
    inputs: Sequence[str],
    *,
    var_key: str | None = None,
    log: Callable[[str], None],
) -> Audit:
    """Match link tables to data, and look for what would harm an integration.

    Parameters
    ----------
    tables
        Link tables in any accepted dialect, or `first:N`.
    inputs
        As on the command line.
    var_key
        Column of `var` with the names that the tables use.
    log
        Takes what is assumed, one message at a time.

    Raises
    ------
    UsageError
        No input, or matrices of obsm in place of a table.
    InputError
        A table or an input cannot be read, or nothing matches.
    """
    notes: list[str] = []

    def note(message: str) -> None:
        notes.append(message)
        log(message)

    routes = [parse_route(str(table)) for table in tables]
    matrices = [route.text for route in routes if isinstance(route, MatrixRoute)]
    if matrices:
        raise UsageError(
            "a check holds links of single features against the data, and matrices of obsm have none",
            field="LINKS",
            found=", ".join(matrices),
            hint="mocli integrate --dry-run looks at what matrices hold",
        )
    files = open_inputs(inputs)
    for f in files:
        for message in f.notes:
            log(message)
    features = features_of(files, var_key=var_key)
    read = tables_of(routes, features)
    matched = match_links(read, features, log=note)
    by_name = {file.name: file for file in files}
    constant = {file.name: constant_features(file) for file in files if _is_linked(file, matched)}
    edges: list[Edge] = []
    problems: list[Problem] = []
    for edge in matched:
        sides = []
        for half in _halves(edge):
            found = list(_problems(half, constant[half.modality], by_name[half.modality]))
            problems += found
            sides.append(_count(half, found))
        together = agreement(edge, by_name[edge.source], by_name[edge.target])
        against = _contradictions(together, edge)
        problems += against
        rows = (edge.n_read, edge.n_links, edge.n_repeated)
        edges.append(Edge(sides[0], sides[1], *rows, together.n_cells, together.median, len(against)))
    return Audit(
        tuple(map(str, tables)),
        tuple(edges),
        tuple(dict.fromkeys(problems)),
        sum(table.n_repeated for table in read),
        tuple(notes),
    )


def constant_features(file: ModalityFile) -> BoolArray:
    """Find the features with one value in all cells, reading the matrix in blocks, `(n_vars,)`."""
    layer = layer_of(file)
    blocks = max(1, round(file.nbytes(layer) / _BLOCK))
    step = -(-file.n_obs // blocks)
    low, high = np.full(file.n_vars, np.inf), np.full(file.n_vars, -np.inf)
    stored = np.zeros(file.n_vars, dtype=np.int64)
    for first in range(0, file.n_obs, step):
        x = file.read(layer, rows=slice(first, first + step))
        np.minimum.at(low, x.indices, x.data)
        np.maximum.at(high, x.indices, x.data)
        stored += np.bincount(x.indices, minlength=file.n_vars)
    constant: BoolArray = (stored == 0) | ((stored == file.n_obs) & (low == high))
    return constant


@dataclass(frozen=True, eq=False)
class _Half:
    """One side of an edge."""

    modality: str
    other: str
    names: tuple[str, ...]
    index: IntArray
    unmatched: tuple[str, ...]


def _halves(edge: EdgeLinks) -> tuple[_Half, _Half]:
    return (
        _Half(edge.source, edge.target, edge.source_names, edge.source_index, edge.unmatched_source),
        _Half(edge.target, edge.source, edge.target_names, edge.target_index, edge.unmatched_target),
    )


def _is_linked(file: ModalityFile, edges: Sequence[EdgeLinks]) -> bool:
    return any(file.name in (edge.source, edge.target) for edge in edges)


def _problems(half: _Half, constant: BoolArray, file: ModalityFile) -> Iterator[Problem]:
    for k, name in enumerate(half.unmatched):
        near = nearest_names(name, half.names) if k < SUGGESTED else []
        yield Problem("not found", half.modality, name, f"nearest: {near[0]}" if near else "")
    linked, count = np.unique(half.index, return_counts=True)
    for k in linked[constant[linked]]:
        detail = f"the same value in all {file.n_obs:,} cells"
        yield Problem("constant", half.modality, half.names[k], detail)
    usual = float(np.median(count))
    many = count >= max(MANY, MANY * usual + 1)
    for k in np.flatnonzero(many)[np.argsort(-count[many], kind="stable")]:
        detail = f"{count[k]:,} links to {half.other}, the median is {usual:g}"
        yield Problem("many links", half.modality, half.names[linked[k]], detail)


def _contradictions(found: Agreement, edge: EdgeLinks) -> list[Problem]:
    other = edge.target if found.modality == edge.source else edge.source
    return [
        Problem(
            "contradicted",
            found.modality,
            found.names[k],
            f"correlation {found.correlation[k]:.2f} with its links to {other} in {found.n_cells:,} cells",
        )
        for k in found.contradicted
    ]


def _count(half: _Half, problems: Sequence[Problem]) -> Side:
    n = Counter(problem.problem for problem in problems)
    return Side(
        half.modality,
        len(half.names),
        len(np.unique(half.index)),
        n["not found"],
        n["constant"],
        n["many links"],
    )
