"""What `mocli gene2peak` is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

METHODS = ("auto", "correlation", "latent", "input")
STEPS = ("adam", "sign", "norm")
ALTERNATIVES = ("two-sided", "positive", "negative")
PEAK_SETS = ".peaksets.tsv"


@dataclass(frozen=True)
class Gene2PeakOptions:
    """Which genes, how far around them, over which cells; names as the command line's options.

    Attributes
    ----------
    genes
        Those to test, all where empty.
    min_cells
        Cells that must express a gene, in all and in a group.
    """

    source: str | None = None
    target: str | None = None
    from_model: Path | None = None
    gtf: Path | None = None
    genes: tuple[str, ...] = ()
    window: int | None = None
    method: str = "auto"
    group_key: str | None = None
    n_permutations: int = 20
    bedpe: bool = False
    direction: str = "silence"
    step: str = "adam"
    together: bool = False
    min_cells: int = 20
    alternative: str = "two-sided"
    peak_sets: Path | None = None
    truth: Path | None = None

    @property
    def of_silencing(self) -> list[str]:
        """Options given that a correlation has no use for."""
        given = {
            "--direction": self.direction != "silence",
            "--step": self.step != "adam",
            "--together": self.together,
            "--peak-sets": self.peak_sets is not None,
            "--truth": self.truth is not None,
            "--alternative": self.alternative != "two-sided",
        }
        return [option for option, value in given.items() if value]
