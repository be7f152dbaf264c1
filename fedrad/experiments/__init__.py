"""Experiments: grids of runs, and what their results can claim."""
