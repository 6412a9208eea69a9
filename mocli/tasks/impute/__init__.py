"""Fill in a modality that cells lack, with prediction intervals.

For example: mocli impute query.h5ad --from-model out.model --to prot -o filled.h5mu
"""
