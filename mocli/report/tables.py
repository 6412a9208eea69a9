"""Tables of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mocli.report.figures import Entry


def table(title: str, sentence: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Entry:
    """Return an entry of a report's `tables`: `sentence` says how to read it; NaN becomes None."""
    plain = [[None if isinstance(v, float) and not math.isfinite(v) else v for v in row] for row in rows]
    return {"title": title, "sentence": sentence, "columns": list(columns), "rows": plain}


def column_table(
    title: str, sentence: str, columns: Mapping[str, Any] | Any, *, digits: int | None = 6
) -> Entry:
    """Return a table made of columns by name, or of a DataFrame, floats to so many significant digits."""
    values = {str(name): _listed(columns[name], digits) for name in columns}
    return table(title, sentence, [*values], [*zip(*values.values(), strict=True)])


def _listed(column: Any, digits: int | None) -> list[Any]:
    array = np.asarray(column)
    if array.dtype.kind == "f" and digits is not None:
        return [float(f"{v:.{digits}g}") for v in array]
    listed: list[Any] = array.tolist()
    return listed
