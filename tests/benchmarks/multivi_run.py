"""MultiVI for `beside_multivi.py`; runs in an environment of its own that has scvi-tools.

python tests/benchmarks/multivi_run.py TRAIN.h5mu HELD.h5mu EPOCHS SEED arrays.npz answer.json
"""

import json
import logging
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
import mudata  # noqa: E402 - its imports warn
import numpy as np  # noqa: E402
import scvi  # noqa: E402
import torch  # noqa: E402

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.set_num_threads(1)
SETUP = {
    "rna_layer": None,
    "atac_layer": None,
    "batch_key": "batch",
    "modalities": {"rna_layer": "rna", "atac_layer": "atac", "batch_key": "rna"},
}


def read(path):
    """Cells with both modalities."""
    data = mudata.read_h5mu(path)
    # set by the setup, but looked for in new cells
    data.obs["_indices"] = np.arange(data.n_obs)
    return data


def main(train, held, epochs, seed, target, answer):
    """Train with defaults but for the number of epochs, and write what is expected of held-out cells.

    `rna` holds proportions among genes (its normalised expression), `seen` the probability that a count
    is not an excess zero, `rate` its expected counts by the library that it infers, `atac` the probability
    that a peak is seen in this very cell.
    """
    scvi.settings.seed = int(seed)
    data, new = read(train), read(held)
    scvi.model.MULTIVI.setup_mudata(data, **SETUP)
    model = scvi.model.MULTIVI(data)
    model.train(max_epochs=int(epochs), accelerator="cpu", enable_progress_bar=False)
    rna = model.get_normalized_expression(new, return_numpy=True)
    atac = model.get_normalized_accessibility(
        new, normalize_cells=True, normalize_regions=True, return_numpy=True
    )
    seen, rate = [], []
    with torch.inference_mode():
        for tensors in model._make_data_loader(adata=new, batch_size=128):
            _, found = model.module.forward(
                tensors, generative_kwargs={"use_z_mean": True}, compute_loss=False
            )
            seen.append(torch.sigmoid(-found["px_dropout"]).numpy())
            rate.append(found["px_rate"].numpy())
    cells = np.asarray(new.obs_names, str)
    arrays = {"rna": rna, "seen": np.concatenate(seen), "rate": np.concatenate(rate)}
    np.savez(target, cells=cells, atac=atac.astype(np.float32), **arrays)
    told = {
        "epochs": len(model.history["elbo_train"]),
        "elbo_validation": [round(float(v), 1) for v in model.history["elbo_validation"].iloc[-3:, 0]],
        "versions": {"scvi-tools": scvi.__version__, "torch": torch.__version__},
    }
    Path(answer).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
