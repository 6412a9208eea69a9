"""What links modalities: tables and their matches, the first features, or matrices made by the user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mocli.data.features.index import Features
from mocli.data.files.modality import ModalityFile
from mocli.data.links.edges import EdgeLinks, match_links, tables_of
from mocli.data.links.linktable import LinkTable
from mocli.data.links.matrices import MatrixLinks, matrix_links
from mocli.data.links.route import MatrixRoute, parse_route
from mocli.errors import InputError, UsageError


@dataclass(frozen=True, eq=False)
class Linked:
    """The links from `--links`.

    Attributes:
        tables: As read; the first features as a table of positions.
        edges: What the tables link.
        matrices: Pairs of modalities that matrices link.
    """

    tables: tuple[LinkTable, ...] = ()
    edges: tuple[EdgeLinks, ...] = ()
    matrices: tuple[MatrixLinks, ...] = ()


def find_links(
    texts: Sequence[str],
    files: Sequence[ModalityFile],
    features: Sequence[Features],
    say: Callable[[str], None],
) -> Linked:
    """Read and match everything that `--links` names, and make sure that it reaches every modality.

    Raises:
        UsageError: An invalid route, or two modalities linked by matrices and by something else.
        InputError: See `match_links` and `matrix_links`; a modality, or a group of them, that no link
            reaches.
    """
    routes = [parse_route(text) for text in texts]
    tables = tuple(tables_of(routes, features))
    edges = tuple(match_links(tables, features, log=say)) if tables else ()
    matrices: list[MatrixLinks] = []
    for route in routes:
        if isinstance(route, MatrixRoute):
            matrices += matrix_links(route, files)
    joined = [edge.edge for edge in edges]
    for links in matrices:
        if links.edge in joined:
            raise UsageError(
                f"'{links.source}' and '{links.target}' are linked twice, once by matrices",
                field="--links",
                found=links.text,
                hint="matrices must be the only link between two modalities: leave out the other links",
            )
        joined.append(links.edge)
    for summary in (*(edge.summary() for edge in edges), *(links.summary() for links in matrices)):
        say(summary)
    if joined:
        _check_reach(joined, [file.name for file in files])
    elif routes:
        raise InputError(
            "links join two modalities, but the inputs hold only one", field="--links", found=files[0].name
        )
    return Linked(tables, edges, tuple(matrices))


def _check_reach(joined: Sequence[tuple[str, str]], names: Sequence[str]) -> None:
    unlinked = [name for name in names if not any(name in edge for edge in joined)]
    if unlinked:
        raise InputError(
            f"no link reaches the modality {' or '.join(repr(name) for name in unlinked)}",
            field="--links",
            hint="add a table that links it to another modality, or leave the modality out",
        )
    groups = _connected(joined)
    if len(groups) > 1:
        raise InputError(
            "the links leave the modalities in groups that are not connected",
            field="--links",
            found="; ".join(" - ".join(sorted(group)) for group in groups),
            expected="a chain of links from every modality to every other",
            hint="add a table between two of the groups, or integrate them separately",
        )


def _connected(edges: Sequence[tuple[str, str]]) -> list[set[str]]:
    groups: list[set[str]] = []
    for edge in edges:
        touched = [group for group in groups if group & set(edge)]
        groups = [group for group in groups if group not in touched]
        groups.append(set(edge).union(*touched))
    return groups
