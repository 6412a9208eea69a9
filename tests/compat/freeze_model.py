"""Freeze a tiny model of the present format version: `python tests/compat/freeze_model.py FOLDER`.

To be run once for each format version; the folder then stays as it is for ever.
"""

import json
import sys
import tempfile
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd

import mocli

SMALL = {"n_hidden": 4, "n_latent": 2, "batch_size": 8, "n_neighbors": 3, "n_pcs": 4}
PEAKS = [f"chr1-{1000 * i}-{1000 * i + 500}" for i in range(1, 11)]
MODALITIES = {
    "rna": (12, [f"GENE{i}" for i in range(8)]),
    "prot": (10, [f"Prot{i}" for i in range(5)]),
    "atac": (11, PEAKS),
}


def freeze(folder):
    """Write model, counts and latent of every cell."""
    rng = np.random.default_rng(20)
    counts = {name: rng.poisson(1.5, (n, len(features))) for name, (n, features) in MODALITIES.items()}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for name, (n, features) in MODALITIES.items():
            obs, var = pd.DataFrame(index=[f"{name}{i}" for i in range(n)]), pd.DataFrame(index=features)
            ad.AnnData(counts[name].astype(np.float32), obs, var).write_h5ad(work / f"{name}.h5ad")
        (work / "rp.tsv").write_text("rna\tprot\n" + "".join(f"GENE{i}\tProt{i}\n" for i in range(4)))
        (work / "ra.tsv").write_text(
            "rna\tatac\tsign\n"
            + "".join(f"GENE{i // 2}\t{p}\t{-1 if i == 9 else 1}\n" for i, p in enumerate(PEAKS))
        )
        mocli.integrate(
            [work / f"{name}.h5ad" for name in MODALITIES],
            links=[work / "rp.tsv", work / "ra.tsv"],
            output=work / "o.h5mu",
            params=SMALL,
            max_steps=30,
            html=False,
            threads=1,
            device="cpu",
        )
        folder.mkdir(parents=True)
        for name in ("model.json", "weights.safetensors"):
            (folder / name).write_bytes((work / "o.model" / name).read_bytes())
        with h5py.File(work / "o.h5mu") as h5:
            latent = {name: h5[f"mod/{name}/obsm/X_scmodal"][()].tolist() for name in MODALITIES}
    expected = {"counts": {name: x.tolist() for name, x in counts.items()}, "latent": latent}
    (folder / "expected.json").write_text(json.dumps(expected, sort_keys=True) + "\n")


if __name__ == "__main__":
    freeze(Path(sys.argv[1]))
