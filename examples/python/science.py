"""The science without the command, on cells in memory: science.py MULTIOME.h5mu OUT.model GENES.tsv.

The model is one that `mocli integrate MULTIOME.h5mu -m multigrate --label-key cell_type -o out.h5mu` leaves.
"""

import sys

import mudata

import mocli
from mocli.tasks.gene2peak.options import Gene2PeakOptions
from mocli.tasks.simulate.options import SimulateOptions

data, folder, genes = sys.argv[1:]
with mudata.set_options(pull_on_update=False):
    cells = mudata.read_h5mu(data)
rna, atac = cells["rna"], cells["atac"]
model = mocli.load_model(folder)

# values of one modality from another, with intervals where the model holds some
imputed = mocli.impute_values(model, atac, "rna", features=["CD4", "CD8A"])
print("imputed", imputed.values.shape, imputed.why)

# a knock-out: how far cells move, and whether towards others
a, b = (rna[rna.obs["cell_type"] == label].copy() for label in ("lymph_a", "lymph_b"))
shifts = mocli.perturb_cells(model, a, {"CD4": ["CD4"], "both": ["CD4", "CD8A"]}, "knockout", targets=b)
print("perturbed", shifts.n_changed[0], shifts.length[0].round(3), shifts.shift[0].round(3))

# new cells of a type, matched in both modalities
new = mocli.simulate_cells(model, SimulateOptions(label="cell_type=lymph_a", n_cells=20), seed=1)
print("simulated", {name: adata.shape for name, adata in new.items()})

# genes silenced one by one, and the peaks around them
options = Gene2PeakOptions(genes=["CD4", "CD8A"], gtf=genes, method="input", min_cells=5)
silenced = mocli.silence_genes(model, {"rna": rna, "atac": atac}, options)
print("silenced", len(silenced.table), "pairs of genes and peaks")

# how well labels are kept apart, on any coordinates
every = mocli.simulate_cells(model, SimulateOptions(n_cells=30))["rna"]
z, labels = every.obsm["X_multigrate"], every.obs["cell_type"]
scores = mocli.score_latents(z, labels=labels, metrics=["silhouette_label", "nmi_kmeans"])
print("scored", {name: round(entry["value"], 3) for name, entry in scores.items()})
