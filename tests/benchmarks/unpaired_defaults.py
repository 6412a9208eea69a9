"""Settings of the aligner over all sets taken apart, and the choice with each set left out.

    python tests/benchmarks/unpaired_defaults.py ../shared/data [--grid damping=0,1,3 input_smoothing=0.2,0.5]

Fits every combination on every set of `unpaired_sets.py` (pairing hidden) and ranks it within a set by
FOSCTTM, label transfer both ways and mixing. The setting of the best mean rank over all sets but one is
scored on that one, beside the product's defaults and the best setting there.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import measure

measure.one_thread()

import mudata  # noqa: E402 - threads are set first
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from unpaired_sets import COLUMNS, SETS, sources  # noqa: E402

import mocli  # noqa: E402
from mocli.metrics.embedding import Embedding  # noqa: E402
from mocli.metrics.registry import evaluate  # noqa: E402

SIGNS = dict(zip(COLUMNS, (1, -1, -1, 1), strict=True))


def one(data, folder, name, params, seed):
    """FOSCTTM, label transfer to the second modality and back, mixing."""
    cells, links = sources(data, folder, name)
    mocli.integrate(
        cells, links=links, output=folder / "out.h5mu", model="otcca", pairing="unpaired", params=params,
        seed=seed, threads=1, device="cpu", html=False, metrics="none", clusters="none", force=True,
    )  # fmt: skip
    placed = mudata.read_h5mu(folder / "out.h5mu")
    a, b = placed.mod
    labels = {m: placed[m].obs[SETS[name]].astype(object).replace("unassigned", np.nan) for m in (a, b)}
    levels = sorted(labels[a].dropna().unique())
    codes = {m: pd.Categorical(of, levels).codes.astype(np.int64) for m, of in labels.items()}
    z = {m: np.asarray(placed[m].obsm["X_otcca"], np.float32) for m in (a, b)}
    pairs = np.repeat(np.arange(len(z[a]))[:, None], 2, axis=1)
    seen = Embedding(z, label=codes, pairs={(a, b): pairs})
    found = evaluate(seen, ["foscttm", "label_transfer", "mixing"])
    keys = (f"foscttm[{a}-{b}]", f"label_transfer[{a}->{b}]", f"label_transfer[{b}->{a}]", "mixing")
    return [found[key]["value"] for key in keys]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--grid", nargs="+", default=["damping=0,1,3", "input_smoothing=0.2,0.5"])
    parser.add_argument("--sets", default=",".join(name for name in SETS if name != "snareseq_mouse_cortex"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    mudata.set_options(pull_on_update=False)
    names = [axis.split("=")[0] for axis in given.grid]
    choices = [[float(v) for v in axis.split("=")[1].split(",")] for axis in given.grid]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for values in [(), *itertools.product(*choices)]:
            params = dict(zip(names, values, strict=False))
            way = " ".join(f"{k}={v:g}" for k, v in params.items()) or "default"
            for name in given.sets.split(","):
                found = one(given.data, Path(folder), name, params, given.seed)
                rows.append({"way": way, "set": name, **dict(zip(COLUMNS, found, strict=True))})
            print(
                way,
                [[round(v, 3) for v in list(r.values())[2:]] for r in rows if r["way"] == way],
                flush=True,
            )
    table = pd.DataFrame(rows)
    tried = table[table["way"] != "default"]
    ranks = pd.concat(
        {
            c: (tried.pivot_table(index="way", columns="set", values=c) * sign).rank()
            for c, sign in SIGNS.items()
        }
    )
    mean = ranks.groupby(level=1).mean()
    print("mean rank\n", mean.assign(all=mean.mean(axis=1)).sort_values("all").round(1).to_string())
    of = table.set_index(["way", "set"])[COLUMNS].round(3)
    for out in mean.columns:
        chosen = mean.drop(columns=out).mean(axis=1).idxmin()
        others = {"default": "default", "best there": mean[out].idxmin()}
        beside = {k: (way, of.loc[way, out].tolist()) for k, way in others.items()}
        print(f"without {out}: {chosen}, on it {of.loc[chosen, out].tolist()}; {beside}")


if __name__ == "__main__":
    main()
