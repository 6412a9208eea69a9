"""Loss terms of every step, and when they have stopped falling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mocli.errors import NumericalError
from mocli.models.base import Plateau
from mocli.types import DoubleArray


class History:
    """Values of each term at each step of a phase, `(n_steps, n_terms)`.

    `interval`: steps between two looks at the values: 1 on the CPU; more on a GPU, where a look waits for the
    device.
    """

    def __init__(self, interval: int) -> None:
        self.terms: tuple[str, ...] = ()
        self._rows: list[list[float]] = []
        self._pending: list[Tensor] = []
        self._interval = interval

    def __len__(self) -> int:
        return len(self._rows) + len(self._pending)

    def record(self, terms: Mapping[str, Tensor]) -> None:
        """Add one step; look at the values when `interval` steps are waiting."""
        self.terms = self.terms or tuple(terms)
        self._pending.append(torch.stack([value.detach().double() for value in terms.values()]))
        if len(self._pending) >= self._interval:
            self.flush()

    def flush(self) -> None:
        """Fetch what is waiting; raise at the first value that is not finite."""
        if not self._pending:
            return
        block = torch.stack(self._pending).tolist()
        self._pending.clear()
        for row in block:
            if not np.isfinite(row).all():
                term = self.terms[int(np.flatnonzero(~np.isfinite(row))[0])]
                raise NumericalError(
                    "the loss is no longer finite",
                    term=term,
                    step=len(self._rows),
                    hint="lower --lr, look for extreme values in the input, or weaken this term with --set",
                )
            self._rows.append(row)

    def values(self) -> DoubleArray:
        """All recorded values, `(n_steps, n_terms)`."""
        return np.asarray(self._rows, dtype=np.float64).reshape(len(self._rows), len(self.terms))

    def latest(self, n: int = 20) -> dict[str, float]:
        """Mean of each term over the last `n` steps."""
        if not self._rows:
            return {}
        return dict(zip(self.terms, np.mean(self._rows[-n:], axis=0).tolist(), strict=True))

    def summary(self) -> dict[str, dict[str, float]]:
        """First, last (means over 20 steps) and least value of each term."""
        values = self.values()
        return {
            term: {
                "first": float(values[:20, i].mean()),
                "last": float(values[-20:, i].mean()),
                "min": float(values[:, i].min()),
            }
            for i, term in enumerate(self.terms)
            if len(values)
        }

    def curves(self, n_points: int = 400) -> dict[str, dict[str, list[float]]]:
        """Each term thinned to at most `n_points` means over equal stretches of steps."""
        values = self.values()
        if not len(values):
            return {}
        blocks = np.array_split(np.arange(len(values)), min(n_points, len(values)))
        steps = [float(block[-1] + 1) for block in blocks]
        means = np.stack([values[block].mean(0) for block in blocks])
        return {t: {"step": steps, "value": means[:, i].tolist()} for i, t in enumerate(self.terms)}

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what a checkpoint keeps."""
        self.flush()
        return {"terms": list(self.terms)}, {"history": torch.from_numpy(self.values())}

    def restore(self, meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Put `state` back."""
        self.terms = tuple(meta["terms"])
        rows = tensors["history"]
        if rows.dim() != 2 or rows.shape[1] != len(self.terms) or not bool(rows.isfinite().all()):
            raise ValueError(f"the history is no table of {len(self.terms)} finite terms")
        self._rows = rows.tolist()

    def flat(self, plateau: Plateau, since: int = 0) -> bool:
        """Return whether the smoothed loss has stopped improving, by the steps after `since` alone."""
        n, window = len(self._rows), plateau.window
        if not due(plateau, n) or n - since < 2 * window:
            return False
        weights = np.array([plateau.weights.get(term, 0.0) for term in self.terms])
        total = self.values() @ weights
        first, before, now = (
            total[:window].mean(),
            total[-2 * window : -window].mean(),
            total[-window:].mean(),
        )
        return bool(before - now < plateau.tolerance * abs(first - now))


def due(plateau: Plateau, n_steps: int) -> bool:
    """Whether it is time for a look: every tenth of a window, so that it does not matter who asks when."""
    enough = n_steps >= max(plateau.min_steps, 2 * plateau.window)
    return enough and n_steps % max(plateau.window // 10, 1) == 0
