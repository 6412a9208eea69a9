"""totalVI for `beside_totalvi.py`; runs in an environment of its own that has scvi-tools.

python tests/benchmarks/totalvi_run.py train DATA.h5mu EPOCHS answer.json
python tests/benchmarks/totalvi_run.py predict DATA.h5mu BATCH SEED arrays.npz answer.json
"""

import json
import logging
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
import mudata  # noqa: E402 - its imports warn
import numpy as np  # noqa: E402
import scanpy as sc  # noqa: E402
import scvi  # noqa: E402
import torch  # noqa: E402

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.set_num_threads(1)
GENES = 4000
"""Highly variable genes, as many as in its tutorial."""

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def read(path):
    """Genes as X, proteins in obsm."""
    data = mudata.read_h5mu(path)
    rna, prot = data.mod["rna"], data.mod["prot"]
    x = prot.X.toarray() if hasattr(prot.X, "toarray") else np.asarray(prot.X)
    rna.obsm["protein"] = x.astype(np.float32)
    rna.uns["protein_names"] = list(prot.var_names)
    return rna


def train(path, epochs):
    """Train with defaults for some epochs, one batch."""
    rna = read(path)
    setup = {"protein_expression_obsm_key": "protein", "protein_names_uns_key": "protein_names"}
    scvi.model.TOTALVI.setup_anndata(rna, **setup)
    scvi.model.TOTALVI(rna).train(max_epochs=int(epochs), batch_size=256, **QUIET)
    return {}


def predict(path, batch, seed, target):
    """Hide the proteins of a batch, train with defaults, and write what is predicted of them.

    All zero in a batch is totalVI's sign of proteins that it did not measure. Arguments of the prediction
    are those of its tutorial on missing proteins.
    """
    scvi.settings.seed = int(seed)
    rna = read(path)
    hidden = (rna.obs["batch"] == batch).to_numpy()
    (other,) = set(rna.obs["batch"]) - {batch}
    rna.obsm["protein"][hidden] = 0
    sc.pp.highly_variable_genes(rna, n_top_genes=GENES, flavor="seurat_v3", batch_key="batch")
    rna = rna[:, rna.var["highly_variable"]].copy()
    setup = {"protein_expression_obsm_key": "protein", "protein_names_uns_key": "protein_names"}
    scvi.model.TOTALVI.setup_anndata(rna, batch_key="batch", **setup)
    model = scvi.model.TOTALVI(rna)
    model.train(**QUIET)
    _, found = model.get_normalized_expression(
        n_samples=25,
        return_mean=True,
        transform_batch=other,
        include_protein_background=True,
        sample_protein_mixing=False,
        return_numpy=True,
    )
    np.savez(target, cells=np.asarray(rna.obs_names[hidden], str), protein=found[hidden])
    return {"genes": rna.n_vars, "epochs": len(model.history["elbo_train"])}


if __name__ == "__main__":
    command, *arguments, answer = sys.argv[1:]
    told = {"train": train, "predict": predict}[command](*arguments)
    told["versions"] = {"scvi-tools": scvi.__version__, "torch": torch.__version__}
    Path(answer).write_text(json.dumps(told), encoding="utf-8")
