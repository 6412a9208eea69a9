"""What is asked of an integration, beside what training needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mocli.errors import UsageError
from mocli.models.base import Draws, EncodesJointly, Model
from mocli.models.registry import available, load_class


@dataclass(frozen=True)
class TransferOptions:
    """Which columns of obs to carry over, and the least confidence for a label."""

    columns: tuple[str, ...] = ()
    min_confidence: float = 0.5

    @classmethod
    def of(cls, columns: str | Sequence[str] | None, min_confidence: float) -> TransferOptions:
        """Take columns as a list, or as the command line gives them: with commas between.

        Raises
        ------
        UsageError
            A confidence outside [0, 1].
        """
        if not 0 <= min_confidence <= 1:
            raise UsageError(
                "the least confidence must lie between 0 and 1",
                field="--min-confidence",
                found=str(min_confidence),
            )
        parts = columns.split(",") if isinstance(columns, str) else list(columns or ())
        return cls(tuple(dict.fromkeys(p.strip() for p in parts if p.strip())), min_confidence)


@dataclass(frozen=True)
class IntegrateOptions:
    """What is asked of an integration.

    Attributes
    ----------
    reference
        Folder of the trained model among whose cells those of the inputs are placed.
    clusters
        Resolution of the Louvain clusters; None for none.
    samples
        Draws from the posterior of every cell.
    alone
        Whether to write the latent coordinates of cells by each of their modalities alone.
    """

    transfer: TransferOptions
    reference: Path | None = None
    metrics: bool = True
    clusters: float | None = None
    samples: int = 0
    alone: bool = False

    def check(self, model: type[Model], name: str) -> None:
        """Make sure that a model can give what is asked for besides the latent; `UsageError` if not."""
        if self.samples < 0:
            raise UsageError("--sample needs a number that is not negative", field="--sample")
        if self.samples and not issubclass(model, Draws):
            able = [n for n, traits in available().items() if issubclass(load_class(traits.model), Draws)]
            raise UsageError(
                f"{name} gives each cell one latent coordinate and has no posterior to draw from",
                field="--sample",
                hint="leave --sample out, or use a model that has one: " + ", ".join(able),
            )
        if self.alone and not issubclass(model, EncodesJointly):
            raise UsageError(
                f"{name} gives each modality latent coordinates of its own as it is",
                field="--marginal",
                hint="leave --marginal out: obsm of each modality holds its own latent",
            )
