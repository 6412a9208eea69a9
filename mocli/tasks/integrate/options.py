"""The options of `mocli integrate`, besides those that every subcommand has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mocli import parsing
from mocli.errors import UsageError
from mocli.models.base import Draws, EncodesJointly, Model
from mocli.models.registry import available, load_class
from mocli.options import Options, option
from mocli.tasks.run.options import BEST, OUTPUT, RUN

INTEGRATION = "Integration"
METRICS = ("leading", "all", "none")


@dataclass(frozen=True)
class TransferOptions:
    """Which columns of obs to carry over, and what makes a cell unknown.

    Attributes:
        min_confidence: Least share of the vote for a label.
        unknown_below: Least mapping score; None to find it on labels left out in turn.
    """

    columns: tuple[str, ...] = ()
    min_confidence: float = 0.5
    unknown_below: float | None = None


@dataclass(frozen=True)
class IntegrateOptions(Options):
    """What only `mocli integrate` takes."""

    PANEL: ClassVar = INTEGRATION
    GONE: ClassVar = {"--no-metrics": "--metrics none takes its place"}

    reference: Path | None = option(
        "--reference DIR",
        "Add the cells to those of a trained model (OUT.model); only new weights are trained",
    )
    transfer_labels: tuple[str, ...] = option(
        "--transfer-labels COLUMN[,COLUMN]",
        "Label cells that lack this obs column by their neighbours in other modalities or the reference",
        default=(),
        parse=parsing.words,
    )
    min_confidence: float = option(
        "--min-confidence X",
        "Transferred labels with lower confidence become 'unknown'",
        default=0.5,
        parse=parsing.share_or_end,
    )
    unknown_below: float | None = option(
        "--unknown-below X",
        "Cells whose mapping score is lower become 'unknown': they lie far from all labelled cells",
        parse=parsing.share_or_end,
        shown="found by leaving labels out",
    )
    metrics: str = option(
        "--metrics",
        "Metrics of the integration and of baselines: the leading ones, all that apply, or none",
        default="leading",
        choices=METRICS,
    )
    backed: bool | None = option(
        "--backed/--no-backed",
        "Leave the cells on disk, packed in $TMPDIR, and read them a minibatch at a time ("
        + ", ".join(name for name, traits in available().items() if traits.backed)
        + ")",
        marks="volatile advanced",
        panel=RUN,
        shown="where memory would exceed --max-memory",
    )
    clusters: float | None = option(
        "--clusters RESOLUTION|none",
        "Louvain clusters of the k-NN graph at this resolution, as obs <model>_louvain",
        default=1.0,
        marks="text",
        parse=parsing.positive_or_none,
    )
    marginal: bool = option(
        "--marginal",
        "Also write the latent coordinates by each modality alone, as obsm X_<model>_rna, ...",
        default=False,
        marks="advanced",
        panel=OUTPUT,
    )
    matches: bool = option(
        "--matches",
        "Also write OUT.matches.tsv: cells of two modalities that are each other's nearest, with a score",
        default=False,
        marks="advanced",
        panel=OUTPUT,
    )
    modality_weights: bool = option(
        "--modality-weights",
        "Also write how informative each modality is for a cell measured in all, as obs weight_<modality>",
        default=False,
        marks="advanced",
        panel=OUTPUT,
    )
    ways: bool = option(
        "--ways/--no-ways",
        "Keep in OUT.model how modalities follow from each other in cells measured in both, for impute",
        default=True,
        marks="trains advanced",
        panel=OUTPUT,
    )
    sample: int = option(
        "--sample N",
        "Also write N draws from the posterior of each cell, as obsm X_<model>_sample_1, ...",
        default=0,
        marks="advanced",
        panel=OUTPUT,
        least=0,
    )

    @property
    def transfer(self) -> TransferOptions:
        """The options of the transfer of labels."""
        return TransferOptions(self.transfer_labels, self.min_confidence, self.unknown_below)

    def check_together(self) -> None:
        """Refuse to leave cells on disk that nothing is trained on."""
        if self.backed and self.reference is not None:
            raise UsageError(
                "cells that are placed among those of a reference are read into memory",
                field="--backed",
                hint="leave --backed out, or place them in parts",
            )

    def check_model(self, model: str) -> None:
        """Refuse to compare models on cells that stay on disk."""
        if self.backed and model == BEST:
            raise UsageError(
                f"--model {BEST} compares models on cells in memory",
                field="--backed",
                hint="leave --backed out, or name the model with -m",
            )

    def check(self, model: type[Model], name: str) -> None:
        """Make sure that a model can give what is asked for besides the latent; `UsageError` if not."""
        if self.sample and not issubclass(model, Draws):
            able = [n for n, traits in available().items() if issubclass(load_class(traits.model), Draws)]
            raise UsageError(
                f"{name} gives each cell one latent coordinate and has no posterior to draw from",
                field="--sample",
                hint="leave --sample out, or use a model that has one: " + ", ".join(able),
            )
        if self.marginal and not issubclass(model, EncodesJointly):
            raise UsageError(
                f"{name} gives each modality its own latent coordinates anyway",
                field="--marginal",
                hint="leave --marginal out: obsm of each modality holds its own latent",
            )
