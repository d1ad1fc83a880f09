"""How networks run fast: folding, fused and 16-bit convolutions, CUDA graphs. Knows no detector."""
