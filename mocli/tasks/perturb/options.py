"""The options of `mocli perturb`, besides those that every subcommand has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mocli import parsing
from mocli.errors import UsageError
from mocli.options import Options, option
from mocli.tasks.run.options import OUTPUT, given_model

if TYPE_CHECKING:
    from mocli.tasks.perturb.cells import Effect, Selection
else:  # heavy: read when an option has a value
    Selection = Effect = Any

PERTURBATION = "Perturbation"
DIRECTIONS = ("up", "down", "both")
SCREENS = ("hvg", "all")


def _screen(value: str, option: str) -> str:
    if value not in SCREENS:
        raise UsageError(
            f"{option} takes {' or '.join(SCREENS)}",
            field=option,
            found=value,
            hint="names of features, and files of them, go to --features",
        )
    return value


@dataclass(frozen=True)
class PerturbOptions(Options):
    """What only `mocli perturb` takes."""

    PANEL: ClassVar = PERTURBATION

    LACKS: ClassVar = frozenset({"umap", "key_added"})

    source: Selection | None = option(
        "--from COLUMN=VALUE",
        "Cells to perturb",
        parse="mocli.tasks.perturb.cells:Selection.parse",
        shown="all that --to does not name",
    )
    target: Selection | None = option(
        "--to COLUMN=VALUE",
        "Cells to move towards: screen for the features that bring the perturbed cells there",
        parse="mocli.tasks.perturb.cells:Selection.parse",
    )
    from_model: Path | None = given_model()
    source_modality: str | None = option(
        "--source-modality MOD", "Modality whose features change", shown="expression"
    )
    screen: str | None = option(
        "--screen hvg|all",
        "Features to screen: the 2,000 most variable ones, or all that the model takes",
        parse=_screen,
        shown="hvg",
    )
    features: tuple[str, ...] = option(
        "--features A,B|FILE",
        "Change only these features; a file has one name a line",
        default=(),
        parse=parsing.names,
    )
    together: bool = option("--together", "Change all --features at once, as a signature", default=False)
    direction: str | None = option(
        "--direction",
        "Raise features, lower them, or one after the other",
        choices=DIRECTIONS,
        shown="both; down for a knock-out",
    )
    effect: Effect | None = option(
        "--effect EFFECT",
        "towards (what the cells of --to have), scale=SHARE, knockout, log-shift=X (normalised log) or "
        "count-shift=X",
        parse="mocli.tasks.perturb.cells:Effect.parse",
        shown="towards with --to and without --truth, else scale=0.5",
    )
    group_key: str | None = option(
        "--group-key COLUMN", "obs column: repeat within each of its groups, such as cell types"
    )
    min_cells: int = option(
        "--min-cells N",
        "Fewest cells of a group; the report names smaller groups, which are left out",
        default=100,
        marks="advanced",
        least=1,
    )
    target_modality: str | None = option(
        "--target-modality MOD",
        "Predict this modality when --features change, or measure the shifts of a screen in it too",
    )
    truth: str | None = option(
        "--truth COLUMN",
        "obs column that names the feature actually perturbed in each cell: compare predictions with it",
    )
    write_predicted: bool = option(
        "--write-predicted",
        "Also write OUT.predicted.h5mu: predicted values of each cell",
        default=False,
        marks="advanced",
        panel=OUTPUT,
    )

    @property
    def compared(self) -> frozenset[str]:
        """Columns of obs whose values are compared."""
        return frozenset(cells.column for cells in (self.source, self.target) if cells is not None)

    def check_together(self) -> None:
        """Refuse combinations that mean nothing."""
        if self.screen is not None and self.features:
            raise UsageError(
                "--screen and --features both say which features change",
                field="--screen, --features",
                hint="leave one of the two out",
            )
        if self.target is None and self.target_modality is None and self.truth is None:
            raise UsageError(
                "give --to (target cells) or --target-modality (what to predict)",
                field="--to, --target-modality",
                hint="add --to COLUMN=VALUE, or --target-modality MOD with --features",
            )
        if self.target_modality is not None and not (self.features or self.truth or self.target):
            raise UsageError(
                "to predict values, name the features to change",
                field="--target-modality",
                hint="add --features A,B; or --to COLUMN=VALUE, towards which a screen measures shifts",
            )
        if self.together and not self.features:
            raise UsageError("--together needs --features", field="--together", hint="add --features A,B")
        if self.write_predicted and (self.target_modality is None or not self.features):
            raise UsageError(
                "--write-predicted needs --features and --target-modality",
                field="--write-predicted",
                hint="add --features A,B --target-modality MOD",
            )
        if self.truth is not None and self.together:
            raise UsageError(
                "--truth names one perturbed feature for each cell",
                field="--truth, --together",
                hint="leave one of the two out",
            )
        if self.truth is not None and self.source is None:
            raise UsageError(
                "--truth needs the cells that were not perturbed",
                field="--from",
                hint=f"add --from {self.truth}=VALUE, the level of the control cells",
            )
        if self.effect is not None and self.effect.kind == "towards" and self.target is None:
            raise UsageError(
                "--effect towards needs target cells",
                field="--effect",
                hint="add --to COLUMN=VALUE, or choose --effect scale=0.5",
            )
        _ = self.directions  # those that the effect does not have are refused

    @property
    def directions(self) -> tuple[str, ...]:
        """`up`, `down`, or both."""
        return self.change.directions(self.direction or ("down" if self.truth is not None else None))

    @property
    def change(self) -> Effect:
        """How the values of a feature change."""
        from mocli.tasks.perturb.cells import Effect

        if self.effect is not None:
            return self.effect
        return Effect.parse("towards" if self.target is not None and self.truth is None else "scale=0.5")

    @property
    def screens(self) -> bool:
        """Say whether shifts towards a group are measured."""
        return self.target is not None

    @property
    def predicts(self) -> bool:
        """Whether values of a modality are predicted."""
        return self.truth is not None or (self.target_modality is not None and bool(self.features))

    @property
    def looks_across(self) -> bool:
        """Whether shifts are measured in the target modality too."""
        return self.screens and self.target_modality is not None
