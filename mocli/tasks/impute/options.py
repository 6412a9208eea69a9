"""The options of `mocli impute`, besides those that every subcommand has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mocli import parsing
from mocli.errors import UsageError
from mocli.options import Options, option
from mocli.tasks.run.options import given_model
from mocli.types import Route

if TYPE_CHECKING:
    from mocli.tasks.impute.holdout import Groups, HoldOut
else:  # heavy: read when the options are made
    Groups = HoldOut = Any

IMPUTATION = "Imputation"
CELLS = ("missing", "all")
SCALES = ("log", "counts", "scaled", "shares")
OWN = "own"


@dataclass(frozen=True)
class ImputeOptions(Options):
    """What only `mocli impute` takes."""

    PANEL: ClassVar = IMPUTATION

    LACKS: ClassVar = frozenset({"umap"})
    GONE: ClassVar = dict.fromkeys(
        ("--relations", "--gtf", "--window"), "use `mocli gene2peak --method correlation` instead"
    )

    source: str | None = option("--from MOD", "Modality that the cells have")
    target: str | None = option(
        "--to MOD", "Modality to impute. Give the --from modality again to denoise it"
    )
    from_model: Path | None = given_model()
    cells: str = option(
        "--cells",
        "missing: cells without the target; all: also measured ones",
        default="missing",
        choices=CELLS,
    )
    features: tuple[str, ...] = option(
        "--features A,B|FILE",
        "Impute only these features; a file has one name a line",
        default=(),
        parse=parsing.names,
    )
    evaluate: bool = option(
        "--evaluate",
        "Hide measured values, predict them and compare; with --label-key also by label",
        default=False,
    )
    compare_groups: Groups | None = option(
        "--compare-groups COLUMN[=A,B]",
        "Features that differ between groups of cells, such as types or conditions, by the decoder of a "
        "model (with --to the --from modality) or by imputed values (with --evaluate), and by measured "
        "ones (OUT.groups.tsv)",
        marks="advanced",
        parse="mocli.tasks.impute.holdout:Groups.parse",
    )
    hold_out: HoldOut = option(
        "--hold-out SHARE|COLUMN=VALUE",
        "Share of paired cells held out of training, for accuracy and intervals; or all cells of one batch",
        default="0.2",
        parse="mocli.tasks.impute.holdout:HoldOut.parse",
    )
    scale: str = option(
        "--scale",
        "log: normalised, logged (antibodies: CLR); counts: at median depth (denoised: the cell's own); "
        "scaled: in standard deviations; shares: of the cell's total, denoised only",
        default="log",
        choices=SCALES,
    )
    route: str = option(
        "--route",
        "stack: several closed-form ways weighed by what they predict; decoder: the model's own; "
        "readout: a regression on its latent coordinates; auto: the stack where the model holds one",
        default=Route.AUTO.value,
        choices=tuple(route.value for route in Route),
    )
    coverage: float = option(
        "--coverage X",
        "Share of true values that prediction intervals cover",
        default=0.9,
        parse=parsing.share,
    )
    decode_batch: str | None = option(
        "--decode-batch LEVEL|own|average",
        "Batch to decode under: a level, each cell's own, or the mean over batches in which the target "
        "was measured",
        marks="advanced",
        shown="average",
    )
    draw: bool = option(
        "--draw",
        "Also write a draw of each value from the model's likelihood, at the depth of the cell",
        default=False,
        marks="advanced",
    )

    @property
    def denoises(self) -> bool:
        """Say whether the target is the source itself."""
        return self.source is not None and self.source == self.target

    def check_together(self) -> None:
        """Refuse combinations that mean nothing."""
        if self.decode_batch is not None and self.route in {Route.READOUT, Route.STACK}:
            raise UsageError(
                "only a decoder's values depend on the batch",
                field="--decode-batch",
                found=f"--decode-batch {self.decode_batch} with --route {self.route}",
                hint="leave one of the two out",
            )
        if self.compare_groups is not None and not (self.evaluate or self.denoises):
            raise UsageError(
                "groups are compared by imputed and measured values, which needs both",
                field="--compare-groups",
                hint="add --evaluate, which hides measured values and predicts them; or give --to the --from "
                "modality, which compares what the model expects of these cells",
            )
        if self.compare_groups is not None and self.denoises and self.decode_batch == OWN:
            raise UsageError(
                "groups are compared in one batch, not each cell in its own",
                field="--decode-batch",
                found=f"--decode-batch {OWN} with --compare-groups",
                hint="leave --decode-batch out, or name one batch",
            )
        if not self.denoises and self.scale == "shares":
            raise UsageError(
                "--scale shares needs cells in which the modality was measured",
                field="--scale",
                found=f"--scale shares --from {self.source} --to {self.target}",
                hint="--scale counts gives what a cell of median depth would have",
            )
        if not self.denoises:
            return
        held_out = self.hold_out.column is not None or self.hold_out.share not in {0.0, 0.2}
        for is_given, name, why in (
            (self.evaluate, "--evaluate", "so --evaluate would only measure reconstruction"),
            (held_out, "--hold-out", "so no cells need to be held out"),
        ):
            if is_given:
                raise UsageError(
                    f"denoising uses the measured values themselves, {why}",
                    field=name,
                    found=f"--from {self.source} --to {self.target}",
                    hint=f"leave {name} out, or impute another modality",
                )
