"""Colours for categories that people with colour-vision deficiencies can tell apart.

The first seven are those of Okabe and Ito (2008), "Color Universal Design",
without black and with the yellow darkened for white paper. Further levels
repeat these hues lighter and darker; beyond eight, pictures add numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mocli.types import DoubleArray

_BASE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#d8c400")
# share of white (positive) or black (negative) mixed in, round after round
_SHADES = (0.0, -0.4, 0.5, -0.65)
_GREYS = ("#555555", "#999999")

MAX_LEVELS = len(_BASE) * len(_SHADES) + len(_GREYS)
OTHER = "#b8bcc2"
UNKNOWN = "#dfe1e5"


def colours(n: int) -> DoubleArray:
    """Return `n` colours, `(n, 3)`, in 0..1; `ValueError` above `MAX_LEVELS`."""
    if n > MAX_LEVELS:
        raise ValueError(f"{n} colours asked for, there are {MAX_LEVELS}")
    base = np.array([rgb(c) for c in _BASE])
    rounds = [base * (1 - abs(shade)) + max(shade, 0.0) for shade in _SHADES]
    return np.concatenate([*rounds, [rgb(c) for c in _GREYS]])[:n]


def rgb(code: str) -> tuple[float, float, float]:
    """Return `#rrggbb` as three numbers in 0..1."""
    red, green, blue = (int(code[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue
