"""Which values of a modality are used, and by which transform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mocli.data.transforms import TRANSFORMS, default_transform
from mocli.data.values import choose_layer
from mocli.errors import UsageError
from mocli.tasks.options import one_of
from mocli.types import ModalityKind, ValueKind

if TYPE_CHECKING:
    from mocli.data.io import ModalityFile
    from mocli.data.values import LayerChoice
    from mocli.models.base import Traits
    from mocli.tasks.options import DataOptions

LEAST_TOP, MOST_TOP = 1000, 3000
"""Highly variable features by default: two per cell, within these bounds."""

SIGNED_KINDS = frozenset({ModalityKind.OTHER, ModalityKind.METHYL, ModalityKind.CYTO})
"""Kinds whose values may be negative by nature: M-values, compensated intensities."""

SIGNED_TRANSFORMS = frozenset({"identity", "arcsinh"})

_VALUE_WORDS = {
    ValueKind.COUNTS: "counts",
    ValueKind.LOGNORM: "log-like values",
    ValueKind.POSITIVE: "positive values",
    ValueKind.REAL: "values of both signs",
}


@dataclass(frozen=True, eq=False)
class Choice:
    """One modality before its matrix is read.

    Attributes
    ----------
    signed
        Whether negative values are allowed: by kind, or because the user named a
        transform that takes them.
    n_top
        Number of highly variable features; None keeps all.
    """

    file: ModalityFile
    layer: LayerChoice
    transform: str
    reason: str
    signed: bool
    n_top: int | None

    @property
    def summary(self) -> str:
        """Say what was chosen and why."""
        words = self.layer.layer if self.layer.layer in {"X", "raw"} else f"layers['{self.layer.layer}']"
        values = f"values from {words} ({self.layer.reason})"
        return f"{self.file.name}: {values}, transform {self.transform} ({self.reason})"


def choose(file: ModalityFile, data: DataOptions, traits: Traits) -> Choice:
    """Choose layer and transform of a modality from a sample of its values.

    Raises
    ------
    UsageError
        For a transform that does not exist, or highly variable features where none are chosen.
    InputError
        If no layer fits the model and the transform.
    """
    asked = data.transform.get(file.name)
    if asked is not None:
        one_of(asked, list(TRANSFORMS), "--transform")
    signed = asked in SIGNED_TRANSFORMS or (asked is None and file.kind in SIGNED_KINDS)
    layer = _layer(file, data.layer.get(file.name), asked, traits, signed=signed)
    seen = file.sample(layer.layer)
    largest = float(seen.data.max()) if seen.nnz else 0.0
    transform = asked or default_transform(file.kind, layer.values, max_value=largest)
    if transform == "tfidf-lsi" and file.name in data.hvg:
        raise UsageError(
            f"--hvg has no effect on {file.name}, whose TF-IDF and LSI use every feature",
            field="--hvg",
            hint=f"leave it out, or choose --transform {file.name}=lognorm",
        )
    return Choice(
        file=file,
        layer=layer,
        transform=transform,
        reason="as asked" if asked else f"{file.kind} with {_VALUE_WORDS[layer.values]}",
        signed=signed and transform in SIGNED_TRANSFORMS,
        n_top=_n_top(file, data),
    )


def _layer(
    file: ModalityFile, requested: str | None, asked: str | None, traits: Traits, *, signed: bool
) -> LayerChoice:
    counts = traits.expects[file.kind] == "counts" or asked == "counts"
    layer = choose_layer(file, requested, wants_counts=counts, allow_negative=signed)
    if asked == "lognorm" and layer.values is ValueKind.LOGNORM:
        # a second logarithm is never meant; scaled counts are welcome
        return choose_layer(file, layer.layer, wants_counts=True)
    return layer


def _n_top(file: ModalityFile, data: DataOptions) -> int | None:
    n = int(data.hvg.get(file.name, min(max(2 * file.n_obs, LEAST_TOP), MOST_TOP)))
    if n < 0:
        raise UsageError("--hvg needs a number that is not negative", field="--hvg", found=n)
    return n or None  # 0 keeps every feature
