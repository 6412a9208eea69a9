"""How a user names an input: `file`, `file::modality`, `file::obsm:key`, `name=file`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mocli.errors import UsageError

_NAME = re.compile(r"^([^/\\:=]+)=(.+)$", re.DOTALL)
_MODALITY = re.compile(r"^(.+)::(obsm:[^:]+|[^/\\:]*)$", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """One INPUT of the command line.

    Attributes:
        text: As the user typed it.
        modality: The modality wanted of the file, None for all; `obsm:key` for a matrix of obsm.
        name: The user's name for it, None where the file decides.
    """

    text: str
    path: Path
    modality: str | None = None
    name: str | None = None


def parse_source(text: str) -> Source:
    """Split `name=file::modality`; a file that exists under the whole text is taken as it is.

    Raises `UsageError`: empty text, file or modality.
    """
    splits: list[tuple[str, str | None, str | None]] = [(text, None, None)]
    if (match := _MODALITY.match(text)) is not None:
        splits.append((match.group(1), None, match.group(2).strip()))
    if (match := _NAME.match(text)) is not None:
        called, rest = match.group(1).strip(), match.group(2)
        splits.append((rest, called, None))
        if (match := _MODALITY.match(rest)) is not None:
            splits.append((match.group(1), called, match.group(2).strip()))
    # in run=1/rna.h5ad the '=' belongs to a folder: the first split whose file is there is meant
    rest, name, modality = next((split for split in splits if _exists(split[0])), splits[-1])
    if not rest.strip() or modality == "" or name == "":
        raise UsageError(
            f"'{text}' names no input",
            expected="file, file::modality or file::obsm:key, with name= before it or without",
        )
    return Source(text=text, path=Path(rest).expanduser(), modality=modality, name=name)


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):  # too long, or a null byte
        return False
