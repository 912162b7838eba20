"""The computation in array-API code, which is the reference for everything else."""
