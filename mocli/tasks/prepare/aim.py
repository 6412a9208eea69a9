"""What a model is trained for, and how much is fitted where cells were measured in both of two modalities."""

from __future__ import annotations

from dataclasses import dataclass

from mocli.tasks.prepare.plan import Plan
from mocli.types import Pairing, Task

FEWEST_PAIRS = 50
"""Cells measured in both, below which nothing is stacked, and no readout fitted to places by one modality."""
MOST_PAIRS = 5_000
"""Cells measured in both that are fitted to; of more, so many drawn at random."""
MOST_FEATURES = 2_500
"""Features of a target to which an integration keeps a stack: wider ones take minutes, and 100 MB."""


@dataclass(frozen=True)
class Aim:
    """What a model is trained for: what memory and time after its training depend on.

    Attributes:
        target: The modality that is imputed; None where none is, or where it is not known.
        silenced: Genes that will fall silent one by one, as many as are asked for, or 0.
        backed: Whether cells stay on disk; None: if they need more memory than the run may use.
        stacked: Whether an integration keeps stacks.
    """

    task: Task
    target: str | None = None
    silenced: int = 0
    backed: bool | None = False
    stacked: bool = True

    def stacks(self, plan: Plan) -> list[tuple[int, int]]:
        """Return cells and features of every stack that will be fitted (`mocli.tasks.trained.stackfit`)."""
        if plan.relation.pairing is Pairing.UNPAIRED:
            return []
        width = {choice.file.name: choice.file.n_vars for choice in plan.choices}
        targets = [
            (target, min(len(rows), MOST_PAIRS))
            for pair, rows in plan.pairs.items()
            if len(rows) >= FEWEST_PAIRS
            for target in pair
        ]
        if self.task is Task.INTEGRATE:
            targets = targets if self.stacked else []
            return [(n, width[target]) for target, n in targets if width[target] <= MOST_FEATURES]
        if self.task is not Task.IMPUTE:
            return []
        wanted = [(n, width[target]) for target, n in targets if self.target in (None, target)]
        return [max(wanted, key=lambda stack: stack[1])] if wanted else []
