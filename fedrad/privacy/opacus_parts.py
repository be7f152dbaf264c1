"""The parts of Opacus that we use, imported without its change to the process's logging.

On import, version 1.6 adds a handler to the root logger, so that Flower's lines would be printed twice.
"""

from __future__ import annotations

import logging

_handlers = list(logging.root.handlers)

from opacus.grad_sample import GradSampleModule  # noqa: E402
from opacus.grad_sample.linear import compute_linear_grad_sample  # noqa: E402
from opacus.optimizers import DPOptimizer  # noqa: E402

logging.root.handlers[:] = _handlers

__all__ = ["DPOptimizer", "GradSampleModule", "compute_linear_grad_sample"]
