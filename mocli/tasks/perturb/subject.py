"""Which file's cells are perturbed, found before a model is trained or used: a dry run finds the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from mocli.data.files.modality import ModalityFile
from mocli.errors import InputError, UsageError, did_you_mean
from mocli.tasks.perturb.cells import ChosenCells, choose_cells, doubt_of_batches, modality_to_perturb
from mocli.tasks.perturb.options import PerturbOptions
from mocli.tasks.run.frame import Tell
from mocli.tasks.run.request import Request
from mocli.types import ModalityKind

if TYPE_CHECKING:
    from mocli.tasks.trained.saved import SavedModel


def among_inputs(
    request: Request, options: PerturbOptions, files: Sequence[ModalityFile], tell: Tell
) -> tuple[ModalityFile, ChosenCells]:
    """Find the file and the cells where a model will be trained on the files.

    Raises `InputError` or `UsageError`: a modality, a column, a value or a feature is not there.
    """
    kinds = {f.name: f.kind for f in files}
    name = modality_to_perturb(kinds, options.source_modality, "the inputs")
    file = next(f for f in files if f.name == name)
    chosen = _cells(file, options)
    if doubt := doubt_of_batches(file, request.data.batch_key, chosen):
        tell.warn(doubt)
    _check_names(options.features, map(str, file.var.index), name, file.where)
    _check_target(options.target_modality, kinds, "the inputs have")
    return file, chosen


def in_model(
    saved: SavedModel, options: PerturbOptions, files: Sequence[ModalityFile]
) -> tuple[str, ModalityFile, ChosenCells]:
    """Find the modality, its file and the cells among those of a model that is trained already.

    Raises `InputError` or `UsageError`: as `among_inputs`; or no input is a modality of the model.
    """
    # imported here: a dry run of a training must not pay for torch
    from mocli.tasks.infer.align import check_modality, find_modality, given_modality

    if options.source_modality is not None:
        check_modality(saved, options.source_modality, "--source-modality")
    _check_target(options.target_modality, saved.modalities, "the model has")
    kinds = {
        name: ModalityKind(entry["kind"])
        for name, entry in saved.modalities.items()
        if options.source_modality == name or find_modality(files, name, saved) is not None
    }
    if not kinds:
        raise InputError(
            "no input is a modality of the model",
            file=", ".join(f.where for f in files),
            found=", ".join(f"{f.name} ({f.kind})" for f in files),
            expected=", ".join(saved.modalities),
            hint="name it: rna=FILE",
        )
    name = modality_to_perturb(kinds, options.source_modality, "the model")
    file = given_modality(files, name, saved, "--source-modality")
    chosen = _cells(file, options)
    _check_names(options.features, saved.modalities[name]["var_names"], name, str(options.from_model))
    return name, file, chosen


def _cells(file: ModalityFile, options: PerturbOptions) -> ChosenCells:
    return choose_cells(
        file, options.source, options.target, group_key=options.group_key, truth=options.truth
    )


def _check_names(features: Sequence[str], names: Iterable[str], modality: str, where: str) -> None:
    """Raise `InputError` for features that are not there, with the nearest names."""
    present = set(map(str, names))
    unknown = [name for name in features if name not in present]
    if unknown:
        raise InputError(
            f"{len(unknown):,} of {len(features):,} features to perturb are not among those of '{modality}'",
            file=where,
            field="--features",
            found=", ".join(unknown[:5]),
            hint=did_you_mean(unknown[0], present, "features"),
        )


def _check_target(name: str | None, modalities: Mapping[str, object], where: str) -> None:
    if name is not None and name not in modalities:
        raise UsageError(
            f"there is no modality '{name}' to predict",
            field="--target-modality",
            found=name,
            expected=f"{where} {', '.join(modalities)}",
            hint=did_you_mean(name, list(modalities), "modalities"),
        )
