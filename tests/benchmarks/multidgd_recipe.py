"""What multiDGD's default settings are worth on real cells: one of them changed at a time, and several seeds.

    python tests/benchmarks/multidgd_recipe.py DATA.h5mu --label-key cell_type [--batch-key batch]
        [--hvg atac=8000] [--epochs 60] [--seeds 3]

Every line is a run of `mocli integrate`: the loss of held-out cells at its best (negative log-likelihood of
their counts, lower is better), after how many epochs, and how far clusters agree with the labels (adjusted
Rand index). Prints a table and one JSON line.
"""

import argparse
import tempfile
import time
from pathlib import Path

import measure

measure.one_thread()

import mocli  # noqa: E402 - threads are set first

VARIANTS = {
    "default": {},
    "start=origin": {"start": "origin"},
    "weight_l1=0": {"weight_l1": 0},
    "weight_l1=0.3": {"weight_l1": 0.3},
    "spread=0.2": {"spread": 0.2},
    "lr=1e-4": {"lr": 1e-4},
    "lr_mixture=1e-2": {"lr_mixture": 1e-2},
}
SEVERAL_SEEDS = ("default", "start=origin")


def run(options, params, seed, folder):
    begun = time.process_time()
    result = mocli.integrate(
        [options.data],
        output=folder / "o.h5mu",
        model="multidgd",
        label_key=options.label_key,
        batch_key=options.batch_key,
        hvg=dict(item.split("=") for item in options.hvg),
        params={"max_epochs": options.epochs, **params},
        seed=seed,
        html=False,
        threads=1,
        device="cpu",
        force=True,
        resume="never",
    )
    report = result.report
    curve = report["training"]["history"]["fit"]["validation"]
    best = min(curve["value"])
    return {
        "held_out_loss": round(best, 1),
        "epochs": curve["value"].index(best) + 1,
        "agreement": round(report["metrics"]["cluster_agreement"]["value"], 3),
        "cpu_s": round(time.process_time() - begun),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--label-key", required=True)
    parser.add_argument("--batch-key")
    parser.add_argument("--hvg", nargs="*", default=[], metavar="MODALITY=N")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3, help="of the default and of the random start")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            for seed in range(options.seeds if name in SEVERAL_SEEDS else 1):
                rows.append(
                    {"settings": name, "seed": seed, **run(options, VARIANTS[name], seed, Path(folder))}
                )
                print(rows[-1], flush=True)
    measure.show("multiDGD, one setting changed", rows, list(rows[0]))
    measure.emit("multidgd_recipe", {"rows": rows, "epochs": options.epochs, "hvg": options.hvg})


if __name__ == "__main__":
    main()
