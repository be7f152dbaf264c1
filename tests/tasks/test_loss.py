"""One loss for each report, which no other report and no masked label touches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from fedrad.tasks.classification import Classification
from fedrad.tasks.multi_label import MultiLabel
from fedrad.tasks.single_label import SingleLabel

MULTI, SINGLE = MultiLabel(("a", "b", "c", "d")), SingleLabel(("a", "b", "c", "d"))
BOTH = pytest.mark.parametrize("task", [MULTI, SINGLE])


def case(seed: int, task: Classification = MULTI) -> tuple[Tensor, Tensor, Tensor]:
    reports, labels = 5, task.outputs()
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(reports, labels, generator=generator) * 3
    mask = (torch.rand(reports, labels, generator=generator) < 0.7).float()
    if task == SINGLE:
        classes = torch.randint(0, labels, (reports,), generator=generator)
        return logits, functional.one_hot(classes, labels).float(), torch.ones_like(mask)
    return logits, torch.randint(0, 2, (reports, labels), generator=generator).float(), mask


@BOTH
@given(seed=st.integers(0, 10_000), row=st.integers(0, 4))
def test_a_report_s_loss_is_its_own(task: Classification, seed: int, row: int) -> None:
    logits, labels, mask = case(seed, task)
    logits.requires_grad_()
    losses = task.losses(logits, labels, mask)
    (gradient,) = torch.autograd.grad(losses[row], logits)
    alone = task.losses(logits[[row]], labels[[row]], mask[[row]])

    assert losses.shape == (5,)
    assert torch.allclose(alone[0], losses[row])
    assert not gradient[torch.arange(5) != row].any()


@given(seed=st.integers(0, 10_000))
def test_a_masked_label_has_no_gradient_and_no_say(seed: int) -> None:
    logits, labels, mask = case(seed)
    logits.requires_grad_()
    losses = MULTI.losses(logits, labels, mask)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    flipped = torch.where(mask > 0, labels, 1 - labels)

    assert not gradient[mask == 0].any()
    assert gradient[mask > 0].all()
    assert torch.equal(MULTI.losses(logits, flipped, mask), losses)


def test_a_report_without_any_label_adds_nothing() -> None:
    logits, labels, mask = case(0)
    logits.requires_grad_()
    losses = MULTI.losses(logits, labels, torch.zeros_like(mask))
    (gradient,) = torch.autograd.grad(losses.sum(), logits)

    assert not losses.any()
    assert not gradient.any()


@given(seed=st.integers(0, 10_000))
def test_the_values_are_those_of_torch(seed: int) -> None:
    logits, labels, mask = case(seed)
    each = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    assert torch.allclose(MULTI.losses(logits, labels, mask), (each * mask).sum(1))

    logits, labels, mask = case(seed, SINGLE)
    expected = functional.cross_entropy(logits, labels.argmax(1), reduction="none")
    assert torch.allclose(SINGLE.losses(logits, labels, mask), expected, atol=1e-6)


@BOTH
def test_large_logits_and_half_precision_stay_finite(task: Classification) -> None:
    logits, labels, mask = case(0, task)
    losses = task.losses((logits * 1e4).half(), labels, mask)

    assert losses.dtype == torch.float32
    assert losses.isfinite().all()


@BOTH
def test_an_empty_batch_has_no_losses(task: Classification) -> None:
    empty = torch.zeros(0, 4)

    assert task.losses(empty, empty, empty).shape == (0,)
