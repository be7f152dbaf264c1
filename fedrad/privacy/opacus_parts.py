"""What is used of Opacus, imported so that it leaves the process's logging as it was.

Version 1.6 gives the root logger a handler as soon as it is imported, and every line of Flower's, which has its own,
would be printed twice. Apart from `internals`, since importing Opacus takes torch's seconds.
"""

from __future__ import annotations

import logging

_handlers = list(logging.root.handlers)

from opacus.grad_sample import GradSampleModule  # noqa: E402
from opacus.grad_sample.linear import compute_linear_grad_sample  # noqa: E402
from opacus.optimizers import DPOptimizer  # noqa: E402

logging.root.handlers[:] = _handlers

__all__ = ["DPOptimizer", "GradSampleModule", "compute_linear_grad_sample"]
