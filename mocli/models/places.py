"""Capabilities of models that give a cell more than one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from mocli.data.bundle import Minibatch


@runtime_checkable
class PlacesCovariates(Protocol):
    """Capability: every categorical covariate has a space of its own, apart from the latent."""

    def covariate_places(self, batch: Minibatch) -> Mapping[str, Tensor]:
        """Return where cells of a minibatch lie in each, `(B, q)` by the covariate's key, deterministic."""
        ...
