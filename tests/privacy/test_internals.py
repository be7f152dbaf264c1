"""What `internals` and `opacus_parts` take of libraries is still there and still means the same."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution

from fedrad.privacy.internals import losses_of, renyi_divergences
from fedrad.privacy.opacus_parts import DPOptimizer, GradSampleModule


def test_losses_and_masses_are_those_of_the_distribution() -> None:
    """Delta from the masses is what the library's public method says."""
    pld = privacy_loss_distribution.from_gaussian_mechanism(1.5, value_discretization_interval=1e-3)
    losses, masses, infinite = losses_of(pld._pmf_remove)
    assert float(masses.sum()) + infinite == pytest.approx(1.0, abs=1e-9)
    for epsilon in (0.0, 0.5, 2.0):
        above = losses > epsilon
        delta = float(masses[above] @ -np.expm1(epsilon - losses[above])) + infinite
        assert delta == pytest.approx(pld.get_delta_for_epsilon(epsilon), rel=1e-6)


def test_divergences_of_a_step_that_takes_all_are_known() -> None:
    orders = [2, 5, 64]
    np.testing.assert_allclose(renyi_divergences(orders, 1.0, 2.0), np.array(orders) / 8)  # order / (2 sigma^2)
    assert (renyi_divergences(orders, 0.1, 2.0) < renyi_divergences(orders, 1.0, 2.0)).all()


def test_opacus_has_what_is_overridden_and_used() -> None:
    """A method that `PrivateOptimizer` refuses or replaces must be one that Opacus would call."""
    step = inspect.getsource(DPOptimizer.pre_step) + inspect.getsource(DPOptimizer.step)
    for name in ("clip_and_accumulate", "add_noise", "scale_grad", "pre_step", "original_optimizer"):
        assert name in step
    for name in ("signal_skip_step", "attach_step_hook", "zero_grad"):
        assert callable(getattr(DPOptimizer, name))
    assert "summed_grad" in inspect.getsource(DPOptimizer.zero_grad)
    assert isinstance(GradSampleModule.GRAD_SAMPLERS, dict)
    assert callable(GradSampleModule.cleanup)
