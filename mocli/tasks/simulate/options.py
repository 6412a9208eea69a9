"""The options of `mocli simulate`, besides those that every subcommand has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mocli import parsing
from mocli.errors import UsageError
from mocli.options import Options, option
from mocli.tasks.run.options import given_model

SIMULATION = "Simulation"
PLACES = ("cells", "mixture", "mean")
AS_SOURCE, AVERAGE = "as-source", "average"
LIBRARIES = ("sampled", "median", "mean")
MARGINS = ("real", "likelihood", "independent")


def _library(value: Any, option: str) -> str | float:
    """Take one of `LIBRARIES`, or a number of counts above zero."""
    if value in LIBRARIES:
        return str(value)
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise UsageError(
            f"{option} does not accept '{value}'",
            field=option,
            expected=", ".join(LIBRARIES) + ", or a number of counts above 0",
        )
    return number


@dataclass(frozen=True)
class SimulateOptions(Options):
    """What only `mocli simulate` takes."""

    PANEL: ClassVar = SIMULATION

    LACKS: ClassVar = frozenset({"umap"})
    GONE: ClassVar = {"--mode": "--places cells (draw) or --places mean takes its place"}

    from_model: Path | None = given_model(". With it INPUT holds real cells to compare with")
    label: Sequence[str] = option(
        "--label COLUMN=VALUE",
        "Simulate cells of this label; COLUMN may be left out where one has the value; repeatable",
        default=(),
        shown="all labels",
    )
    component: Sequence[int] = option(
        "--component K", "Simulate cells of this cluster of the model, counted from 0; repeatable", default=()
    )
    fold: float | None = option(
        "--fold X",
        "Cells to simulate, as a multiple of the training cells with that label",
        parse=parsing.positive,
        shown="1",
    )
    n_cells: int | None = option(
        "--n-cells N", "Cells to simulate of each label, instead of --fold", parse=parsing.positive
    )
    modality: Sequence[str] = option(
        "--modality MOD", "Write this modality; repeatable", default=(), shown="all"
    )
    batch: str = option(
        "--batch LEVEL|average|as-source",
        "Batch of the cells; as-source: that of the training cell that each one follows",
        default=AS_SOURCE,
    )
    library: Any = option(
        "--library sampled|median|mean|N",
        "Library size of a cell: sampled from training cells of its label, their median or mean, or N",
        parse=_library,
        shown="sampled; mean with --places mean",
    )
    places: str | None = option(
        "--places",
        "Latent coordinates: around training cells, from the model's mixture components, or about the "
        "mean of the label as scCross does",
        choices=PLACES,
        shown="cells; mixture with --component",
    )

    margins: str = option(
        "--margins",
        "If INPUT holds the training cells, features correlate as in these. real: each feature is "
        "distributed as in the real cells of the label; likelihood: as the model draws it; "
        "independent: as drawn, without correlations",
        default="real",
        choices=MARGINS,
    )

    def check_together(self) -> None:
        """Refuse contradicting options, and settle what follows from other options."""
        if self.fold is not None and self.n_cells is not None:
            raise UsageError(
                "--fold and --n-cells both say how many cells",
                field="--fold, --n-cells",
                found=f"--fold {self.fold:g} --n-cells {self.n_cells}",
                hint="leave one of the two out",
            )
        if self.component and self.label:
            raise UsageError(
                "--label and --component both say which cells",
                field="--label, --component",
                hint="leave one of the two out",
            )

    @property
    def multiple(self) -> float | None:
        """Simulated cells for each training cell; None where their number is given."""
        return 1.0 if self.fold is None and self.n_cells is None else self.fold

    @property
    def about_mean(self) -> bool:
        """Whether latent coordinates are drawn about the mean of a label."""
        return self.places == "mean"

    @property
    def from_mixture(self) -> bool:
        """Whether latent coordinates are drawn from the model's mixture components."""
        return self.places == "mixture" or (self.places is None and bool(self.component))

    @property
    def correlates(self) -> bool:
        """Say whether features correlate as in real cells; these then give depth and batch."""
        sampled = self.library_size == "sampled" and self.batch == AS_SOURCE
        return self.margins != "independent" and sampled and not self.about_mean

    @property
    def library_size(self) -> str | float:
        """One of `LIBRARIES`, or a number of counts."""
        return self.library or ("mean" if self.about_mean else "sampled")
