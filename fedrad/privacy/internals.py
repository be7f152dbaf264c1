"""Private attributes of dp-accounting that we use, in one place; tests/privacy/test_internals.py fails if they move."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from dp_accounting import dp_event
from dp_accounting.pld.pld_pmf import PLDPmf
from dp_accounting.rdp import RdpAccountant
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def losses_of(pmf: PLDPmf) -> tuple[Floats, Floats, float]:
    """The finite losses of a privacy loss distribution, ascending; their probabilities; that of an infinite loss."""
    dense = pmf.to_dense_pmf()
    losses = (dense._lower_loss + np.arange(len(dense._probs))) * dense._discretization
    return losses, dense._probs, float(dense._infinity_mass)


def renyi_divergences(orders: Sequence[int], rate: float, sigma: float) -> Floats:
    """Renyi divergence of one Poisson-sampled Gaussian step at each order, as `RdpAccountant` computes it."""
    accountant = RdpAccountant(orders)
    accountant.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(sigma)))
    divergences: Floats = accountant._rdp
    return divergences
