"""`mocli export`: measured or imputed expression in the form that CellPhoneDB and COMMOT read.

CellPhoneDB (Efremova et al. 2020; version 5 still reads these) takes two tab-separated texts: counts, genes x
cells, normalised and not logged, and `Cell`, `cell_type`. COMMOT (Cang et al. 2023) takes an h5ad whose `X`
is normalised and logged and whose `obsm["spatial"]` says where cells lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mocli.data.batches import densify
from mocli.data.files.contents import look
from mocli.data.files.hdf5 import open_h5
from mocli.data.files.inputs import open_inputs
from mocli.data.files.inspect import is_spatial
from mocli.data.files.modality import ModalityFile
from mocli.data.files.obs import find_labels, open_obsm
from mocli.data.files.source import parse_source
from mocli.data.write.blocks import NewModality
from mocli.data.write.outfile import atomic, check_writable
from mocli.data.write.write import write_h5ad
from mocli.errors import InputError, UsageError
from mocli.nn.neighbors import chunks
from mocli.parsing import one_of
from mocli.tasks.run.paths import refuse_inputs
from mocli.types import CSR, EXPORT_TOOLS, EXPORT_VALUES, FloatArray, ValueKind

TOTAL = 10_000.0
"""Counts of a cell after normalisation, as in both tools' own examples."""

BLOCK = 1 << 22
SPATIAL = "spatial"
COUNTS, META = "counts.txt", "meta.txt"


@dataclass(frozen=True, eq=False)
class Expression:
    """Expression of one file, with what its values are.

    `values`: one of `EXPORT_VALUES` but `auto`.
    """

    file: ModalityFile
    values: str

    def read(self, rows: slice) -> FloatArray:
        """Return values of some cells, normalised and not logged, `(n, n_vars)`, dense; never negative."""
        x: CSR = self.file.read(None, rows=np.arange(self.file.n_obs)[rows])
        values: FloatArray = np.maximum(densify(x), 0.0)
        if self.values == "log":
            values = np.expm1(values)
        elif self.values == "counts":
            total = values.sum(1, keepdims=True)
            values = np.divide(values * TOTAL, total, out=np.zeros_like(values), where=total > 0)
        return values


def export_expression(
    source: str,
    output: Path,
    *,
    to: str,
    label_key: str | None = None,
    spatial: str | None = None,
    values: str = "auto",
    force: bool = False,
    say: Callable[[str], None],
) -> list[Path]:
    """Write what a tool reads, and return the files.

    Args:
        source: A file of one modality, or FILE::MODALITY.
        output: For CellPhoneDB a folder, for COMMOT an .h5ad.
        label_key: Column of obs with cell types; CellPhoneDB needs it.
        spatial: File whose `obsm["spatial"]` has the cells' coordinates, where that is not the source.

    Raises:
        UsageError, InputError, EnvironmentProblem: An invalid request, or a file that cannot be read or
            written.
    """
    tool = one_of(to, list(EXPORT_TOOLS), "--to")
    expression = _open(source, one_of(values, list(EXPORT_VALUES), "--values"))
    say(
        f"{source}: {expression.file.n_obs:,} cells x {expression.file.n_vars:,} genes, "
        + _SAID[expression.values]
    )
    _refuse_repeats(expression.file)
    texts = [output / name for name in (COUNTS, META)]
    sources = [source] if spatial is None else [source, spatial]
    refuse_inputs([output, *texts], [parse_source(text).path for text in sources])
    if tool == "cellphonedb":
        return _cellphonedb(expression, output, label_key, force=force)
    return _commot(expression, output, label_key, spatial, force=force, say=say)


_SAID = {
    "counts": f"counts, normalised to {TOTAL:,.0f} a cell",
    "log": "read as log(1 + x) of normalised values",
    "normalised": "read as normalised values, not logged",
}


def _open(source: str, values: str) -> Expression:
    files = open_inputs([source])
    if len(files) != 1:
        names = [*(f.name for f in files), *_imputed(parse_source(source).path)]
        raise UsageError(
            "only one modality is exported at a time",
            file=source,
            found=", ".join(names),
            hint=f"name one: {source}::{names[-1]}",
        )
    if values == "auto":
        kind = look(files[0].sample())
        values = {ValueKind.COUNTS: "counts", ValueKind.POSITIVE: "normalised"}.get(kind, "log")
    return Expression(files[0], values)


def _imputed(path: Path) -> list[str]:
    """Imputed modalities of an .h5mu, which no other subcommand takes as an input."""
    if path.suffix != ".h5mu":
        return []
    with open_h5(path) as h5:
        return [name for name in h5["mod"] if name.endswith("_imputed")]


def _refuse_repeats(file: ModalityFile) -> None:
    repeated = file.var.index[file.var.index.duplicated()]
    if len(repeated):
        raise InputError(
            "genes share a name, and both tools find genes by name",
            file=file.where,
            field="var_names",
            found=str(repeated[0]),
            hint="make them unique, or leave one out",
        )


def _cellphonedb(expression: Expression, folder: Path, label_key: str | None, *, force: bool) -> list[Path]:
    """Write `counts.txt` (genes x cells) and `meta.txt` (Cell, cell_type)."""
    file = expression.file
    if label_key is None:
        raise UsageError(
            "CellPhoneDB needs the type of every cell", field="--label-key", hint="name the column of obs"
        )
    labels = find_labels([file], label_key, option="--label-key")[file.name]
    if labels is None or labels.isna().any():
        n = file.n_obs if labels is None else int(labels.isna().sum())
        raise InputError(
            f"{n:,} of {file.n_obs:,} cells have no type",
            file=file.where,
            field=f"obs['{label_key}']",
            hint="label them (mocli integrate --transfer-labels), or leave them out",
        )
    counts, meta = folder / COUNTS, folder / META
    if folder.exists() and not folder.is_dir():
        raise UsageError("the output for CellPhoneDB is a folder", field="--output", found=folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in (counts, meta):
        check_writable(path, force=force)
    names = list(map(str, file.obs.index))
    # cells are read in blocks, genes are written in lines: the whole lies in memory once
    whole = np.empty((file.n_vars, file.n_obs), np.float32)
    for rows in chunks(file.n_obs, max(16, BLOCK // max(file.n_vars, 1))):
        whole[:, rows] = expression.read(rows).T
    table = pd.DataFrame(whole, index=pd.Index(map(str, file.var.index), name="Gene"), columns=names)
    with atomic(counts) as temporary:
        table.to_csv(temporary, sep="\t", float_format="%.6g", lineterminator="\n")
    with atomic(meta) as temporary:
        types = pd.DataFrame({"Cell": names, "cell_type": labels.astype(str).to_numpy()})
        types.to_csv(temporary, sep="\t", index=False, lineterminator="\n")
    return [counts, meta]


def _commot(
    expression: Expression,
    output: Path,
    label_key: str | None,
    spatial: str | None,
    *,
    force: bool,
    say: Callable[[str], None],
) -> list[Path]:
    """Write an h5ad: `X` normalised and logged, `obsm["spatial"]`, the labels in obs."""
    file = expression.file
    if output.suffix != ".h5ad":
        raise UsageError("the output for COMMOT ends in .h5ad", field="--output", found=output.name)
    check_writable(output, force=force)
    xy = _coordinates(file, open_inputs([spatial]) if spatial is not None else [file], say)
    if label_key is not None:
        find_labels([file], label_key, option="--label-key")
    spans = list(chunks(file.n_obs, max(16, BLOCK // max(file.n_vars, 1))))
    var = pd.DataFrame(index=file.var.index)
    new = NewModality(
        name=file.name,
        obs=file.obs,
        var=var,
        blocks=lambda: ({"X": np.log1p(expression.read(rows))} for rows in spans),
        obsm={SPATIAL: xy},
    )
    write_h5ad(output, new)
    return [output]


def _coordinates(
    file: ModalityFile, sources: Sequence[ModalityFile], say: Callable[[str], None]
) -> FloatArray:
    """Return the cells' coordinates, `(n_obs, 2)`, matched by name, from the first source that has some.

    Raises `InputError`: no source has coordinates, they cannot be read, or those of a cell are missing.
    """
    for source in filter(is_spatial, sources):
        with open_obsm(source, SPATIAL) as part:
            if part.n_columns < 2:
                raise InputError(
                    "coordinates have one column, and a tissue has two dimensions",
                    file=source.where,
                    field=part.place,
                )
            if part.n_columns > 2:
                names = "" if part.names is None else f" ({', '.join(part.names)})"
                say(f"{part.place} has {part.n_columns} columns{names}: the first two are written")
            xy = densify(part.read())[:, :2]
        rows = source.obs.index.astype(str).get_indexer(file.obs.index.astype(str))
        if (rows < 0).any():
            raise InputError(
                f"{int((rows < 0).sum()):,} of {file.n_obs:,} cells have no coordinates",
                file=source.where,
                field=f"obsm {SPATIAL}",
                found=str(file.obs.index[int(np.flatnonzero(rows < 0)[0])]),
                hint="coordinates are matched by obs_names",
            )
        coordinates: FloatArray = xy[rows].astype(np.float32)
        lost = np.flatnonzero(~np.isfinite(coordinates).all(axis=1))
        if len(lost):
            raise InputError(
                f"{len(lost):,} of {file.n_obs:,} cells have coordinates that are no finite numbers",
                file=source.where,
                field=f"obsm {SPATIAL}",
                found=str(file.obs.index[int(lost[0])]),
                hint="leave these cells out: COMMOT has no distance for them",
            )
        return coordinates
    raise InputError(
        "COMMOT needs the cells' coordinates in the tissue",
        file=", ".join(s.where for s in sources),
        field=f"obsm {SPATIAL}",
        hint="name the file with the coordinates: --spatial FILE",
    )
