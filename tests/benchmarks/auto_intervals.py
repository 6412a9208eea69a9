"""How sure the differences between models and what needs no training are, given so few cells.

    python tests/benchmarks/auto_intervals.py ../shared/data --out FOLDER

FOLDER is that of a finished `auto_choice.py --pairing paired`. For each set and measure: the best model (mean
of its seeds), the better of principal components and WNN, their difference, and its 95 % interval from
resampling cells. Coordinates and clusters stay as they are, so what another training or another start of
k-means would give is not in the intervals; NMI is the mean of three runs of k-means of 30 starts each.
"""

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
from auto_choice import CONTROLS, SETS
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score, silhouette_samples
from sklearn.neighbors import NearestNeighbors
from unpaired_sets import sources

from mocli.metrics.matching import majority
from mocli.tasks.benchmark.contender import controls
from mocli.tasks.benchmark.ground import Ground, prepare_ground
from mocli.tasks.run.options import DataOptions

DRAWS = {"NMI": 200, "silhouette": 2000, "kNN": 2000}

Measure = Callable[[np.ndarray], float]


def ground_of(cells: Path, links: Path, label_key: str) -> Ground:
    """Read a set as the benchmark does."""
    data = DataOptions(inputs=[str(cells)], links=[str(links)], label_key=label_key, pairing="paired")

    def quiet(_: str) -> None:
        return None

    return prepare_ground(data, seed=0, say=quiet, warn=quiet, debug=quiet)


def coordinates(ground: Ground, cells: Path, runs: Path) -> dict[str, list[np.ndarray]]:
    """Return the coordinates of all cells by method, one matrix for each seed."""
    found = {c.name: [c.joint] for c in controls(ground, seed=0) if c.name in CONTROLS["paired"]}
    order = mudata.read_h5mu(cells).obs_names
    for file in sorted(runs.glob("integrate-*/out.h5mu")):
        model = file.parent.name.split("-")[1]
        read = mudata.read_h5mu(file)
        found.setdefault(model, []).append(
            read.obsm[f"X_{model}"][pd.Index(read.obs_names).get_indexer(order)]
        )
    return found


def measures(seeds: list[np.ndarray], label: np.ndarray) -> dict[str, Measure]:
    """Return functions that give each measure of drawn cells, mean of seeds."""
    correct, widths, clusters = [], [], []
    for z in seeds:
        nearest = NearestNeighbors(n_neighbors=15).fit(z).kneighbors(return_distance=False)
        correct.append(majority(label[nearest]) == label)
        widths.append(silhouette_samples(z, label))
        k = len(np.unique(label))
        clusters += [KMeans(k, n_init=30, random_state=start).fit_predict(z) for start in range(3)]
    hits, width = np.mean(correct, axis=0), np.mean(widths, axis=0)
    return {
        "NMI": lambda drawn: float(
            np.mean([normalized_mutual_info_score(label[drawn], c[drawn]) for c in clusters])
        ),
        "silhouette": lambda drawn: float(width[drawn].mean()),
        "kNN": lambda drawn: float(hits[drawn].mean()),
    }


def main() -> None:
    """Print a line for each set and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", default=",".join(SETS))
    given = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in given.sets.split(","):
        cells, links = sources(given.data, given.out, name)
        ground = ground_of(cells, links, SETS[name])
        codes = ground.bundle.label.codes
        labelled = np.flatnonzero(codes >= 0)
        label = codes[labelled]
        places = coordinates(ground, cells, given.out / f"{name}.paired.runs")
        of = {m: measures([z[labelled] for z in seeds], label) for m, seeds in places.items()}
        rng, everyone = np.random.default_rng(0), np.arange(len(label))
        for measure, n in DRAWS.items():
            value = {method: functions[measure](everyone) for method, functions in of.items()}
            simple = max(CONTROLS["paired"], key=lambda method: value[method])
            model = max(value.keys() - CONTROLS["paired"], key=lambda method: value[method])
            draws = rng.integers(len(label), size=(n, len(label)))
            ours, theirs = of[model][measure], of[simple][measure]
            low, high = np.percentile([ours(d) - theirs(d) for d in draws], [2.5, 97.5])
            told = f"{model} {value[model]:.3f}, {simple} {value[simple]:.3f}"
            print(
                f"{name}, {measure}: {told}: {value[model] - value[simple]:+.3f} ({low:+.3f} to {high:+.3f})"
            )


if __name__ == "__main__":
    main()
