"""Multigrate beside totalVI: time and memory of an epoch, and proteins predicted of another experiment.

    python tests/benchmarks/beside_totalvi.py --python OTHER/bin/python time [--rounds 3]
    python tests/benchmarks/beside_totalvi.py --python OTHER/bin/python predict DATA.h5mu [--seeds 1]

The other Python has scvi-tools; MOCLI_SCVI_PYTHON may name it instead.

`time`: 10,000 cells, 4,000 genes (counts, a tenth not zero), 200 proteins, minibatches of 256, defaults
otherwise, a tenth held out and looked at after every epoch by both. Each training is a process of its own
on one thread; an epoch is half the difference between three epochs and one, so that start-up and reading
cancel. Contenders alternate. `same widths` is Multigrate with totalVI's 256 hidden units and 20 latent
dimensions. Targets: a third of totalVI's time at most, peak memory no higher.

`predict`: proteins of batch PBMC5k from their RNA, by models that saw RNA and proteins of PBMC10k.
totalVI trains on the RNA of both, the proteins of PBMC5k hidden; mocli never sees PBMC5k. Pearson
correlation with measured proteins over cells, per protein, on the scale of mocli's report (CLR), median
over proteins. `ridge of the report` stands in mocli's report and regresses on what the model was given
(raw counts); `ridge, normalised` on 3,000 highly variable genes, log-normalised and standardised.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import measure

measure.one_thread()

import anndata as ad  # noqa: E402 - threads are set first
import mudata  # noqa: E402
import numpy as np  # noqa: E402
from other_python import VARIABLE, Used, find_python, run  # noqa: E402
from scipy import sparse  # noqa: E402

import mocli  # noqa: E402
from mocli.data.batches import dense_rows, densify  # noqa: E402
from mocli.data.transforms.recipe import Recipe, RecipeOptions  # noqa: E402
from mocli.data.transforms.transform import TRANSFORMS, median_total  # noqa: E402
from mocli.metrics.imputation import accuracy  # noqa: E402
from mocli.tasks.impute.accuracy import ridge_baseline  # noqa: E402

CELLS, GENES, PROTEINS = 10_000, 4_000, 200
SHARE, DISPERSION = 0.1, 2.0
EPOCHS = (1, 3)
SAME_WIDTHS = {"n_hidden": 256, "n_latent": 20}
REFERENCE, QUERY = "PBMC10k", "PBMC5k"


def negative_binomial(mean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw counts."""
    return rng.poisson(mean * rng.gamma(DISPERSION, 1 / DISPERSION, mean.shape)).astype(np.float32)


def write_cells(path: Path, seed: int = 0) -> dict[str, float]:
    """Write synthetic cells of ten types; returns the share of genes' counts that are not zero."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(10, size=CELLS)
    genes = rng.gamma(0.5, 1.0, GENES) * rng.lognormal(0, 0.7, (10, GENES))
    low, high = 1e-6, 1e3
    for _ in range(60):
        middle = (low * high) ** 0.5
        seen = 1 - (DISPERSION / (DISPERSION + middle * genes)) ** DISPERSION
        low, high = (low, middle) if seen.mean() > SHARE else (middle, high)
    proteins = 5 + 60 * rng.gamma(0.5, 1.0, (10, PROTEINS))
    blocks = [
        sparse.csr_matrix(negative_binomial(low * genes[kind[a : a + 1000]], rng))
        for a in range(0, CELLS, 1000)
    ]
    rna = sparse.vstack(blocks, format="csr")
    prot = sparse.csr_matrix(negative_binomial(proteins[kind], rng))
    parts = {}
    for name, x in (("rna", rna), ("prot", prot)):
        parts[name] = ad.AnnData(X=x)
        parts[name].obs_names = [f"cell{i}" for i in range(CELLS)]
        parts[name].var_names = [f"{name}{i}" for i in range(x.shape[1])]
    mudata.set_options(pull_on_update=False)
    mudata.MuData(parts).write_h5mu(path)
    return {"rna": round(rna.nnz / (CELLS * GENES), 4)}


def epoch_of(runs: dict[int, Used]) -> dict[str, float]:
    """Seconds an epoch from two lengths of training, and the peak of the longer."""
    short, long = (runs[n] for n in EPOCHS)
    n = EPOCHS[1] - EPOCHS[0]
    return {
        "cpu_s": (long.cpu_s - short.cpu_s) / n,
        "wall_s": (long.wall_s - short.wall_s) / n,
        "peak_mb": long.peak_mb,
    }


def compare_time(python: str, rounds: int) -> None:
    """Print seconds an epoch, peaks and their ratios."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "cells.h5mu"
        density = write_cells(data)
        contenders = {
            "totalVI": (python, "totalvi_run.py", "train", data, "EPOCHS"),
            "Multigrate": (sys.executable, "multigrate_run.py", data, "EPOCHS", "{}"),
            "Multigrate, same widths": (
                sys.executable, "multigrate_run.py", data, "EPOCHS", json.dumps(SAME_WIDTHS),
            ),
        }  # fmt: skip
        found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
        told: dict[str, dict[str, object]] = {}
        for _ in range(rounds):
            for name in rng.permutation(list(contenders)):
                runs = {}
                for n in EPOCHS:
                    command = (n if part == "EPOCHS" else part for part in contenders[name])
                    runs[n], told[name] = run(*command)
                found[name].append(epoch_of(runs))
                print(f"{name}: {found[name][-1]}", file=sys.stderr, flush=True)
    medians = {
        name: {key: statistics.median(one[key] for one in of) for key in of[0]} for name, of in found.items()
    }
    ratios = {
        f"{name}: {key}": measure.ratio([r[key] for r in found["totalVI"]], [r[key] for r in of])
        for name, of in found.items()
        for key in medians[name]
        if name != "totalVI"
    }
    digits = {"cpu_s": 2, "wall_s": 2, "peak_mb": 0}
    rows = [{"": name, **{k: round(v, digits[k]) for k, v in of.items()}} for name, of in medians.items()]
    measure.show(f"An epoch of {CELLS:,} cells x {GENES:,} genes + {PROTEINS} proteins", rows, list(rows[0]))
    for name, of in ratios.items():
        print(f"  totalVI over {name} {of['ratio']} [{of['low']}, {of['high']}]")
    measure.emit("beside_totalvi_time", {"epoch": medians, "rounds": found, "ratios": ratios, "told": told,
                                         "density": density})  # fmt: skip


def batch_of(data: mudata.MuData, batch: str) -> list[ad.AnnData]:
    """Genes and proteins of the cells of a batch, in the same order."""
    rna, prot = (data.mod[name][data.mod[name].obs["batch"] == batch] for name in ("rna", "prot"))
    return [rna.copy(), prot[rna.obs_names].copy()]


def clr(x: np.ndarray | sparse.csr_matrix) -> np.ndarray:
    """Counts as centred log-ratios, dense."""
    return densify(TRANSFORMS["clr"].forward(sparse.csr_matrix(x, dtype=np.float32)))


def ridge_of_normalised(data: mudata.MuData, seed: int) -> np.ndarray:
    """Regress proteins on log-normalised, standardised genes, `(n_query, n_proteins)`."""
    (rna, prot), (new, _) = (batch_of(data, name) for name in (REFERENCE, QUERY))
    options = RecipeOptions("lognorm", target_sum=median_total(rna.X), seed=seed)
    recipe = Recipe.fit(rna.X, var_names=tuple(rna.var_names), options=options)
    x, new_x = (dense_rows(recipe.apply(a.X), np.arange(a.n_obs)) for a in (rna, new))
    y = clr(prot.X)
    predict = ridge_baseline(x, lambda columns: y[:, columns], new_x, n_vars=y.shape[1], seed=seed)
    return predict(np.arange(y.shape[1]))


def median_of(report: dict[str, object], baseline: str | None = None) -> float:
    """The median correlation of the report, of the model or of a baseline."""
    name = "imputation_pearson_median[rna->prot]"
    if baseline is None:
        return report["metrics"][name]["value"]
    found = report["baselines"][baseline]["metrics"]
    return found[name]["value"]


def compare_predictions(python: str, path: str, seeds: int) -> None:
    """Print median correlations."""
    mudata.set_options(pull_on_update=False)
    path = str(Path(path).resolve())
    data = mudata.read_h5mu(path)
    _, measured = batch_of(data, QUERY)
    truth = clr(measured.X)
    rows, told = [], {}
    for seed in range(seeds):
        row: dict[str, float] = {"seed": seed}
        with tempfile.TemporaryDirectory() as folder:
            for route in ("decoder", "readout"):
                report = mocli.impute(
                    path, output=Path(folder) / f"{route}.h5mu", source="rna", target="prot",
                    model="multigrate", hold_out=f"batch={QUERY}", evaluate=True, route=route, seed=seed,
                    device="cpu", threads=1, html=False,
                ).report  # fmt: skip
                row[f"Multigrate, {route}"] = median_of(report)
            row["ridge of the report"] = median_of(report, "ridge")
            row["ridge, normalised"] = float(
                np.median(accuracy(ridge_of_normalised(data, seed), truth).pearson)
            )
            arrays = Path(folder) / "totalvi.npz"
            used, told = run(python, "totalvi_run.py", "predict", path, QUERY, seed, arrays)
            found = np.load(arrays)
            order = measured.obs_names.get_indexer(found["cells"])
            row["totalVI"] = float(np.nanmedian(accuracy(clr(found["protein"]), truth[order]).pearson))
            told["cpu_s"] = round(used.cpu_s, 1)
        rows.append({k: round(v, 3) for k, v in row.items()})
    measure.show(f"Proteins of {QUERY} from RNA, median Pearson over proteins", rows, list(rows[0]))
    measure.emit("beside_totalvi_predict", {"rows": rows, "totalvi": told})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", help=f"has scvi-tools; else ${VARIABLE}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("time").add_argument("--rounds", type=int, default=3)
    predict = commands.add_parser("predict")
    predict.add_argument("data")
    predict.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    python = find_python(options.python)
    if options.command == "time":
        compare_time(python, options.rounds)
    else:
        compare_predictions(python, options.data, options.seeds)


if __name__ == "__main__":
    main()
