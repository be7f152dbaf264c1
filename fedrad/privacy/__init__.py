"""Differential privacy: what is promised (plan), how it is kept (sampler, optimizer, noise), and what it cost.

This package stands on the ground floor: it knows neither reports nor Flower.
"""

from __future__ import annotations
