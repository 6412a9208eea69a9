"""Train models and compare them with each other, other tools and simple controls.

For example: mocli benchmark data.h5mu --links links.tsv --label-key cell_type -o bench.tsv
"""
