"""Linked features made by the user: one matrix in obsm for each of two modalities, used as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from mocli.data.bundle import FeatureMatrix
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obsm import ObsmPart, open_obsm
from mocli.data.links.route import MatrixRoute, chained
from mocli.data.transforms.scaler import DENSE_ABOVE, density, layout, moments
from mocli.errors import InputError, UsageError, some
from mocli.types import CSR

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
