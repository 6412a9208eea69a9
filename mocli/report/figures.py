"""Entries of a report: a number with what a reader needs to understand it, a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mocli.report.wording import metric_value

Entry = dict[str, Any]
"""A part of a report; its keys are those of `schema.json`."""

Better = Literal["higher", "lower"]


def figure(
    value: float | None,
    title: str,
    definition: str,
    sentence: str = "",
    *,
    better: Better | None = None,
    bounds: tuple[float | None, float | None] = (0.0, None),
    n: int | None = None,
    leading: bool = True,
) -> Entry:
    """Return an entry of a report's `metrics`.

    Args:
        value: None or not finite where undefined; an `int` is a count, and shown as one.
        definition, sentence: The exact formula in words; how to read the value.
        better: Which values are better; None where neither end is.
        bounds: Least and greatest possible value; None or infinite where there is none.
        n: Cells, pairs or features behind the value.
        leading: Whether a run is judged by it, not by others that say more of the same.
    """
    if isinstance(value, np.integer):
        value = int(value)
    low, high = (None if bound is None or math.isinf(bound) else bound for bound in bounds)
    return {
        "value": value if value is not None and math.isfinite(value) else None,
        "better": better,
        "range": [low, high],
        "n": n,
        "title": title,
        "definition": definition,
        "sentence": sentence,
        "leading": leading,
    }


def spoken(key: str, entry: Entry, *beside: str) -> str:
    """Return a line of the log: name and value of a figure, which values are better, what else is said."""
    direction = [] if entry["better"] is None else [f"{entry['better']} is better"]
    notes = "; ".join([*direction, *beside])
    return f"  {key} {metric_value(entry['value'])}" + (f" ({notes})" if notes else "")


def table(title: str, sentence: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Entry:
    """Return an entry of a report's `tables`: `sentence` says how to read it; NaN becomes None."""
    plain = [[None if isinstance(v, float) and not math.isfinite(v) else v for v in row] for row in rows]
    return {"title": title, "sentence": sentence, "columns": list(columns), "rows": plain}


def column_table(
    title: str, sentence: str, columns: Mapping[str, Any] | Any, *, digits: int | None = 6
) -> Entry:
    """Return a table from columns by name, or a DataFrame, with floats rounded to some significant digits."""
    values = {str(name): _listed(columns[name], digits) for name in columns}
    return table(title, sentence, [*values], [*zip(*values.values(), strict=True)])


def _listed(column: Any, digits: int | None) -> list[Any]:
    array = np.asarray(column)
    if array.dtype.kind == "f" and digits is not None:
        return [float(f"{v:.{digits}g}") for v in array]
    return array.tolist()
