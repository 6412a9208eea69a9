"""What is written beside the latent: draws and places by one modality, if asked for; covariates' places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mocli.errors import UsageError
from mocli.models.base import Draws
from mocli.models.places import PlacesCovariates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mocli.data.bundle import MultiOmics
    from mocli.models.base import Model
    from mocli.tasks.run.run import Run
    from mocli.tasks.trained.latent import Latent
    from mocli.types import FloatArray


@dataclass(frozen=True)
class Beside:
    """What else of the latent to write.

    Attributes
    ----------
    samples
        Draws from the posterior of every cell.
    alone
        Whether to write where cells would lie by each of their modalities alone.
    """

    samples: int = 0
    alone: bool = False

    def check(self, model: type[Model] | Model, name: str) -> None:
        """Make sure that a model has a posterior to draw from; `UsageError` if not."""
        if self.samples < 0:
            raise UsageError("--sample needs a number that is not negative", field="--sample")
        if self.samples and not hasattr(model, "draw_cells"):
            raise UsageError(
                f"{name} has one place for each cell and nothing to draw from",
                field="--sample",
                hint="leave --sample out, or take multigrate",
            )
        if self.alone and not hasattr(model, "encode_cells"):
            raise UsageError(
                f"{name} places modalities apart as it is",
                field="--marginal",
                hint="leave --marginal out: obsm of each modality holds its own latent",
            )

    def of(
        self,
        run: Run,
        model: Model,
        bundle: MultiOmics,
        latent: Latent,
        key: str,
        names: Mapping[str, str],
    ) -> dict[str, dict[str, FloatArray]]:
        """Return arrays `(n_obs, d)` by obsm key, then by the file's name of the modality.

        Parameters
        ----------
        key
            obsm key of the latent.
        names
            The file's name of each of the model's modalities.
        """
        found: dict[str, dict[str, FloatArray]] = {}
        if self.samples and isinstance(model, Draws):
            # imported here: a dry run must not pay for torch
            from mocli.train.predict import draw_cells

            draws = draw_cells(model, bundle, run.device, self.samples, seed=run.options.seed)
            for i, z in enumerate(draws, start=1):
                found[f"{key}_sample_{i}"] = {own: z[bundle.cells_of(name)] for name, own in names.items()}
        if isinstance(model, PlacesCovariates) and latent.joint is not None:
            from mocli.train.predict import place_covariates

            for covariate, c in place_covariates(model, bundle, run.device).items():
                found[f"{key}_{covariate}"] = {own: c[bundle.cells_of(name)] for name, own in names.items()}
        if self.alone:
            for name, z in latent.alone.items():
                found[f"{key}_{names[name]}"] = {names[name]: z}
        return found
