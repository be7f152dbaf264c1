"""Reports that share a forward pass can touch each other by rounding, which hostile weights make as large as they like;
one report in a pass is touched by no other. Whether and how rows of a product touch each other is the processor's
matter, so the controls bring one where they do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fedrad.data.batches import Tokenized
from fedrad.model.buckets import micro_batches
from fedrad.privacy.gradients import leaf_gradients
from fedrad.privacy.optimizer import clip_factors, finite_rows
from fedrad.training.inputs import prepare
from tests import small
from tests.processors import CoupledRows

OTHERS = 24  # fewer than the width, 32, so that something is orthogonal to all of them


def clipped_sum_of_the_others(here: small.Ready, shard: Tokenized) -> Tensor:
    """Of the first ``OTHERS`` reports of a shard, which may hold more."""
    classifier, inputs = here.setup.classifier, prepare(here.setup, shard)
    total = torch.zeros(())
    for rows in micro_batches(inputs.lengths, np.arange(OTHERS), classifier.kernels.micro_tokens):
        batch = inputs.batch(rows)
        _, grads = leaf_gradients(
            classifier.suffix,
            classifier.adapter(),
            (batch.hidden, batch.attention),
            batch.losses,
        )
        factors = clip_factors(list(grads.values()), 1.0)
        total = total + torch.cat([factors @ finite_rows(grads[name], factors) for name in sorted(grads)])
    return total


def moved_by_one_report(micro_tokens: int, *, hostile: bool) -> float:
    """How far the others' sum moves when a report joins the shard, in clip norms; the largest over some reports."""
    shard = small.tokens(60)
    here = small.ready(small.experiment(lora__targets="", train__micro_tokens=micro_tokens), shard)
    if hostile:
        kept = prepare(here.setup, shard).kept
        assert kept is not None
        _, _, directions = torch.linalg.svd(torch.from_numpy(kept[:OTHERS]).double(), full_matrices=True)
        head = here.setup.classifier.state()
        head["head.weight"] = (directions[OTHERS : OTHERS + len(small.LABELS)] * 1e10).float()
        head["head.bias"] = torch.zeros(len(small.LABELS))
        here.setup.classifier.load_state(head)
    without = clipped_sum_of_the_others(here, shard.select(np.arange(OTHERS)))
    joined = [shard.select(np.append(np.arange(OTHERS), extra)) for extra in range(OTHERS, 60)]
    return max(float((clipped_sum_of_the_others(here, one) - without).norm()) for one in joined)


def test_alone_in_its_pass_a_report_moves_no_other_whatever_the_weights() -> None:
    assert moved_by_one_report(1, hostile=True) == 0.0
    with CoupledRows():
        assert moved_by_one_report(1, hostile=True) == 0.0


@pytest.mark.parametrize(("hostile", "at_least", "at_most"), [(False, 0.0, 1e-4), (True, 0.1, float("inf"))])
def test_in_a_common_pass_it_does(hostile: bool, at_least: float, at_most: float) -> None:
    """Control, and what docs/privacy.md says: a rounding error by ordinary weights, any size by hostile ones."""
    with CoupledRows():
        assert at_least < moved_by_one_report(1024, hostile=hostile) <= at_most


def test_by_the_kernels_at_hand_ordinary_weights_move_a_rounding_error_at_most() -> None:
    assert moved_by_one_report(1024, hostile=False) <= 1e-4
