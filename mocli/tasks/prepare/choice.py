"""The values of a modality that are used, their likelihood and their transform."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mocli.data.files.contents import LayerChoice, choose_layer
from mocli.data.files.modality import ModalityFile
from mocli.data.transforms.recipe import default_transform, seen
from mocli.data.transforms.transform import TRANSFORMS, occurrences
from mocli.errors import InputError, UsageError
from mocli.models.base import Traits
from mocli.parsing import one_of
from mocli.tasks.run.options import DataOptions
from mocli.types import (
    ANY_VALUES,
    CSR,
    LIKELIHOODS,
    NON_NEGATIVE,
    IntArray,
    ModalityKind,
    ValueKind,
    takes_counts,
)

LEAST_TOP, MOST_TOP = 1000, 3000
"""Highly variable features by default: two per cell, within these bounds."""

MOST_PEAKS = 40_000
"""Number of peaks used by default if they are not reduced to components."""

SIGNED_KINDS = frozenset({ModalityKind.OTHER, ModalityKind.METHYL, ModalityKind.CYTO})
"""Kinds whose values can be negative: M-values, compensated intensities."""

_VALUE_WORDS = {
    ValueKind.COUNTS: "counts",
    ValueKind.LOGNORM: "log-like values",
    ValueKind.POSITIVE: "positive values",
    ValueKind.REAL: "values of both signs",
}


@dataclass(frozen=True, eq=False)
class Choice:
    """One modality before its matrix is read.

    Attributes:
        likelihood: Likelihood of the values in the model; None for models without a choice.
        signed: Whether negative values are allowed: by kind, or because the user named a transform that takes
            them.
        n_top: Number of highly variable features; None keeps all.
        keep: Names of features that are kept in addition.
        seen_in: Share or number of the cells in which the other features must be detected.
        selects: Whether the user chose the features to keep.
    """

    file: ModalityFile
    layer: LayerChoice
    transform: str
    reason: str
    signed: bool
    n_top: int | None
    likelihood: str | None = None
    keep: tuple[str, ...] = ()
    seen_in: float | None = None
    selects: bool = False

    @property
    def taken(self) -> str:
        """How the model takes the values, in words."""
        return TRANSFORMS[self.transform].taken

    @property
    def summary(self) -> str:
        """Say what was chosen and why."""
        words = self.layer.layer if self.layer.layer in {"X", "raw"} else f"layers['{self.layer.layer}']"
        values = f"values from {words} ({self.layer.reason})"
        likelihood = f", likelihood {self.likelihood}" if self.likelihood else ""
        return f"{self.file.name}: {values}, transform {self.transform}{likelihood} ({self.reason})"


def choose(file: ModalityFile, data: DataOptions, traits: Traits) -> Choice:
    """Choose layer and transform of a modality from a sample of its values.

    Raises:
        UsageError: The transform does not exist, or --hvg is given where no features are selected.
        InputError: If no layer fits the model and the transform.
    """
    transform_wanted = data.transform.get(file.name)
    if transform_wanted is not None:
        one_of(transform_wanted, list(TRANSFORMS), "--transform")
    wanted = _wanted_likelihood(file, data, traits, transform_wanted)
    named = None if transform_wanted is None else TRANSFORMS[transform_wanted]
    needs_counts = takes_counts(wanted) or (named is not None and named.is_for_counts)
    may_be_negative = file.kind in SIGNED_KINDS and LIKELIHOODS.get(wanted or "") != NON_NEGATIVE
    signed = may_be_negative if named is None else not named.is_counted
    layer = _layer(
        file, data.layer.get(file.name), transform_wanted, traits, signed=signed, counts=needs_counts
    )
    likelihood = wanted or _default_likelihood(file.kind, layer.values, traits, transform_wanted)
    transform = transform_wanted or _transform(file, layer, likelihood)
    how = TRANSFORMS[transform]
    for option, features in (("--hvg", data.hvg), ("--seen-in", data.seen_in)):
        if how.reduces and file.name in features:
            raise UsageError(
                f"{option} has no effect on {file.name}, whose TF-IDF and LSI use every feature",
                field=option,
                hint=f"leave it out, or choose --transform {file.name}=lognorm",
            )
    return Choice(
        file=file,
        layer=layer,
        transform=transform,
        reason="as asked" if transform_wanted else f"usual for {file.kind} with {_VALUE_WORDS[layer.values]}",
        signed=signed and not how.is_counted,
        n_top=_n_top(
            file,
            data,
            peaks=file.kind is ModalityKind.ATAC and not how.reduces,
            all_kept=not traits.selects_features,
        ),
        likelihood=likelihood,
        keep=tuple(data.keep.get(file.name, ())),
        seen_in=_seen_in(file, data),
        selects=file.name in data.hvg or file.name in data.seen_in,
    )


def _wanted_likelihood(
    file: ModalityFile, data: DataOptions, traits: Traits, transform: str | None
) -> str | None:
    """Return the likelihood that was asked for, by name or by a transform, after checking it."""
    likelihood = data.likelihood.get(file.name)
    is_for_counts = transform is not None and TRANSFORMS[transform].is_for_counts
    if likelihood is None:
        return "normal" if traits.likelihoods and transform and not is_for_counts else None
    one_of(likelihood, list(LIKELIHOODS), "--likelihood")
    offered = traits.likelihoods.get(file.kind, ())
    if likelihood not in offered:
        raise UsageError(
            f"{traits.name} does not take {file.kind} values for {likelihood}",
            field="--likelihood",
            expected=", ".join(offered) or "no likelihood: this model has its own",
            hint=f"leave --likelihood {file.name}={likelihood} out, or choose another model",
        )
    if transform is not None and is_for_counts != takes_counts(likelihood):
        raise UsageError(
            f"the likelihood {likelihood} is not for values after {transform}",
            field="--likelihood",
            found=f"--transform {file.name}={transform} and --likelihood {file.name}={likelihood}",
            hint=f"leave out one of the two; {likelihood} needs {LIKELIHOODS[likelihood]}",
        )
    return likelihood


def _default_likelihood(
    kind: ModalityKind, values: ValueKind, traits: Traits, transform: str | None
) -> str | None:
    """Return the first likelihood of the model that fits the values."""
    is_free = transform is None or not TRANSFORMS[transform].is_for_counts
    for name in traits.likelihoods.get(kind, ()):
        needs = LIKELIHOODS[name]
        fits = {"counts": values is ValueKind.COUNTS, ANY_VALUES: is_free}.get(
            needs, values is not ValueKind.REAL and is_free
        )
        if fits:
            return name
    return None


def _transform(file: ModalityFile, layer: LayerChoice, likelihood: str | None) -> str:
    if takes_counts(likelihood):
        return "counts"
    if LIKELIHOODS.get(likelihood or "") == NON_NEGATIVE:
        return "identity"
    sample = file.sample(layer.layer)
    largest = float(sample.data.max()) if sample.nnz else 0.0
    transform = default_transform(file.kind, layer.values, max_value=largest)
    if likelihood is not None and TRANSFORMS[transform].reduces:
        # a likelihood is of features, not of components
        return "lognorm" if layer.values is ValueKind.COUNTS else "identity"
    return transform


def _layer(
    file: ModalityFile,
    requested: str | None,
    transform_wanted: str | None,
    traits: Traits,
    *,
    signed: bool,
    counts: bool,
) -> LayerChoice:
    always = traits.expects[file.kind] == "counts"
    counts = counts or always
    normal = transform_wanted is None and not always and "normal" in traits.likelihoods.get(file.kind, ())
    layer = choose_layer(file, requested, wants_counts=counts, allow_negative=signed, takes_normal=normal)
    if transform_wanted == "lognorm" and layer.values is ValueKind.LOGNORM:
        # a second logarithm is never meant; scaled counts are welcome
        return choose_layer(file, layer.layer, wants_counts=True)
    return layer


def _n_top(file: ModalityFile, data: DataOptions, *, peaks: bool, all_kept: bool) -> int | None:
    default = 0 if all_kept else usual_top(file.n_obs, peaks=peaks)
    n = int(data.hvg.get(file.name, default))
    if n < 0:
        raise UsageError("--hvg needs a number that is not negative", field="--hvg", found=n)
    return n or None  # 0 keeps every feature


def usual_top(n_obs: int, *, peaks: bool) -> int:
    """Return how many highly variable features, or peaks, are kept by default for this many cells."""
    return MOST_PEAKS if peaks else min(max(2 * n_obs, LEAST_TOP), MOST_TOP)


def tell_seen(choice: Choice, x: CSR, chosen: IntArray, say: Callable[[str], None]) -> None:
    """Log how many features are detected in as many cells as asked, and how many are kept besides.

    Raises `InputError`: there is none.
    """
    if choice.seen_in is None:
        return
    seen_often, name, limit = seen(x, choice.seen_in), choice.file.name, choice.seen_in
    cells = f"{limit:.3g} of the cells" if limit < 1 else f"{int(limit):,} cells"
    if not len(seen_often):
        raise InputError(
            f"no feature of {name} is seen in {cells}",
            file=choice.file.where,
            field="--seen-in",
            found=f"{int(occurrences(x).max(initial=0)):,} cells at most",
            hint="ask for fewer",
        )
    rare = len(np.setdiff1d(chosen, seen_often))
    besides = f"; {rare:,} rarer ones are kept because they are linked or asked for" if rare else ""
    say(f"{name}: {len(seen_often):,} of {x.shape[1]:,} features are seen in at least {cells}{besides}")


def _seen_in(file: ModalityFile, data: DataOptions) -> float | None:
    share_or_number = data.seen_in.get(file.name)
    if share_or_number is None:
        return None
    if (
        share_or_number <= 0
        or (share_or_number >= 1 and share_or_number != int(share_or_number))
        or share_or_number > file.n_obs
    ):
        raise UsageError(
            "--seen-in needs a share of the cells or a number of them",
            field="--seen-in",
            found=f"{file.name}={share_or_number:g}",
            expected=f"above 0 and below 1, or a whole number from 1 to {file.n_obs}",
        )
    return float(share_or_number)
