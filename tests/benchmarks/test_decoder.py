"""The step of a decoder that is measured is one of fedrad's, also on a base that was never in memory unquantised."""

from __future__ import annotations

import pytest
import torch

from benchmarks.decoder import OURS, Case, engine, error

CASE = Case("small", "cpu", notes=2, tokens=20)


def test_the_gradients_of_both_engines_agree() -> None:
    assert error(CASE) < 1e-5


def test_a_random_base_of_four_bits_takes_a_step() -> None:
    pytest.importorskip("bitsandbytes", exc_type=ImportError)
    (step, size), (dense_step, dense) = engine(f"{OURS}, nf4", CASE), engine(OURS, CASE)
    found, whole = step(), dense_step()
    assert found.keys() == whole.keys()
    assert all(torch.isfinite(gradient).all() and gradient.any() for gradient in found.values())
    assert size < 0.5 * dense  # its vocabulary, in 16 bits, is most of it
