"""Bring the cells of all modalities into one latent space.

For example: mocli integrate rna.h5ad prot.h5ad --links rna-prot.tsv -o out.h5mu
"""
