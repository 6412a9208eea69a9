"""Partners found in real paired cells taken apart: MaxFuse, links alone, links smoothed, by the same metrics.

    python tests/benchmarks/beside_maxfuse.py data.h5mu data.links.tsv LABEL --python OTHER/bin/python

The other Python has maxfuse (its own environment: its requirements are old). mocli's own figures come
from `mocli integrate` on the same files; this script prepares the same features for MaxFuse as its
tutorial does (standardised shared features, standardised highly variable features).
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from mocli.data.batches import dense_rows
from mocli.metrics.embedding import Embedding
from mocli.metrics.registry import evaluate
from mocli.models.registry import resolve
from mocli.tasks.prepare.load import load
from mocli.tasks.prepare.plan import make_plan
from mocli.tasks.run.options import DataOptions, TrainOptions
from mocli.tasks.score.evaluate import score
from mocli.types import Task

HERE = Path(__file__).resolve().parent
SHOWN = ("foscttm", "label_transfer", "mixing")


def show(title, metrics, seconds=None):
    """Print the metrics that the table in RESULTS.md has."""
    values = [f"{k} {v['value']:.3f}" for k, v in metrics.items() if k.startswith(SHOWN)]
    print(f"{title:28s}", "  ".join(values), "" if seconds is None else f"  {seconds:.0f} s", flush=True)


def main():
    """Compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("links")
    parser.add_argument("label")
    parser.add_argument("--python", required=True)
    asked = parser.parse_args()
    options = DataOptions([asked.data], links=[asked.links], pairing="unpaired", label_key=asked.label)
    made = make_plan(options, TrainOptions(model="scmodal"), Task.INTEGRATE, lambda _: None)
    params = resolve(made.traits, {}, "paper")  # features as they are
    bundle = load(made, params, seed=0, say=lambda _: None, warn=lambda _: None).bundle
    (link,) = bundle.links
    arrays = {}
    for i, name in enumerate(link.edge):
        rows = np.arange(bundle.modalities[name].n_obs)
        arrays[f"shared{i}"] = dense_rows((link.source_features, link.target_features)[i], rows)
        arrays[f"active{i}"] = dense_rows(bundle.modalities[name].features, rows)
        for key in (f"shared{i}", f"active{i}"):
            arrays[key] = arrays[key][:, arrays[key].std(0) > 0] if "active" in key else arrays[key]
    varying = (arrays["shared0"].std(0) > 0) & (arrays["shared1"].std(0) > 0)
    for i in (0, 1):
        arrays[f"shared{i}"] = arrays[f"shared{i}"][:, varying]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "arrays.npz", Path(folder) / "embedding.npz"
        np.savez(source, **arrays)
        begun = time.monotonic()
        script = str(HERE / "maxfuse_embedding.py")
        subprocess.run(
            [asked.python, script, str(source), str(target)], check=True, stdout=subprocess.DEVNULL
        )
        seconds = time.monotonic() - begun
        found = np.load(target)
        z = {name: found[f"z{i}"] for i, name in enumerate(link.edge)}
    label = {name: bundle.codes_of(bundle.label, name) for name in z}
    known = {"label": label, "label_levels": bundle.label.levels, "pairs": made.pairs}
    show("MaxFuse", evaluate(Embedding(z=z, **known)), seconds)
    for baseline in score(z, bundle, made.pairs, seed=0).baselines.values():
        show(baseline["title"], baseline["metrics"])


if __name__ == "__main__":
    main()
