"""`mocli links check`: check a link table against the data it is for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from mocli.data.features.index import SUGGESTED, features_of, nearest_name
from mocli.data.files.contents import look
from mocli.data.files.inputs import open_inputs
from mocli.data.files.modality import ModalityFile
from mocli.data.links.edges import EdgeLinks, Half, match_links, tables_of
from mocli.data.links.route import MatrixRoute, parse_route
from mocli.data.transforms.linkrecipe import LinkRecipe
from mocli.data.transforms.recipe import default_transform
from mocli.errors import UsageError
from mocli.types import CSR, BoolArray, DoubleArray, IntArray

FEW_LINKS = 10
MOST_UNMATCHED = 0.5  # of the names of a side
MANY = 10  # at least so many links, and so many times the median of the side
_BLOCK = 256 * 2**20  # bytes of a matrix read at once
FEWEST = 50  # cells in common, below which nothing is said
_MOST = 5000  # cells looked at
_SURE = 2.58  # standard errors; by chance 1 in 200 links is as far below zero


@dataclass(frozen=True)
class Problem:
    """One finding: what is wrong with which feature."""

    problem: str
    modality: str
    feature: str
    detail: str


@dataclass(frozen=True)
class Side:
    """Numbers of one modality of an edge in a table.

    Attributes:
        n_linked, n_unmatched: Features linked, and names found nowhere.
        n_constant: Linked features with one value in all cells, which carry no information.
        n_many: Features with very many links: at least 10, and more than 10 times the median of their side.
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

    Attributes:
        n_cells: Cells in both modalities that were used; 0 if fewer than 50 are shared.
        correlation: Median over linked features of their correlation in these cells.
        n_contradicted: Linked features whose correlation is clearly below zero.
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
    """The findings on link tables.

    Attributes:
        n_repeated: Rows that occur in a table more than once.
        notes: What was assumed on reading and matching, as in the log.
    """

    tables: tuple[str, ...]
    edges: tuple[Edge, ...]
    problems: tuple[Problem, ...]
    n_repeated: int
    notes: tuple[str, ...]

    def verdict(self) -> str:
        """Say in a sentence whether the table can be used, or what to check first."""
        doubts = []
        for edge in self.edges:
            pair = f"{edge.source.modality} and {edge.target.modality}"
            if not edge.n_links:
                doubts.append(f"nothing of {pair} is linked")
                continue
            if edge.n_links < FEW_LINKS:
                doubts.append(f"{pair} have few links ({edge.n_links:,})")
            for side in (edge.source, edge.target):
                named = side.n_linked + side.n_unmatched
                if side.n_unmatched > MOST_UNMATCHED * named:
                    doubts.append(f"{side.n_unmatched:,} of {named:,} names are not in {side.modality}")
                if side.n_constant > MOST_UNMATCHED * max(1, side.n_linked):
                    doubts.append(f"{side.n_constant:,} linked features of {side.modality} are constant")
            if edge.correlation is not None and edge.correlation <= 0:
                doubts.append(f"linked features of {pair} do not correlate in cells of both")
        return "look first: " + "; ".join(doubts) if doubts else "ready: the table fits the data"


def audit_links(
    tables: Sequence[str | Path],
    inputs: Sequence[str],
    *,
    var_key: str | None = None,
    log: Callable[[str], None],
) -> Audit:
    """Match link tables to data, and look for what would harm an integration.

    Args:
        tables: Link tables in any accepted dialect, or `first:N`.
        inputs: As on the command line.
        var_key: Column of `var` with the names that the tables use.
        log: Called with what is assumed, one message at a time.

    Raises:
        UsageError: No input, or matrices in obsm instead of a table.
        InputError: A table or an input cannot be read, or nothing matches.
    """
    notes: list[str] = []

    def note(message: str) -> None:
        notes.append(message)
        log(message)

    routes = [parse_route(str(table)) for table in tables]
    matrices = [route.text for route in routes if isinstance(route, MatrixRoute)]
    if matrices:
        raise UsageError(
            "this command checks links of single features, and matrices in obsm have none",
            field="LINKS",
            found=", ".join(matrices),
            hint="mocli integrate --dry-run checks the matrices",
        )
    files = open_inputs(inputs)
    for f in files:
        for message in f.notes:
            log(message)
    features = features_of(files, var_key=var_key)
    read = tables_of(routes, features)
    matched = match_links(read, features, log=note)
    by_name = {file.name: file for file in files}
    constant = {
        file.name: constant_features(file) for file in files if any(file.name in e.edge for e in matched)
    }
    edges: list[Edge] = []
    problems: list[Problem] = []
    for edge in matched:
        sides = []
        for half, other in zip(edge.halves, edge.edge[::-1], strict=True):
            name = half.modality
            problems_here = list(_problems(half, other, constant[name], by_name[name]))
            problems += problems_here
            sides.append(_count(half, problems_here))
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
    return (stored == 0) | ((stored == file.n_obs) & (low == high))


def _problems(half: Half, other: str, constant: BoolArray, file: ModalityFile) -> Iterator[Problem]:
    for k, name in enumerate(half.unmatched):
        near = nearest_name(name, half.names) if k < SUGGESTED else None
        yield Problem("not found", half.modality, name, "" if near is None else f"nearest: {near}")
    linked, count = np.unique(half.linked, return_counts=True)
    for k in linked[constant[linked]]:
        detail = f"the same value in all {file.n_obs:,} cells"
        yield Problem("constant", half.modality, half.names[k], detail)
    usual = float(np.median(count))
    many = count >= max(MANY, MANY * usual + 1)
    for k in np.flatnonzero(many)[np.argsort(-count[many], kind="stable")]:
        detail = f"{count[k]:,} links to {other}, the median is {usual:g}"
        yield Problem("many links", half.modality, half.names[linked[k]], detail)


def _contradictions(agreement: Agreement, edge: EdgeLinks) -> list[Problem]:
    other = edge.target if agreement.modality == edge.source else edge.source
    return [
        Problem(
            "contradicted",
            agreement.modality,
            agreement.names[k],
            f"correlation {agreement.correlation[k]:.2f} with its links to {other} "
            f"in {agreement.n_cells:,} cells",
        )
        for k in agreement.contradicted
    ]


def _count(half: Half, problems: Sequence[Problem]) -> Side:
    n = Counter(problem.problem for problem in problems)
    return Side(
        half.modality,
        len(half.names),
        len(np.unique(half.linked)),
        n["not found"],
        n["constant"],
        n["many links"],
    )


@dataclass(frozen=True, eq=False)
class Agreement:
    """Correlations of linked features.

    Attributes:
        modality: The one whose features are compared, each with all its links.
        names, correlation: `(n_features,)`; NaN where a side is constant.
        n_cells: Shared cells that were used; 0, and no features, if fewer than 50.
    """

    modality: str
    names: tuple[str, ...]
    correlation: DoubleArray
    n_cells: int

    @property
    def median(self) -> float | None:
        """Median of the correlations that are known."""
        finite = self.correlation[np.isfinite(self.correlation)]
        return float(np.median(finite)) if len(finite) else None

    @property
    def contradicted(self) -> IntArray:
        """Positions of the features clearly below zero, the worst first."""
        order = np.argsort(self.correlation, kind="stable")
        below = self.correlation[order] < -_SURE / np.sqrt(max(1, self.n_cells))
        return order[below]


def agreement(edge: EdgeLinks, source: ModalityFile, target: ModalityFile) -> Agreement:
    """Correlate linked features over the cells that both modalities have by name.

    The columns are those of `EdgeLinks.aggregation`, each modality transformed as
    an integration would by default.
    """
    modality = edge.chosen.modality
    rows = _shared(source, target)
    if len(rows[0]) < FEWEST:
        return Agreement(modality, (), np.zeros(0), 0)
    sums = edge.aggregation()
    x, y = (
        _linked(file, keep, aggregation, sums.names)
        for file, keep, aggregation in ((source, rows[0], sums.source), (target, rows[1], sums.target))
    )
    return Agreement(modality, sums.names, pearson(x, y), len(rows[0]))


def pearson(x: CSR, y: CSR) -> DoubleArray:
    """Correlation of each column of two CSR matrices `(n, s)`; NaN where either is constant."""
    x, y = (m.astype(np.float64) for m in (x, y))
    mean_x, mean_y, mean_xy, mean_xx, mean_yy = (
        np.asarray(m.mean(axis=0)).ravel() for m in (x, y, x.multiply(y), x.multiply(x), y.multiply(y))
    )
    spread = (mean_xx - mean_x**2) * (mean_yy - mean_y**2)
    spread = np.where(spread > 1e-12 * mean_xx * mean_yy, spread, np.nan)
    return (mean_xy - mean_x * mean_y) / np.sqrt(spread)


def layer_of(file: ModalityFile) -> str | None:
    """Return the matrix to use: counts if there are any, else the first one."""
    return "counts" if "counts" in file.layers else next(iter(file.matrices), None)


def _shared(source: ModalityFile, target: ModalityFile) -> tuple[IntArray, IntArray]:
    """Rows of the cells in common, at most 5,000 spread evenly."""
    place = target.obs.index.get_indexer(source.obs.index)
    rows = np.flatnonzero(place >= 0)
    if len(rows) > _MOST:
        rows = rows[np.linspace(0, len(rows) - 1, _MOST).astype(np.int64)]
    return rows, place[rows]


def _linked(file: ModalityFile, rows: IntArray, aggregation: CSR, names: tuple[str, ...]) -> CSR:
    x = file.read(layer_of(file), rows=rows)
    transform = default_transform(file.kind, look(x), max_value=float(x.data.max(initial=0)))
    # no standardised values are needed: a correlation does not see scale and offset
    recipe = LinkRecipe.fit(x, aggregation=aggregation, transform=transform, names=names)
    return sparse.csr_matrix(recipe.apply(x).values)
