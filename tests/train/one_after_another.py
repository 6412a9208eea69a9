"""Train models one after another: one_after_another.py FOLDER OUT MODEL...; alone or by torchrun."""

import sys
from pathlib import Path

import mocli

SMALL = {"n_hidden": 16, "n_latent": 4, "batch_size": 32}


def main(folder, out, *models):
    """Write a report for each model."""
    for name in models:
        together = name != "scmodal"
        inputs = [folder / "data.h5mu"] if together else [folder / "rna.h5ad", folder / "prot.h5ad"]
        mocli.integrate(
            inputs,
            links=[folder / "links.tsv"],
            model=name,
            params=SMALL,
            max_steps=60,
            threads=1,
            output=out / f"{name}.h5mu",
            html=False,
            umap=False,
            clusters=None,
            metrics="none",
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
