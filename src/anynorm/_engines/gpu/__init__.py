"""Engines for the memory of NVIDIA's GPUs: one source of kernels, how they are chosen, and who launches them."""
