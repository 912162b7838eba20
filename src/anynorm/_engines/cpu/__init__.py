"""Engines for memory that the CPU reads: compiled loops, and who calls them."""
