"""Processor seconds of the stack that an integration keeps, and how well it predicts cells it lacked.

    python tests/benchmarks/stack_cost.py [--data ../shared/data] [--seeds 0 1]
        [--sets citeseq_pbmc10x_2batch:rna:prot ...]

No model is trained: a stack sees values alone. It is fitted without a fifth of the cells, without one batch,
and without one type in turn (the largest three of each; of the last two kinds none where `--brief`), and
predicts the cells that it lacked. Prints processor seconds of the first fit, median Pearson and R2 over
features of the fifth, and for every kind the share of measured values inside 90 % intervals and their width
over that of ordinary cells. To compare two versions, run it with each on the path (`PYTHONPATH`).
"""

import argparse
import time
import warnings
from pathlib import Path

import measure

measure.one_thread()
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402 - threads are set first
from impute_intervals import BATCH, column, left_out  # noqa: E402
from mudata import read_h5mu  # noqa: E402
from scipy import sparse  # noqa: E402

from mocli.data.transforms.transform import CLR, LOGNORM, canonical, median_total  # noqa: E402
from mocli.metrics import conformal, imputation  # noqa: E402
from mocli.tasks.infer.stackfitting import fit_stack  # noqa: E402
from mocli.tasks.trained.latent import SourceCells  # noqa: E402

SETS = (
    "citeseq_pbmc10x_2batch:rna:prot",
    "citeseq_pbmc5k_29adt:rna:prot",
    "eccite_pbmc_49adt:rna:prot",
    "citeseq_bmmc_134adt:rna:prot",
    "multiome_bmmc_2batch:atac:rna",
    "snareseq_mouse_cortex:atac:rna",
)


def values_of(x, kind, depth):
    """Log values, as a readout gives them."""
    return CLR.forward(x) if kind == "prot" else LOGNORM.forward(x, target_sum=depth)


def one(source, target, floor, batches, out, seed):
    """Processor seconds, accuracy, share held and width."""
    known, new = np.flatnonzero(~out), np.flatnonzero(out)
    y = {scale: sparse.csr_matrix(values[known]) for scale, values in target.items()}
    parts, columns = [], np.arange(target["log"].shape[1])

    def see(scale, times, _, predicted, measured):
        if scale == "log":
            parts.append(
                conformal.fit(np.maximum(predicted, floor), measured, coverage=0.9, floor=floor, times=times)
            )

    some = None if batches is None else batches[known]
    if some is not None and len(np.unique(some)) < 2:
        some = None
    begun = time.process_time()
    stack = fit_stack(
        SourceCells(source[known]), {s: lambda c, s=s: y[s][:, c].toarray() for s in y},
        n_vars=len(columns), batches=some, seed=seed, see=see,
    )  # fmt: skip
    seconds = time.process_time() - begun
    cells, measured = SourceCells(source[new]), target["log"][new].toarray()
    predicted = np.maximum(stack.predict(cells, "log", columns), floor)
    times = stack.times(cells)
    if batches is not None and not np.isin(batches[new], batches[known]).any():
        times = np.maximum(times, np.float32(stack.widening.new_batch))
    intervals = conformal.join(parts)
    lower, upper = intervals.interval(predicted, times)
    low, high = intervals.interval(predicted)
    found = imputation.accuracy(predicted, measured)
    return [
        seconds,
        float(np.nanmedian(found.pearson)),
        float(np.nanmedian(found.r2)),
        float(((measured >= lower) & (measured <= upper)).mean()),
        float((upper - lower).mean() / (high - low).mean()),
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--brief", action="store_true", help="leave out no batch and no type")
    given = parser.parse_args()
    rows = []
    for name in given.sets:
        file, source, target = name.split(":")
        data = read_h5mu(given.data / f"{file}.h5mu")
        both = data.mod[source].obs_names.intersection(data.mod[target].obs_names)
        data = data[both].copy()
        raw = {m: canonical(data.mod[m].X) for m in (source, target)}
        keep = np.flatnonzero(np.all([np.asarray(x.sum(1)).ravel() > 0 for x in raw.values()], axis=0))
        raw, obs = {m: x[keep] for m, x in raw.items()}, data.mod[source].obs.iloc[keep]
        depth = {m: median_total(x) for m, x in raw.items()}
        log = {m: values_of(x, m, depth[m]) for m, x in raw.items()}
        counts = sparse.csr_matrix(
            sparse.diags((depth[target] / np.asarray(raw[target].sum(1)).ravel()).astype("f4")) @ raw[target]
        )
        batch = column(obs, BATCH)
        codes = obs[batch].astype("category").cat.codes.to_numpy() if batch else None
        found = {}
        for seed in given.seeds:
            for kind, _, out in left_out(obs, seed):
                if given.brief and kind != "random":
                    continue
                got = one(log[source], {"log": log[target], "counts": counts}, 0.0, codes, out, seed)
                found.setdefault(kind, []).append(got)
        random = np.array(found["random"])
        row = {"set": file, "cells": len(obs), "s": f"{random[:, 0].min():.2f}"}
        row |= {"Pearson": f"{random[:, 1].mean():.3f}", "R2": f"{random[:, 2].mean():.3f}"}
        for kind, values in found.items():
            held, width = np.array(values)[:, 3:].T
            row |= {kind: f"{held.mean():.3f} ({held.min():.2f})", f"width, {kind}": f"{width.mean():.2f}"}
        rows.append(row)
        print(row, flush=True)
    measure.show("a stack", rows, list(dict.fromkeys(k for row in rows for k in row)))
    measure.emit("stack_cost", {"rows": rows})


if __name__ == "__main__":
    main()
