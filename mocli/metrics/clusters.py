"""How far clusters agree with labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def adjusted_rand(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the adjusted Rand index of two partitions, `(n,)` each (Hubert and Arabie 1985).

    1 where they are the same up to names, 0 on average where they have nothing to do with each other.
    """
    first, second = np.unique(a, return_inverse=True)[1], np.unique(b, return_inverse=True)[1]
    table = np.zeros((first.max(initial=-1) + 1, second.max(initial=-1) + 1))
    np.add.at(table, (first, second), 1)
    together, in_a, in_b = (_pairs(t) for t in (table, table.sum(1), table.sum(0)))
    everything = _pairs(table.sum())
    by_chance = in_a * in_b / everything if everything else 0.0
    most = (in_a + in_b) / 2
    return 1.0 if most == by_chance else float((together - by_chance) / (most - by_chance))


def _pairs(n: Any) -> float:
    return float(np.sum(n * (n - 1) / 2))
