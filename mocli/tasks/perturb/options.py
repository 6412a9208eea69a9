"""What is asked of a perturbation, beside what training needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mocli.tasks.perturb.cells import Selection
from mocli.tasks.perturb.effect import Effect

MIN_CELLS = 100
"""Cells of a group below which it is reported as left out; single shifts are noisy."""

SCREENS = ("hvg", "all")


@dataclass(frozen=True)
class PerturbOptions:
    """What is asked of a perturbation, beside what training needs.

    Attributes
    ----------
    screen
        `hvg`, `all`, or empty where `features` are named.
    directions
        `up`, `down`, or both.
    """

    source: Selection | None
    target: Selection | None
    from_model: Path | None
    source_modality: str | None
    screen: str
    features: tuple[str, ...]
    together: bool
    effect: Effect
    directions: tuple[str, ...]
    group_key: str | None
    min_cells: int
    target_modality: str | None
    write_predicted: bool
    truth: str | None

    @property
    def screens(self) -> bool:
        """Whether shifts towards a group are measured."""
        return self.target is not None

    @property
    def predicts(self) -> bool:
        """Whether values of a modality are predicted."""
        return self.truth is not None or (self.target_modality is not None and bool(self.features))

    @property
    def looks_across(self) -> bool:
        """Whether shifts are measured in the target modality too."""
        return self.screens and self.target_modality is not None
