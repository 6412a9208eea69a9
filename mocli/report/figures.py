"""One number of a report, with what a reader needs to understand it."""

from __future__ import annotations

import math
from typing import Any, Literal

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
) -> Entry:
    """Return an entry of a report's `metrics`.

    Parameters
    ----------
    value
        None or not finite where undefined.
    definition, sentence
        The exact formula in words; how to read the value.
    better
        Which values are better; None where neither end is.
    bounds
        Least and greatest possible value; None or infinite where there is none.
    n
        Cells, pairs or features behind the value.
    """
    low, high = (None if bound is None or math.isinf(bound) else bound for bound in bounds)
    return {
        "value": value if value is not None and math.isfinite(value) else None,
        "better": better,
        "range": [low, high],
        "n": n,
        "title": title,
        "definition": definition,
        "sentence": sentence,
    }
