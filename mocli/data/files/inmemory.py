"""A modality that is in memory already: an AnnData, seen as a file's modality is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from mocli.data.files.kinds import kind_of, kind_of_features
from mocli.data.files.modality import ModalityFile
from mocli.types import CSR, IntArray, ModalityKind

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True, eq=False)
class MemoryModality(ModalityFile):
    """A modality of which no file holds anything.

    Attributes
    ----------
    held
        Matrices `(n_obs, n_vars)` by name, `X` among them.
    """

    held: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def paths(self) -> tuple[Path, ...]:
        """No file."""
        return ()

    @property
    def where(self) -> str:
        """Words for messages."""
        return f"the AnnData of '{self.name}'"

    def read(
        self,
        layer: str | None = None,
        *,
        rows: slice | Sequence[int] | IntArray | None = None,
        dtype: Any = np.float32,
    ) -> CSR:
        """Return a matrix as canonical CSR; see `ModalityFile.read`."""
        self._place(layer)
        wanted: Any = slice(None) if rows is None else rows
        if self.rows is not None:
            wanted = self.rows[wanted]
        x = sp.csr_matrix(self.held["X" if layer is None else layer][wanted], dtype=dtype, copy=True)
        x.eliminate_zeros()
        x.sort_indices()
        return x

    def nbytes(self, layer: str | None = None) -> int:
        """Bytes of a matrix as CSR in memory."""
        x = self.read(layer)
        return 8 * int(x.nnz) + 4 * (self.n_obs + 1)


def of_anndata(adata: AnnData, name: str, kind: ModalityKind | str | None = None) -> MemoryModality:
    """Return an AnnData as a modality; the kind follows from names where it is not said."""
    if kind is None:
        kind = kind_of(name)
        if kind is ModalityKind.OTHER:
            kind = kind_of_features([str(v) for v in adata.var_names])
    held = {} if adata.X is None else {"X": adata.X}
    held |= {str(layer): values for layer, values in adata.layers.items()}
    return MemoryModality(
        name=name,
        kind=ModalityKind(kind),
        path=Path(f"<{name}>"),
        group="/",
        format="memory",
        obs=adata.obs,
        var=adata.var,
        layers=tuple(key for key in held if key != "X"),
        has_x="X" in held,
        held=held,
    )
