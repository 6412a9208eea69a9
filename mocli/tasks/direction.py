"""From which modality to which: as asked, or the only way there is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mocli.data.featureindex import Features, features_of
from mocli.errors import UsageError, did_you_mean
from mocli.tasks.projection import check_modality, find_modality
from mocli.types import ModalityKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mocli.data.modality import ModalityFile
    from mocli.tasks.impute import ImputeOptions
    from mocli.tasks.saved import SavedModel


@dataclass(frozen=True, eq=False)
class Direction:
    """From where to where, settled before anything is trained.

    Attributes
    ----------
    target_file
        None where a model knows the modality and no input holds it.
    saved
        The model given, None where one is to be trained.
    """

    source: str
    target: str
    source_file: ModalityFile
    target_file: ModalityFile | None
    saved: SavedModel | None

    @property
    def target_names(self) -> list[str]:
        """All features of the target by name, in the order the model has, or will have."""
        if self.saved is not None:
            return list(self.saved.modalities[self.target]["var_names"])
        assert self.target_file is not None
        return list(map(str, self.target_file.var.index))

    def features(self, var_key: str | None) -> tuple[Features, Features]:
        """Return the features of target and source in the order the model has, or will have."""
        given = [f for f in (self.target_file, self.source_file) if f is not None]
        if self.saved is not None:
            order = {f: self.saved.modalities[n]["var_names"] for n, f in self._files()}
            given = [
                replace(f, var=f.var[~f.var.index.duplicated()].reindex([str(n) for n in order[f]]))
                for f in given
            ]
        found = features_of(given, var_key=var_key)
        if self.target_file is None:
            assert self.saved is not None
            entry = self.saved.modalities[self.target]
            return Features(self.target, ModalityKind(entry["kind"]), tuple(entry["var_names"])), found[0]
        return found[0], found[1]

    def _files(self) -> list[tuple[str, ModalityFile]]:
        both = ((self.target, self.target_file), (self.source, self.source_file))
        return [(name, f) for name, f in both if f is not None]


def genes_from_peaks(asked: ImputeOptions, kinds: Mapping[str, ModalityKind]) -> ImputeOptions:
    """Fill in what was not asked: expression from accessibility, else proteins from expression."""

    def only(other: str | None, *wanted: ModalityKind) -> str | None:
        names = [name for name, kind in kinds.items() if kind in wanted and name != other]
        return names[0] if len(names) == 1 else None

    source, target = asked.source, asked.target
    if source is None:
        source = only(target, ModalityKind.ATAC) or only(target, ModalityKind.RNA)
    if target is None:
        target = only(source, ModalityKind.RNA) or only(source, ModalityKind.PROT, ModalityKind.CYTO)
    return replace(asked, source=source, target=target)


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
