"""What is used of libraries beyond what they document, in one place: when it moves, `tests/privacy/test_internals.py`
fails and this file is mended.

Opacus is imported so that it leaves the process's logging as it was: version 1.6 gives the root logger a handler as
soon as it is imported, and every line of Flower's, which has its own, would be printed twice.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from dp_accounting import dp_event
from dp_accounting.pld.pld_pmf import PLDPmf
from dp_accounting.rdp import RdpAccountant
from numpy.typing import NDArray

_handlers = list(logging.root.handlers)

from opacus.grad_sample import GradSampleModule  # noqa: E402
from opacus.grad_sample.linear import compute_linear_grad_sample  # noqa: E402
from opacus.optimizers import DPOptimizer  # noqa: E402

logging.root.handlers[:] = _handlers

__all__ = ["DPOptimizer", "GradSampleModule", "compute_linear_grad_sample", "losses_of", "renyi_divergences"]

Floats = NDArray[np.float64]


def losses_of(pmf: PLDPmf) -> tuple[Floats, Floats, float]:
    """Finite losses of a privacy loss distribution, ascending; their probabilities; that of an infinite loss."""
    dense = pmf.to_dense_pmf()
    losses = (dense._lower_loss + np.arange(len(dense._probs))) * dense._discretization
    return losses, dense._probs, float(dense._infinity_mass)


def renyi_divergences(orders: Sequence[int], rate: float, sigma: float) -> Floats:
    """Of one Poisson-sampled Gaussian step at each order, as `RdpAccountant` adds them up."""
    accountant = RdpAccountant(orders)
    accountant.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(sigma)))
    divergences: Floats = accountant._rdp
    return divergences
