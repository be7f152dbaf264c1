"""Counts what a model runs: the passes of its two parts, step by step."""

from __future__ import annotations

from typing import Any

import pytest

from fedrad.model.layers import Prefix, Suffix
from fedrad.privacy.optimizer import PrivateOptimizer

Shape = tuple[int, ...]


class Passes:
    """From now on, of every model in this process.

    Attributes:
        prefix: what the frozen lower part was given, outside or inside steps: shapes [B, T].
        steps: for each noisy step, the shapes of the inputs of the trainable part since the step before; for a decoder
            that computes some of its outputs only, with their number.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prefix: list[Shape] = []
        self.steps: list[list[Shape]] = []
        self._open: list[Shape] = []
        below, above, noisy = Prefix.forward, Suffix.forward, PrivateOptimizer.step_noisy

        def prefix(module: Any, ids: Any, attention: Any) -> Any:
            self.prefix.append(tuple(ids.shape))
            return below(module, ids, attention)

        def suffix(module: Any, hidden: Any, attention: Any, *wanted: Any) -> Any:
            self._open.append((*hidden.shape, *(int(part.sum()) for part in wanted)))
            return above(module, hidden, attention, *wanted)

        def step_noisy(optimizer: Any, stream: Any) -> None:
            self.steps.append(self._open)
            self._open = []
            noisy(optimizer, stream)

        monkeypatch.setattr(Prefix, "forward", prefix)
        monkeypatch.setattr(Suffix, "forward", suffix)
        monkeypatch.setattr(PrivateOptimizer, "step_noisy", step_noisy)

    def counts(self) -> tuple[int, list[int]]:
        """Passes of the lower part in all, and of the trainable part in each step; and starts anew."""
        found = len(self.prefix), [len(shapes) for shapes in self.steps]
        self.prefix, self.steps, self._open = [], [], []
        return found
