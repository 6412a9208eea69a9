"""Entries of a report: numbers as a person would write them, with what a reader needs, and tables."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from mocli.types import Json

THIS_RUN = "this run"
"""Stands for a method that no model names."""

NOTHING = "–"
"""Shown for unknown values."""

_STOPS = {
    "plateau": "the losses had stopped falling",
    "validation": "the loss of held-out cells no longer fell",
    "steps": "the number of steps allowed was reached",
    "epochs": "the number of epochs allowed was reached",
    "time": "the time allowed was over",
    "solved": "the weights have a closed form",
    "signal": "it was asked to stop",
}


def stop_reason(code: str | None) -> str:
    """Return why training stopped, as the end of a sentence."""
    return NOTHING if not code else _STOPS.get(code, code.replace("_", " "))


def count(value: float | None) -> str:
    """Return a whole number with thousands separated; others with up to three significant digits."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:,.3g}"


def plural(n: int, one: str, many: str | None = None) -> str:
    """Return `1 cell`, `2,000 cells`."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def metric_value(value: float | None) -> str:
    """Return a metric with the digits that matter to a reader; an `int` is a count."""
    if value is None:
        return NOTHING
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    if 0 < size < 0.0005:
        return f"{value:.1e}"
    return f"{value:.3f}" if size < 10 else f"{value:.1f}" if size < 1000 else f"{value:,.0f}"


def loss_value(value: float | None) -> str:
    """Return a loss with four significant digits."""
    return NOTHING if value is None else f"{value:.4g}"


def duration(seconds: float | None) -> str:
    """Return `under 0.1 s`, `0.4 s`, `3 min 12 s` or `2 h 5 min`."""
    if seconds is None:
        return NOTHING
    if seconds < 0.05:
        return "under 0.1 s"
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def size(n_bytes: float | None) -> str:
    """Return `812 B`, `3.4 MB` or `1.2 GB`, powers of 1,000."""
    if n_bytes is None:
        return NOTHING
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB" if n_bytes < 999.5 else f"{n_bytes:,.0f} TB"


def join(words: Sequence[str]) -> str:
    """Return `a`, `a and b` or `a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return ", ".join(words[:-1]) + " and " + words[-1]


def cell(content: Json) -> str:
    """Return a value of a table: a number with the digits that matter, other values in words."""
    if isinstance(content, int | float) and not isinstance(content, bool):
        return metric_value(content)
    return value(content)


def value(content: Json) -> str:
    """Return any JSON value in one line, strings without quotes."""
    if content is None:
        return NOTHING
    if isinstance(content, str):
        return content
    if isinstance(content, bool):
        return "yes" if content else "no"
    return json.dumps(content, ensure_ascii=False)


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
    title: str, sentence: str, columns: Any, *, digits: int | None = 6, most: int | None = None
) -> Entry:
    """Return a table from columns by name, or a DataFrame, with floats rounded to some significant digits.

    `most`: rows of a DataFrame that are shown; the title then says how many of all they are.
    """
    if most is not None:
        first = columns.head(most)
        title += f" (the first {len(first):,} of {len(columns):,})" if len(first) < len(columns) else " (all)"
        columns = first
    values = {str(name): _listed(columns[name], digits) for name in columns}
    return table(title, sentence, [*values], [*zip(*values.values(), strict=True)])


def _listed(column: Any, digits: int | None) -> list[Any]:
    array = np.asarray(column)
    if array.dtype.kind == "f" and digits is not None:
        return [float(f"{v:.{digits}g}") for v in array]
    return array.tolist()
