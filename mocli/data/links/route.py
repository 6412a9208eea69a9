"""The values of `--links`: a table, the first features of modalities, or matrices in obsm."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from mocli.errors import UsageError, did_you_mean

FORMS = "FILE, first:N, obsm:KEY, or with names rna=obsm:KEY,prot=obsm:KEY"
_WORD = re.compile(r"(first|obsm):(.*)", re.DOTALL)
_NAMED = re.compile(r"\s*([^/\\:=,]+?)\s*=\s*((?:first|obsm):.*)", re.DOTALL)


@dataclass(frozen=True)
class TableRoute:
    """A table of links in a file; `-` is standard input."""

    path: str


@dataclass(frozen=True)
class FirstRoute:
    """The first `n` features of modalities are linked, each with the one at its position.

    `modalities`: those meant, in the order named; none for all.
    """

    text: str
    n: int
    modalities: tuple[str, ...] = ()


@dataclass(frozen=True)
class MatrixRoute:
    """Linked features made by the user, one matrix in obsm for each modality.

    Attributes:
        key: Key of obsm in every modality where none is named.
        keys: Keys by modality.
    """

    text: str
    key: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)


LinkRoute = TableRoute | FirstRoute | MatrixRoute


def parse_route(text: str) -> LinkRoute:
    """Read one value of `--links`; a file that exists under the whole text is taken as it is.

    Raises `UsageError`: an invalid number or key, a name given twice, a single modality, or mixed routes.
    """
    if _is_file(text):
        return TableRoute(text)
    if (match := _WORD.fullmatch(text)) is not None:
        word, argument = match.groups()
        if word == "first":
            return FirstRoute(text, _number(argument, text))
        return MatrixRoute(text, key=_key(argument, text))
    pieces = text.split(",")
    matches = [_NAMED.fullmatch(piece) for piece in pieces]
    if matches[0] is None:
        return TableRoute(text)
    routes: dict[str, tuple[str, str]] = {}
    for piece, match in zip(pieces, matches, strict=True):
        if match is None or match[1] in routes:
            why = "names a modality twice" if match is not None else "is cut short"
            raise _refuse(f"'{text}' {why}", piece)
        word, _, argument = match[2].partition(":")
        routes[match[1]] = (word, argument)
    if len({word for word, _ in routes.values()}) > 1:
        raise _refuse(f"'{text}' mixes first columns and matrices", text)
    if len(routes) < 2:
        raise _refuse(f"'{text}' names one modality, but links join two", text)
    if routes[next(iter(routes))][0] == "obsm":
        return MatrixRoute(text, keys={name: _key(argument, text) for name, (_, argument) in routes.items()})
    numbers = {_number(argument, text) for _, argument in routes.values()}
    if len(numbers) > 1:
        raise _refuse(f"'{text}' takes more features of one modality than of another", text)
    return FirstRoute(text, numbers.pop(), tuple(routes))


def link_files(texts: Iterable[object]) -> list[Path]:
    """Return the files among the values of `--links`."""
    routes = (parse_route(str(text)) for text in texts)
    return [Path(route.path) for route in routes if isinstance(route, TableRoute)]


def chained(route: FirstRoute | MatrixRoute, loaded: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of modalities that a route joins: each with the next, in the order of the inputs.

    Raises `UsageError`: it names a modality that is not loaded.
    """
    named = list(route.keys) if isinstance(route, MatrixRoute) else list(route.modalities)
    for name in named:
        if name not in loaded:
            raise UsageError(
                f"--links names the modality '{name}', which is not among the inputs",
                field=f"--links {route.text}",
                found=name,
                expected=", ".join(loaded),
                hint=did_you_mean(name, loaded, "modalities"),
            )
    order = [name for name in loaded if name in named] if named else list(loaded)
    return list(pairwise(order))


def _number(argument: str, text: str) -> int:
    if not re.fullmatch(r"\s*0*[1-9]\d*\s*", argument):
        raise _refuse(
            f"'{text}' does not say how many features are linked", argument or "nothing", "first:32"
        )
    return int(argument)


def _key(argument: str, text: str) -> str:
    if not argument.strip():
        raise _refuse(f"'{text}' names no matrix of obsm", "nothing", "obsm:X_linked")
    return argument.strip()


def _refuse(message: str, found: str, example: str | None = None) -> UsageError:
    hint = f"such as {example}" if example else None
    return UsageError(message, field="--links", found=repr(found), expected=FORMS, hint=hint)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long, or a null byte
        return False
