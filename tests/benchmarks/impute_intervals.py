"""How many measured values of a query the intervals of a model hold, and how wide they are.

    python tests/benchmarks/impute_intervals.py DATA_FOLDER [--sets citeseq_pbmc5k_29adt:rna:prot ...]
        [--seeds 0 1 2]

A model is trained without a fifth of the cells, without one batch, and without one type in turn (the largest
three of each), and imputes the cells that it lacked. The stack that `mocli integrate` keeps leaves the latent
out, so that a model of 20 steps stands for every model. `width` is the mean width of intervals over
that of the model's own, of cells like those trained on. Prints a table and one JSON line.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import measure

measure.one_thread()
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402 - threads are set first
from mudata import read_h5mu  # noqa: E402

import mocli  # noqa: E402
from mocli.data.files.modality import of_anndata  # noqa: E402
from mocli.tasks.impute.work import impute_values  # noqa: E402
from mocli.tasks.trained.calibration import load_calibrations  # noqa: E402
from mocli.tasks.trained.saved import load_model  # noqa: E402

SETS = (
    "citeseq_pbmc10x_2batch:rna:prot",
    "citeseq_pbmc5k_29adt:rna:prot",
    "eccite_pbmc_49adt:rna:prot",
    "citeseq_bmmc_134adt:rna:prot",
    "citeseq_pbmc_hao_mosaic:rna:prot",
    "multiome_bmmc_2batch:atac:rna",
    "snareseq_mouse_cortex:atac:rna",
)
MOST_CELLS = 1_500
BATCH = ("hto_top", "batch")
TYPE = ("cell_type_coarse", "cell_type_gated", "cell_type")


def column(obs, names):
    """The first of some columns that has several values; None where none has."""
    return next((name for name in names if name in obs and obs[name].nunique() > 1), None)


def left_out(obs, seed):
    """Kind, name, and cells left out."""
    rng = np.random.default_rng(seed)
    yield (
        "random",
        "a fifth",
        np.isin(np.arange(len(obs)), rng.choice(len(obs), len(obs) // 5, replace=False)),
    )
    for kind, name in (("batch", column(obs, BATCH)), ("type", column(obs, TYPE))):
        counts = obs[name].value_counts() if name else {}
        for level in [level for level in list(counts.keys())[:3] if counts[level] >= 20]:
            yield kind, str(level), (obs[name] == level).to_numpy()


def one(data, source, target, out, batch, seed, folder):
    """Share of measured values inside the intervals, and how wide these are."""
    train = folder / "train.h5mu"
    data[~out].copy().write(train)
    known = data.mod[source].obs[batch][~out].nunique() > 1 if batch else False
    mocli.integrate(
        train, output=folder / "o.h5mu", model="multigrate", max_steps=20, batch_key=batch if known else None,
        seed=seed, threads=1, device="cpu", html=False, force=True, metrics="none",
    )  # fmt: skip
    query, saved = data[out], load_model(folder / "o.model")
    cells = query.mod[source].copy()
    if not known:
        # cells of an experiment that the model knows nothing of
        cells.obs = cells.obs.iloc[:, :0]
    found = impute_values(folder / "o.model", cells, target, source=source)
    readout = saved.readouts[target]
    file = of_anndata(query.mod[target].copy(), target, saved.modalities[target]["kind"])
    measured = readout.measured(file.read("X"), "log", np.arange(readout.n_vars))
    inside = (measured >= found.lower) & (measured <= found.upper)
    own = load_calibrations(folder / "o.model")[source, target, "log", "stack"].intervals
    lower, upper = own.interval(found.values)
    return inside.mean(), (found.upper - found.lower).mean() / (upper - lower).mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    rows = []
    for name in options.sets:
        file, source, target = name.split(":")
        found = {}
        for seed in options.seeds:
            data = read_h5mu(options.folder / f"{file}.h5mu")
            both = data.mod[source].obs_names.intersection(data.mod[target].obs_names)
            data = data[both].copy()
            total = [np.asarray(data.mod[m].X.sum(1)).ravel() for m in (source, target)]
            keep = np.flatnonzero((total[0] > 0) & (total[1] > 0))
            keep = np.sort(np.random.default_rng(seed).permutation(keep)[:MOST_CELLS])
            data = data[keep].copy()
            obs = data.mod[source].obs
            for kind, level, out in left_out(obs, seed):
                with tempfile.TemporaryDirectory() as folder:
                    batch = column(obs, BATCH)
                    got = one(data, source, target, out, batch, seed, Path(folder))
                found.setdefault((kind, level), []).append(got)
                print(file, kind, level, seed, *np.round(got, 3), flush=True)
        for (kind, level), values in found.items():
            held, width = np.array(values).T
            rows.append({"set": file, "left out": f"{kind}: {level}", "held": held.mean().round(3),
                         "spread": held.std().round(3), "width": width.mean().round(2)})  # fmt: skip
    measure.show("share of values inside 90 % intervals", rows, list(rows[0]))
    measure.emit("impute_intervals", {"rows": rows})


if __name__ == "__main__":
    main()
