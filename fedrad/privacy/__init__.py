"""Differential privacy: what is promised (plan), how it is kept (sampler, optimizer, noise), and what it costs.

Nothing in this package depends on reports or on Flower.
"""
