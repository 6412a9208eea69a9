"""From which modality to which: as asked, or the only way there is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mocli.errors import UsageError, did_you_mean
from mocli.tasks.projection import check_modality, find_modality

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mocli.data.modality import ModalityFile
    from mocli.tasks.impute import ImputeOptions
    from mocli.tasks.saved import SavedModel


def direction_of_inputs(asked: ImputeOptions, names: Sequence[str]) -> tuple[str, str]:
    """Return source and target among the inputs.

    Raises
    ------
    UsageError
        A name that no input has, or a choice that is left open.
    """
    for given, option in ((asked.source, "--from"), (asked.target, "--to")):
        if given is not None and given not in names:
            raise UsageError(
                f"'{given}' is not among the inputs",
                field=option,
                found=", ".join(names),
                hint=did_you_mean(given, names, "modalities"),
            )
    return _chosen(asked, names)


def direction_of_model(
    asked: ImputeOptions, saved: SavedModel, files: Sequence[ModalityFile]
) -> tuple[str, str]:
    """Return source and target among the modalities of a model.

    Raises
    ------
    UsageError
        A name that the model does not have, or a choice that is left open.
    """
    names = list(saved.modalities)
    if asked.source is not None:
        check_modality(saved, asked.source, "--from")
    if asked.target is not None:
        check_modality(saved, asked.target, "--to")
    given = [name for name in names if find_modality(files, name, saved) is not None]
    source = asked.source
    if source is None:
        others = [name for name in given if name != asked.target]
        source = others[0] if len(others) == 1 else None
    return _chosen(replace(asked, source=source), names)


def _chosen(asked: ImputeOptions, names: Sequence[str]) -> tuple[str, str]:
    source, target = asked.source, asked.target
    if source is None and target is not None and len(names) == 2:
        source = next((n for n in names if n != target), None)
    if target is None and source is not None and len(names) == 2:
        target = next((n for n in names if n != source), None)
    if source is None or target is None or source == target:
        raise UsageError(
            "say which modality is imputed from which",
            field="--from, --to",
            found=f"--from {source or 'nothing'} --to {target or 'nothing'}",
            expected=f"two of {', '.join(names)}",
            hint=f"for example --from {names[0]} --to {names[-1]}",
        )
    return source, target
