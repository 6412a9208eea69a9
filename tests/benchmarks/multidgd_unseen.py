"""What multiDGD loses on cells of a batch that it never saw: one left out, naive and with a new component.

    python tests/benchmarks/multidgd_unseen.py DATA.h5mu --batch-key batch --batches A B [--cells 2000]
        [--epochs 60]

Half of every batch named is test cells. One model is trained on all others (the batches are seen), and for
every batch one without any of its cells. The negative log-likelihood of the same test cells, placed as a
query, is compared cell by cell: the ratio unseen over seen, its mean. Prints a table and one JSON line.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import measure

measure.one_thread()

import mudata  # noqa: E402 - threads are set first
import numpy as np  # noqa: E402
import torch  # noqa: E402

import mocli  # noqa: E402
from mocli.data.batches import BundleRows  # noqa: E402
from mocli.data.files.inputs import open_inputs  # noqa: E402
from mocli.models.base import Schedule  # noqa: E402
from mocli.tasks.infer.query import match_query  # noqa: E402
from mocli.tasks.run.options import DataOptions  # noqa: E402
from mocli.tasks.trained.saved import load_model  # noqa: E402
from mocli.train.loop import Training, fit  # noqa: E402

CPU = torch.device("cpu")


def quiet(_):
    return None


def train(cells, options, folder, name):
    path = folder / f"{name}.h5mu"
    with mudata.set_options(pull_on_update=False):
        cells.write_h5mu(path)
    mocli.integrate(
        [path], output=folder / f"{name}-out.h5mu", model="multidgd", batch_key=options.batch_key,
        label_key=options.label_key, params={"max_epochs": options.epochs}, seed=0, html=False, threads=1,
        device="cpu", force=True, resume="never",
    )  # fmt: skip
    return folder / f"{name}-out.model"


def losses(model, path, new_levels):
    """Negative log-likelihood of every cell of a query, at its trained place, `(n_cells,)`."""
    saved = load_model(model)
    saved.model.params = replace(saved.model.params, new_levels=new_levels)
    files = open_inputs([str(path)], kinds={})
    bundle = match_query(saved, files, DataOptions(inputs=(str(path),)), say=quiet, warn=quiet).load()
    torch.manual_seed(0)
    query = saved.model.extended(bundle)
    fit(query, bundle, Schedule(), Training(CPU, 0))
    source = BundleRows(bundle, CPU)
    with torch.no_grad():
        return np.array(
            [
                float(query.module.reconstruction(query.prepare(source.take_cells(torch.tensor([i]), 0))))
                for i in range(bundle.n_cells)
            ]
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--label-key", default="cell_type")
    parser.add_argument("--batches", nargs="+", required=True)
    parser.add_argument("--cells", type=int, default=2_000)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    with mudata.set_options(pull_on_update=False):
        data = mudata.read_h5mu(options.data)
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(data.n_obs, min(options.cells, data.n_obs), replace=False))
    first = next(iter(data.mod.values()))
    names = first.obs_names[chosen]
    batch = first.obs.loc[names, options.batch_key].astype(str).to_numpy()
    test = (rng.random(len(names)) < 0.5) & np.isin(batch, options.batches)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)

        def part(mask):
            return data[names[mask]].copy()

        seen = train(part(~test), options, folder, "seen")
        for name in options.batches:
            path = folder / "test.h5mu"
            with mudata.set_options(pull_on_update=False):
                part(test & (batch == name)).write_h5mu(path)
            unseen = train(part(batch != name), options, folder, "unseen")
            base = losses(seen, path, "naive")
            for way in ("naive", "component"):
                ratio = losses(unseen, path, way) / base
                rows.append(
                    {"batch": name, "way": way, "cells": len(ratio), "ratio": round(float(ratio.mean()), 4)}
                )
                print(rows[-1], flush=True)
    measure.show(
        "multiDGD, cells of an unseen batch over the same cells with their batch seen", rows, list(rows[0])
    )
    measure.emit("multidgd_unseen", {"rows": rows, "cells": options.cells, "epochs": options.epochs})


if __name__ == "__main__":
    main()
