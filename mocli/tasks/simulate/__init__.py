"""Make new cells of chosen types, matched in all modalities.

For example: mocli simulate --from-model out.model --label cell_type=Astro --fold 5 -o sim.h5mu
"""
