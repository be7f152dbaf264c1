"""Simulated hospitals: all of a federation in this process, in one pass, or through `flwr run`."""
