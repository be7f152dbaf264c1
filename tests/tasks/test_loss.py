"""One loss for each report, which no other report and no masked label touches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from fedrad.tasks.loss import report_losses

BOTH = pytest.mark.parametrize("single_label", [False, True])


def case(seed: int, reports: int = 5, labels: int = 4, single_label: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(reports, labels, generator=generator) * 3
    mask = (torch.rand(reports, labels, generator=generator) < 0.7).float()
    if single_label:
        classes = torch.randint(0, labels, (reports,), generator=generator)
        return logits, functional.one_hot(classes, labels).float(), torch.ones_like(mask)
    return logits, torch.randint(0, 2, (reports, labels), generator=generator).float(), mask


@BOTH
@given(seed=st.integers(0, 10_000), row=st.integers(0, 4))
def test_a_report_s_loss_is_its_own(single_label: bool, seed: int, row: int) -> None:
    logits, labels, mask = case(seed, single_label=single_label)
    logits.requires_grad_()
    losses = report_losses(logits, labels, mask, single_label=single_label)
    (gradient,) = torch.autograd.grad(losses[row], logits)
    alone = report_losses(logits[[row]], labels[[row]], mask[[row]], single_label=single_label)

    assert losses.shape == (5,)
    assert torch.allclose(alone[0], losses[row])
    assert not gradient[torch.arange(5) != row].any()


@given(seed=st.integers(0, 10_000))
def test_a_masked_label_has_no_gradient_and_no_say(seed: int) -> None:
    logits, labels, mask = case(seed)
    logits.requires_grad_()
    losses = report_losses(logits, labels, mask, single_label=False)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    flipped = torch.where(mask > 0, labels, 1 - labels)

    assert not gradient[mask == 0].any()
    assert gradient[mask > 0].all()
    assert torch.equal(report_losses(logits, flipped, mask, single_label=False), losses)


def test_a_report_without_any_label_adds_nothing() -> None:
    logits, labels, mask = case(0)
    logits.requires_grad_()
    losses = report_losses(logits, labels, torch.zeros_like(mask), single_label=False)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)

    assert not losses.any()
    assert not gradient.any()


@given(seed=st.integers(0, 10_000))
def test_the_values_are_those_of_torch(seed: int) -> None:
    logits, labels, mask = case(seed)
    each = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    assert torch.allclose(report_losses(logits, labels, mask, single_label=False), (each * mask).sum(1))

    logits, labels, mask = case(seed, single_label=True)
    expected = functional.cross_entropy(logits, labels.argmax(1), reduction="none")
    assert torch.allclose(report_losses(logits, labels, mask, single_label=True), expected, atol=1e-6)


@BOTH
def test_large_logits_and_half_precision_stay_finite(single_label: bool) -> None:
    logits, labels, mask = case(0, single_label=single_label)
    losses = report_losses((logits * 1e4).half(), labels, mask, single_label=single_label)

    assert losses.dtype == torch.float32
    assert losses.isfinite().all()


@BOTH
def test_an_empty_batch_has_no_losses(single_label: bool) -> None:
    empty = torch.zeros(0, 4)

    assert report_losses(empty, empty, empty, single_label=single_label).shape == (0,)
