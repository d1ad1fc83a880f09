"""How networks run fast: folding, fused and 16-bit convolutions, CUDA graphs.

Nothing here knows a detector. Open `folding` first: it makes the fast copy of a network.
"""
