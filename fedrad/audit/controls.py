"""Negative controls: the real training path, broken on purpose, to see that the audit notices.

Each control replaces one function of the path by a faulty one for as long as it is open, in this process alone. No
setting leads here: nothing but the audit imports this module (tests/audit/test_path.py holds that).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrad.privacy import noise, optimizer
from fedrad.privacy.plan import PrivacyPlan
from fedrad.privacy.randomness import Stream
from fedrad.training import local


@contextmanager
def intact() -> Iterator[None]:
    """Nothing is broken."""
    yield


def noise_off() -> AbstractContextManager[Any]:
    """No noise, although the plan is charged for it."""
    return patch.object(optimizer, "add_noise", _quieter(0.0))


def noise_quartered() -> AbstractContextManager[Any]:
    """A quarter of the noise multiplier that the plan is charged for."""
    return patch.object(optimizer, "add_noise", _quieter(0.25))


def noise_halved() -> AbstractContextManager[Any]:
    """Half of the noise multiplier that the plan is charged for."""
    return patch.object(optimizer, "add_noise", _quieter(0.5))


def no_subsampling() -> AbstractContextManager[Any]:
    """Every unit is in every step, while the plan is charged for Poisson sampling."""

    def all_of_them(n: int, rate: float, stream: Stream) -> NDArray[np.int64]:
        return np.arange(n, dtype=np.int64)

    return patch.object(local, "poisson_sample", all_of_them)


def clip_ignored() -> AbstractContextManager[Any]:
    """Gradients enter the sum as they are."""

    def ones(grads: list[Tensor], *_: object) -> Tensor:
        return torch.ones(len(grads[0]), dtype=torch.float64)

    return patch.object(optimizer, "clip_factors", ones)


def patients_clipped_by_report() -> AbstractContextManager[Any]:
    """Each report of a patient is clipped by itself, while the plan promises to protect the patient."""

    def apart(grads: Mapping[str, Tensor], units: NDArray[np.int64]) -> tuple[dict[str, Tensor], NDArray[np.int64]]:
        return dict(grads), np.arange(len(units))

    return patch.object(optimizer, "sum_by_unit", apart)


def _quieter(share: float) -> Callable[[Tensor, PrivacyPlan, Stream], Tensor]:
    def quieter(total: Tensor, plan: PrivacyPlan, stream: Stream) -> Tensor:
        return total + share * (noise.add_noise(total, plan, stream) - total)

    return quieter
