"""Files in: the inputs of the command line become modalities, tables now and matrices when asked for."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from mocli.data.files.container import open_source
from mocli.data.files.inputs import gather
from mocli.data.files.modality import ModalityFile
from mocli.data.files.source import Source, parse_source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mocli.types import ModalityKind

__all__ = ["ModalityFile", "Source", "open_inputs", "parse_source", "sha256"]


def open_inputs(
    texts: Sequence[str], *, kinds: Mapping[str, ModalityKind] | None = None
) -> list[ModalityFile]:
    """Open every INPUT of the command line.

    Parameters
    ----------
    texts
        `file`, `file::modality`, `name=file` or `name=file::modality`.
    kinds
        What a modality measures, by name, where the guess should be overruled.

    Returns
    -------
    One `ModalityFile` a modality, in the order given, names unique. Where several
    files hold a modality by its name they are one: a `JoinedModality`, and cell
    names are made to differ between files.

    Raises
    ------
    UsageError
        No input, names that collide, a file given twice, or files of one name that
        measure different things.
    InputError
        A file that is absent, no HDF5, damaged, of another format, without
        the modality wanted, with repeated cell names, with fewer than two
        cells or no feature; files of one modality that share too few features.
    """
    found = [(source, open_source(source)) for source in map(parse_source, texts)]
    return gather(found, kinds=kinds or {})


def sha256(path: Path) -> str:
    """Hash a file without holding it in memory."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
