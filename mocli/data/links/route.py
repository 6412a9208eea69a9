"""The values of `--links`: a table, the first features of modalities, or matrices in obsm."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import sparse

from mocli.data.bundle import FeatureMatrix
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import ObsmPart, open_obsm
from mocli.data.transforms.transform import DENSE_ABOVE, density, layout, moments
from mocli.errors import InputError, UsageError, did_you_mean, some
from mocli.types import CSR

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


MATRICES = "matrices of obsm"
UNCENTRED = 1.0
"""From this median over columns of |mean| / standard deviation on, cosines hardly distinguish cells."""


@dataclass(frozen=True, eq=False)
class MatrixLinks:
    """The linked features of two modalities as two matrices, column j of one belonging to that of the other.

    Attributes:
        source_key, target_key: Keys of obsm.
        names: What each column is, `(n_columns,)`.
    """

    source: str
    target: str
    source_key: str
    target_key: str
    names: tuple[str, ...]

    @property
    def edge(self) -> tuple[str, str]:
        """The two modalities."""
        return (self.source, self.target)

    @property
    def text(self) -> str:
        """The two matrices as the command line names them."""
        return f"{self.source}=obsm:{self.source_key},{self.target}=obsm:{self.target_key}"

    def summary(self) -> str:
        """Describe the linked columns."""
        return f"{len(self.names):,} linked columns, as they are: {self.text}"


def matrix_links(route: MatrixRoute, files: Sequence[ModalityFile]) -> list[MatrixLinks]:
    """Find the matrices that a route names; each modality is linked with the next, in the order of `files`.

    Reads names of columns and a sample of rows, so that mistakes show before the work.

    Raises:
        UsageError: A modality is named that is not loaded, or one matrix is given for two modalities.
        InputError: A matrix is missing, is not a table of numbers, belongs to other cells, has values that
            are not finite, or has another number of columns than its partner; or the columns are the same in
            another order.
    """
    by_name = {file.name: file for file in files}
    matrices = []
    shapes: dict[str, tuple[int, tuple[str, ...] | None]] = {}
    for a, b in chained(route, list(by_name)):
        keys = {name: route.keys.get(name, route.key) for name in (a, b)}
        for name, key in keys.items():
            if name not in shapes:
                shapes[name] = _columns(by_name[name], key)
                n = by_name[name].n_obs
                _read(by_name[name], key, np.unique(np.linspace(0, n - 1, min(n, 256)).astype(np.int64)))
        _refuse_one_for_both(by_name[a], by_name[b], keys, route)
        (n_a, names_a), (n_b, names_b) = shapes[a], shapes[b]
        if n_a != n_b:
            raise InputError(
                f"the linked features of '{a}' and '{b}' differ in their number of columns",
                file=f"{by_name[a].where} and {by_name[b].where}",
                field=f"obsm['{keys[a]}'] and obsm['{keys[b]}']",
                found=f"{n_a:,} columns of {a}, {n_b:,} of {b}",
                expected="the same number in both: column j of one belongs to column j of the other",
            )
        _refuse_other_order(names_a, names_b, by_name[b], keys[b], a)
        names = _names(names_a, names_b) or tuple(f"{keys[a]}[{j}]" for j in range(n_a))
        matrices.append(MatrixLinks(a, b, keys[a], keys[b], names))
    return matrices


def read_linked(
    file: ModalityFile, key: str, names: tuple[str, ...], *, warn: Callable[[str], None]
) -> FeatureMatrix:
    """Read the linked features of a modality's cells, `(n_obs, n_columns)`, as they are.

    Raises `InputError`: see `matrix_links`.
    """
    x = _read(file, key, np.arange(file.n_obs))
    mean, variance = moments(x)
    constant = variance <= 0
    if constant.any():
        warn(f"{file.name}: {int(constant.sum()):,} columns of obsm['{key}'] are the same in all cells")
    if not constant.all():
        off = float(np.median(np.abs(mean[~constant]) / np.sqrt(variance[~constant])))
        if off > UNCENTRED:
            warn(
                f"{file.name}: columns of obsm['{key}'] are not centred (their mean is {off:.1f} standard "
                "deviations from 0): partners are found by the angle between rows, which then differs "
                "little; standardise them, unless this is intended"
            )
    return FeatureMatrix(layout(x, dense=density(x) > DENSE_ABOVE), names)


def _columns(file: ModalityFile, key: str) -> tuple[int, tuple[str, ...] | None]:
    """Return how many columns a matrix has, and their names where it has any."""
    first: ObsmPart | None = None
    for part, _, _ in file.located(np.arange(file.n_obs)):
        with open_obsm(part, key) as matrix:
            if first is not None and (matrix.n_columns, matrix.names) != (first.n_columns, first.names):
                raise InputError(
                    f"the columns of obsm['{key}'] differ from those in another file of '{file.name}'",
                    file=part.path,
                    field=matrix.place,
                    found=f"{matrix.n_columns:,} columns"
                    + (f": {some(matrix.names, 5)}" if matrix.names else ""),
                    expected=f"{first.n_columns:,} columns"
                    + (f": {some(first.names, 5)}" if first.names else ""),
                )
            first = first or matrix
    assert first is not None
    return first.n_columns, first.names


def _read(file: ModalityFile, key: str, rows: np.ndarray) -> CSR:
    parts, order = [], []
    for part, asked_rows, file_rows in file.located(rows):
        with open_obsm(part, key) as matrix:
            x = matrix.read(file_rows)
        bad = np.flatnonzero(~np.isfinite(x.data))
        if len(bad):
            row = int(np.searchsorted(x.indptr, bad[0], side="right")) - 1
            column = int(x.indices[bad[0]])
            raise InputError(
                "a value of a linked feature is not finite",
                file=part.path,
                field=matrix.place,
                found=f"{x.data[bad[0]]} in cell '{file.obs.index[rows[asked_rows[row]]]}', column "
                + (f"'{matrix.names[column]}'" if matrix.names else f"{column}"),
                expected="finite numbers",
                hint="replace the value, or leave out the column or the cells",
            )
        parts.append(x)
        order.append(asked_rows)
    back = np.concatenate(order)
    x = parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")
    return x if np.array_equal(back, np.arange(len(back))) else x[np.argsort(back)]


def _refuse_one_for_both(a: ModalityFile, b: ModalityFile, keys: dict[str, str], route: MatrixRoute) -> None:
    same = keys[a.name] == keys[b.name] and a.group == b.group
    if same and {path.resolve() for path in a.paths} & {path.resolve() for path in b.paths}:
        raise UsageError(
            f"'{a.name}' and '{b.name}' have one obsm, so one matrix would be linked with itself",
            file=a.path,
            field=f"--links {route.text}",
            found=f"obsm['{keys[a.name]}'] for both",
            hint=f"store two, and name them: --links {a.name}=obsm:X_{a.name},{b.name}=obsm:X_{b.name}",
        )


def _refuse_other_order(
    a: tuple[str, ...] | None, b: tuple[str, ...] | None, file: ModalityFile, key: str, other: str
) -> None:
    if a is None or b is None or a == b or sorted(a) != sorted(b):
        return
    j = next(j for j, (one, two) in enumerate(zip(a, b, strict=True)) if one != two)
    raise InputError(
        f"the linked features of '{file.name}' are those of '{other}' in another order",
        file=file.where,
        field=f"obsm['{key}']",
        found=f"column {j} is '{b[j]}'",
        expected=f"'{a[j]}', as in '{other}'",
        hint="write both matrices with their columns in the same order",
    )


def _names(a: tuple[str, ...] | None, b: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if a is None or b is None or a == b:
        return a or b
    return tuple(one if one == two else f"{one} ~ {two}" for one, two in zip(a, b, strict=True))
