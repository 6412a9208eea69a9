"""Batches within a modality of cells measured apart: with and without `--batch-key`, beside the links.

    python tests/benchmarks/unpaired_batches.py ../shared/data [--models otcca] [--seeds 0]

Data: protein - RNA - protein of citeseq_pbmc10x_2batch (two experiments) and adt216_pbmc_stim_4batch (four
batches, two technologies), gates of the one study in the words of the other; and citeseq_pbmc10x_2batch
alone, pairing hidden. Label transfer is the product's own; kBET and silhouette of batches (within labels) are
of each modality by itself, so that what keeps modalities apart does not count. Batches of the third panel
are two technologies x two conditions, and stimulated cells are others: so kBET of the technologies within
each condition is given as well, and, for each kBET, that of cells placed by the authors' clusters alone, and
in no way by their batch.
"""

import argparse
import tempfile
from pathlib import Path

import measure

measure.one_thread()

import anndata as ad  # noqa: E402 - threads are set first
import mudata  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

import mocli  # noqa: E402
from mocli.metrics.embedding import Embedding  # noqa: E402
from mocli.metrics.registry import evaluate  # noqa: E402

MAJOR = {
    "CD4 T": "Tcell",
    "CD8 T": "Tcell",
    "B": "Bcell",
    "NK": "NK",
    "CD14 Mono": "Myeloid",
    "CD16 Mono/other": "Myeloid",
}


def write(data, folder):
    """Files rna, prot and stim with `cell_type` in one vocabulary, and the two link tables."""
    cite = mudata.read_h5mu(data / "citeseq_pbmc10x_2batch.h5mu")
    parts = {name: cite[name].copy() for name in ("prot", "rna")}
    for part in parts.values():
        part.obs["cell_type"] = part.obs["cell_type_gated"].astype(object).map(MAJOR).astype("category")
    parts["stim"] = ad.read_h5ad(data / "adt216_pbmc_stim_4batch.h5ad")
    for name, part in parts.items():
        part.obs_names = [f"{name}_{cell}" for cell in part.obs_names]
        part.write_h5ad(folder / f"{name}.h5ad")
    for study, panel in (("citeseq_pbmc10x_2batch", "prot"), ("adt216_pbmc_stim_4batch", "stim")):
        table = pd.read_csv(data / f"{study}.links.tsv", sep="\t")
        sides = table[["source_modality", "target_modality"]]
        table[["source_modality", "target_modality"]] = sides.replace("prot", panel)
        table.to_csv(folder / f"{panel}.tsv", sep="\t", index=False)


def mixed(z, obs):
    """KBET of all batches and of those within each condition, silhouette of batches within labels."""
    batch, label = (pd.Categorical(obs[key]).codes.astype(np.int64) for key in ("batch", "cell_type"))
    seen = Embedding({"z": z}, label={"z": label}, batch={"z": batch})
    found = {k: v["value"] for k, v in evaluate(seen, ["kbet_batch", "silhouette_batch"]).items()}
    for condition in sorted(set(obs["condition"])) if "condition" in obs else ():
        some = np.asarray(obs["condition"] == condition)
        within = evaluate(Embedding({"z": z[some]}, batch={"z": batch[some]}), ["kbet_batch"])
        found[f"kbet_batch within {condition}"] = within["kbet_batch"]["value"]
    return found


def by_modality(places, parts):
    """`mixed` of each modality alone; `places` gives the coordinates of each by its name."""
    return {
        f"{metric} {name}": round(value, 3)
        for name, z in places.items()
        for metric, value in mixed(np.asarray(z, np.float32), parts[name].obs).items()
    }


def placed_by_cluster(obs):
    """Coordinates in which a cell has its cluster's corner and a little noise, and nothing of its batch."""
    codes = pd.Categorical(obs["cluster"]).codes
    z = np.random.default_rng(0).normal(0, 0.05, (len(codes), codes.max() + 1))
    z[np.arange(len(codes)), codes] += 1
    return z


def transfers(metrics):
    """Label transfer, in the report's words."""
    start = "label_transfer["
    return {k[len(start) : -1]: round(v["value"], 3) for k, v in metrics.items() if k.startswith(start)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", default="otcca")
    parser.add_argument("--seeds", default="0")
    given = parser.parse_args()
    mudata.set_options(pull_on_update=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(given.data, folder)
        for modalities, tables in ((("prot", "rna", "stim"), ("prot", "stim")), (("prot", "rna"), ("prot",))):
            rows = []
            for model in given.models.split(","):
                for batch in (None, "batch"):
                    for seed in map(int, given.seeds.split(",")):
                        report = mocli.integrate(
                            [f"{m}={folder / m}.h5ad" for m in modalities],
                            links=[folder / f"{t}.tsv" for t in tables],
                            output=folder / "out.h5mu", model=model, pairing="unpaired", batch_key=batch,
                            label_key="cell_type", seed=seed, threads=1, device="cpu", html=False,
                            clusters="none", force=True,
                        ).report  # fmt: skip
                        parts = mudata.read_h5mu(folder / "out.h5mu").mod
                        places = {m: part.obsm[f"X_{model}"] for m, part in parts.items()}
                        found = transfers(report["metrics"]) | by_modality(places, parts)
                        rows.append({"way": f"{model}, {batch or 'no'} key", "seed": seed, **found})
            rows += [{"way": k, **transfers(b["metrics"])} for k, b in report["baselines"].items()]
            known = {m: placed_by_cluster(part.obs) for m, part in parts.items() if "cluster" in part.obs}
            rows += [{"way": "placed by cluster", **by_modality(known, parts)}] if known else []
            for row in rows:
                print(row)
            measure.emit("unpaired_batches", {"modalities": modalities, "rows": rows})


if __name__ == "__main__":
    main()
