"""Tables of several files made one: cells below each other, features side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals

if TYPE_CHECKING:
    from collections.abc import Sequence


def stack_obs(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put tables below each other; a column that one lacks is missing there.

    Levels of categories are united, in order of appearance; a column that is
    numbers in one table and words in another becomes words.
    """
    names = list(dict.fromkeys(c for table in tables for c in table.columns))
    index = pd.Index(np.concatenate([t.index.to_numpy(object) for t in tables]), dtype=object)
    columns = {}
    for name in names:
        found = [table[name] if name in table.columns else None for table in tables]
        columns[name] = _stack(found, [len(t) for t in tables], index)
    stacked = pd.DataFrame(columns, index=index)
    stacked.index.name = tables[0].index.name
    return stacked


def agreeing_columns(tables: Sequence[pd.DataFrame]) -> tuple[pd.DataFrame, list[str]]:
    """Return the columns on which all tables that have them agree, and the names of the others.

    Rows are the same features in the same order.
    """
    kept: dict[Any, pd.Series] = {}
    differing = []
    for name in dict.fromkeys(c for table in tables for c in table.columns):
        found = [table[name] for table in tables if name in table.columns]
        if all(_equal(found[0], other) for other in found[1:]):
            kept[name] = found[0].set_axis(tables[0].index)
        else:
            differing.append(str(name))
    return pd.DataFrame(kept, index=tables[0].index), differing


def _stack(found: Sequence[pd.Series | None], sizes: Sequence[int], index: pd.Index) -> pd.Series:
    given = [column for column in found if column is not None]
    if all(isinstance(c.dtype, pd.CategoricalDtype) for c in given):
        return pd.Series(_stack_categories(found, sizes), index=index)
    numbers = [pd.api.types.is_numeric_dtype(c.dtype) for c in given]
    flags = [pd.api.types.is_bool_dtype(c.dtype) for c in given]
    if all(flags) or (all(numbers) and not any(flags)):
        if len(given) < len(found) and all(flags):
            # missing among booleans: numbers on disk, not the words True and False
            given = [c.astype("boolean") for c in given]
        filled = iter(given)
        missing = "boolean" if all(flags) else np.float64
        stacked = pd.concat(
            [
                pd.Series(np.full(n, np.nan), dtype=missing)
                if c is None
                else next(filled).reset_index(drop=True)
                for c, n in zip(found, sizes, strict=True)
            ]
        )
        return stacked.set_axis(index)
    text = [
        np.full(n, None, dtype=object) if c is None else _words(c) for c, n in zip(found, sizes, strict=True)
    ]
    words = pd.Series(np.concatenate(text), index=index, dtype=object)
    return words.astype("category") if any(isinstance(c.dtype, pd.CategoricalDtype) for c in given) else words


def _stack_categories(found: Sequence[pd.Series | None], sizes: Sequence[int]) -> pd.Categorical:
    given = [c for c in found if c is not None]
    levels = [c.cat.categories for c in given]
    alike = all(index.equals(levels[0]) for index in levels[1:])
    ordered = alike and all(c.cat.ordered for c in given)
    if len({index.dtype for index in levels}) > 1:
        given = [pd.Series(pd.Categorical(_words(c))) for c in given]
        levels = [c.cat.categories for c in given]
    filled = iter(given)
    pieces = []
    for column, n in zip(found, sizes, strict=True):
        values = (
            pd.Categorical.from_codes(np.full(n, -1), levels[0]) if column is None else next(filled).array
        )
        pieces.append(values.as_unordered())
    united: pd.Categorical = union_categoricals(pieces)
    return united.as_ordered() if ordered else united


def _words(column: pd.Series) -> Any:
    """Return a column as text, None where it is missing; `1.0` reads `1`, as in a column without gaps."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        levels = pd.Series(column.cat.categories)
        # code -1, missing, finds the last
        return np.array([*_words(levels), None], dtype=object)[column.cat.codes.to_numpy()]
    missing = column.isna().to_numpy()
    known = column[~missing]
    if known.dtype.kind == "f":
        numbers = known.to_numpy(dtype=np.float64)
        if np.isfinite(numbers).all() and np.array_equal(numbers, np.rint(numbers)):
            known = known.astype("Int64")
    out = np.full(len(column), None, dtype=object)
    out[~missing] = known.astype(object).to_numpy().astype(str)
    return out


def _equal(a: pd.Series, b: pd.Series) -> bool:
    left, right = a.to_numpy(object), b.to_numpy(object)
    return bool(np.all((left == right) | (pd.isna(left) & pd.isna(right))))
