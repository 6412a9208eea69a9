"""multiDGD beside MultiVI: expected counts and accessibility of cells that neither was trained on.

    python tests/benchmarks/beside_multivi.py DATA.h5mu --python OTHER/bin/python [--epochs 50]
        [--cells N] [--seed 0]

The other Python has scvi-tools; MOCLI_SCVI_PYTHON may name it instead. DATA has `rna` and `atac` counts
of the same cells and a column `batch`, which both models are told. A tenth of the cells, the same for
both, is kept out. MultiVI's epochs are cut (its default is 500, stopped early), or `--cells` drawn, for
the time they take on one core; multiDGD trains until its own held-out cells are no longer described
better. Then both place the cells by all that was measured of them and say what they expect.

RMSE is of RNA counts, all cells and genes, expected with the cell's own total. MultiVI's zero-inflated
likelihood has four: proportions of its normalised expression times the total, or its own rates by the
library that it infers, each also with its excess zeros taken out. AUPRC is of accessibility (a count
that is not zero), all cells and peaks in one ranking. `mean` is the mean of the training cells'
proportions, times the cell's own total.
"""

import argparse
import tempfile
from pathlib import Path

import measure

measure.one_thread()

import mudata  # noqa: E402 - threads are set first
import numpy as np  # noqa: E402
import torch  # noqa: E402
from other_python import VARIABLE, find_python, run  # noqa: E402
from scipy import sparse  # noqa: E402
from sklearn.metrics import average_precision_score  # noqa: E402

import mocli  # noqa: E402
from mocli.models.base import Conditions  # noqa: E402
from mocli.tasks.trained.saved import load_model  # noqa: E402

SHARE = 0.1
MODALITIES = ("rna", "atac")
Expected = dict[str, np.ndarray]


def split(path: str, folder: Path, seed: int, n_cells: int | None) -> tuple[mudata.MuData, mudata.MuData]:
    """Write and return training cells and those held out."""
    data = mudata.read_h5mu(path)
    names = data.mod["rna"].obs_names
    order = np.random.default_rng(seed).permutation(len(names))[:n_cells]
    n = round(SHARE * len(order))
    parts = []
    for name, rows in (("train", order[n:]), ("held", order[:n])):
        cells = names[np.sort(rows)]
        part = mudata.MuData({m: data.mod[m][cells].copy() for m in MODALITIES})
        part.write_h5mu(folder / f"{name}.h5mu")
        parts.append(part)
    return parts[0], parts[1]


def totals(part: mudata.MuData, modality: str) -> np.ndarray:
    """Counts of a cell, `(n, 1)`."""
    return np.asarray(part.mod[modality].X.sum(1), np.float32).reshape(-1, 1)


def by_mean(train: mudata.MuData, held: mudata.MuData) -> Expected:
    """What cells have on average."""
    found = {}
    for m in MODALITIES:
        counts = np.asarray(train.mod[m].X.sum(0), np.float64).ravel()
        found[m] = (totals(held, m) * (counts / counts.sum())).astype(np.float32)
    return found


def by_multidgd(folder: Path, held: mudata.MuData, seed: int) -> tuple[Expected, dict[str, object]]:
    """Train, place the cells held out, and decode at their own totals."""
    shared = {"seed": seed, "threads": 1, "device": "cpu", "html": False}
    trained = mocli.integrate(
        folder / "train.h5mu", output=folder / "trained.h5mu", model="multidgd", batch_key="batch", **shared
    )
    placed = mocli.integrate(
        folder / "held.h5mu", output=folder / "placed.h5mu", reference=folder / "trained.model",
        batch_key="batch", **shared,
    )  # fmt: skip
    saved = load_model(folder / "placed.model")
    latent = mudata.read_h5mu(folder / "placed.h5mu").mod["rna"]
    cells = held.mod["rna"].obs_names
    z = torch.from_numpy(np.asarray(latent[cells].obsm["X_multidgd"], np.float32))
    levels = list(saved.description["levels"]["batch"])
    codes = torch.tensor([levels.index(level) for level in held.mod["rna"].obs["batch"]])
    saved.model.module.eval()
    found = {}
    with torch.inference_mode():
        for m in MODALITIES:
            library = torch.from_numpy(totals(held, m).ravel())
            found[m] = saved.model.decode(m, z, Conditions({"batch": codes}), library).numpy()
            if found[m].shape[1] != held.mod[m].n_vars:
                raise SystemExit(f"multiDGD decodes {found[m].shape[1]:,} of {held.mod[m].n_vars:,} {m}")
    told = {
        "trained_steps": trained.report["training"]["steps"],
        "placed_steps": placed.report["training"]["steps"],
    }
    return found, told


def by_multivi(
    python: str, folder: Path, held: mudata.MuData, epochs: int, seed: int
) -> tuple[dict[str, Expected], dict[str, object]]:
    """Train and predict in the other environment."""
    target = folder / "multivi.npz"
    used, told = run(
        python, "multivi_run.py", folder / "train.h5mu", folder / "held.h5mu", epochs, seed, target
    )
    arrays = np.load(target)
    order = np.argsort(arrays["cells"])[np.searchsorted(np.sort(arrays["cells"]), held.mod["rna"].obs_names)]
    rna, seen, rate, atac = (arrays[name][order] for name in ("rna", "seen", "rate", "atac"))
    proportions = totals(held, "rna") * rna
    ways = {
        f"MultiVI, {epochs} epochs": {"rna": proportions, "atac": atac},
        "  without excess zeros": {"rna": proportions * seen},
        "  by the library that it infers": {"rna": rate},
        "  and without excess zeros": {"rna": rate * seen},
    }
    return ways, {**told, "cpu_s": round(used.cpu_s)}


def score(expected: Expected, held: mudata.MuData) -> dict[str, float]:
    """RMSE of RNA and AUPRC of accessibility over all entries."""
    rna = sparse.csr_matrix(held.mod["rna"].X).toarray()
    found = {"rna_rmse": round(float(np.sqrt(np.square(expected["rna"] - rna, dtype=np.float64).mean())), 4)}
    if "atac" in expected:
        there = sparse.csr_matrix(held.mod["atac"].X).toarray() > 0
        found["atac_auprc"] = round(average_precision_score(there.ravel(), expected["atac"].ravel()), 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--python", help=f"has scvi-tools; else ${VARIABLE}")
    parser.add_argument("--epochs", type=int, default=50, help="of MultiVI, at most")
    parser.add_argument("--cells", type=int, help="drawn at random; all by default")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    python = find_python(options.python)
    torch.set_num_threads(1)
    mudata.set_options(pull_on_update=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train, held = split(options.data, folder, options.seed, options.cells)
        ways = {"mean": by_mean(train, held)}
        ways["multiDGD"], multidgd = by_multidgd(folder, held, options.seed)
        others, multivi = by_multivi(python, folder, held, options.epochs, options.seed)
        ways |= others
        rows = [{"": way, **score(expected, held)} for way, expected in ways.items()]
    seen = held.mod["atac"].X.nnz / np.prod(held.mod["atac"].shape)
    measure.show(f"{held.n_obs:,} cells held out", rows, ["", "rna_rmse", "atac_auprc"])
    print(f"  share of peaks seen (AUPRC of guessing) {seen:.4f}")
    measure.emit("beside_multivi", {"rows": rows, "multidgd": multidgd, "multivi": multivi, "seen": seen})


if __name__ == "__main__":
    main()
