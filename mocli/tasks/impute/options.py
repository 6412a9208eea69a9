"""What `mocli impute` is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mocli.tasks.impute.holdout import HoldOut
from mocli.types import Route

CELLS = ("missing", "all")


@dataclass(frozen=True)
class ImputeOptions:
    """What is asked of an imputation, beside what training needs."""

    source: str | None
    target: str | None
    from_model: Path | None
    cells: str
    evaluate: bool
    hold_out: HoldOut
    scale: str
    coverage: float
    features: tuple[str, ...]
    route: str = Route.READOUT
    decode_batch: str | None = None
    draw: bool = False

    @property
    def denoises(self) -> bool:
        """Whether a modality is asked for from itself."""
        return self.source is not None and self.source == self.target
