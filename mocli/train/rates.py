"""Learning rates that fall when a loss no longer does, judged by the loss of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mocli.models.base import Plateau
from mocli.train.history import History, due
from mocli.train.optim import Stepper


class Rates:
    """Learning rates of all groups of a phase.

    `lowered`: when they fell, in the caller's count.
    """

    def __init__(self, steppers: Sequence[Stepper], factor: float | None) -> None:
        self.steppers, self.factor = steppers, factor
        self.lowered: list[int] = []

    def lower(self, when: int) -> None:
        """Multiply all of them by the factor."""
        self.restore([*self.lowered, when])

    def restore(self, lowered: Sequence[int]) -> None:
        """Set them to what they are after falls at some times."""
        self.lowered = list(lowered)
        scale = (self.factor or 1.0) ** len(self.lowered)
        for stepper in self.steppers if self.lowered else ():
            for group in stepper.optimizer.param_groups if stepper.optimizer is not None else ():
                group["lr"] = stepper.group.lr * scale


class Flatness:
    """Detects that the loss of training has stopped falling: learning rates fall first, then training ends.

    After a fall, only steps since then say whether the loss is flat.
    """

    def __init__(self, plateau: Plateau, history: History, steppers: Sequence[Stepper]) -> None:
        self.plateau, self.history = plateau, history
        self.rates = Rates(steppers, plateau.lr_factor)
        self._seen = self._in_vain = 0

    def look(self) -> None:
        """Count checks in a row at which the loss was flat; the loop calls it after every step."""
        n = len(self.history)
        if n == self._seen or not due(self.plateau, n):
            return
        self.history.flush()  # on a GPU, too: when to look must not depend on when values were fetched
        self._seen = n
        since = self.rates.lowered[-1] if self.rates.lowered else 0
        self._in_vain = self._in_vain + 1 if self.history.flat(self.plateau, since) else 0

    @property
    def over(self) -> bool:
        """Whether training ends: the loss is flat, and was before rates fell if they do."""
        plateau = self.plateau
        waits = plateau.lr_factor is not None and not self.rates.lowered
        return plateau.ends and not waits and self._in_vain > 0

    def lower_rates(self) -> bool:
        """Lower the learning rates if the loss was flat at the last checks; return whether it did."""
        if self.plateau.lr_factor is None or self._in_vain < self.plateau.lr_patience:
            return False
        self.rates.lower(self._seen)
        self._in_vain = 0
        return True

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"lowered": self.rates.lowered, "seen": self._seen, "in_vain": self._in_vain}

    def restore(self, meta: Mapping[str, Any]) -> None:
        """Put `state` back; checkpoints of an earlier version have none."""
        self.rates.restore(meta.get("lowered", []))
        self._seen, self._in_vain = int(meta.get("seen", 0)), int(meta.get("in_vain", 0))
