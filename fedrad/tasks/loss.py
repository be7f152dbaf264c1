"""The per-report loss: a vector of B values, so that no report's loss depends on another report (P16)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def report_losses(logits: Tensor, labels: Tensor, mask: Tensor, *, single_label: bool) -> Tensor:
    """Losses [B] of logits [B, L] against labels [B, L] in {0, 1}; labels with mask 0 add nothing.

    Multi-label: binary cross-entropy summed over the labels. The sum is not divided by the number of unmasked labels:
    a constant scale keeps the clip norm's meaning the same for every report. Single-label: cross-entropy.
    """
    logits = logits.float()
    if single_label:
        return -(labels * torch.log_softmax(logits, dim=-1) * mask).sum(dim=-1)
    return (binary_cross_entropy_with_logits(logits, labels, reduction="none") * mask).sum(dim=-1)
