"""How far reports that share a forward pass change each other's gradients: by rounding only, and how much that is.

    python -m benchmarks.rounding

Differential privacy is proven for gradients that depend on one report each. This runs the same 32 generated reports
through the embedded encoder in different micro-batches and compares the clipped sums. Figures are in clip norms, so
they compare with what the noise is calibrated for.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import describe, machine, one_thread, table
from fedrad.data.batches import Tokenized, collate, tokenize
from fedrad.data.load import load_corpus
from fedrad.model.adapter import LoRASpec
from fedrad.model.base import load_base
from fedrad.model.build import build
from fedrad.model.encoder import ModelSpec, ReportClassifier
from fedrad.privacy.gradients import leaf_gradients
from fedrad.privacy.optimizer import clip_factors, finite_rows
from fedrad.settings import EMBEDDED
from fedrad.tasks.multi_label import MultiLabel

REPORTS, CLIP, LABELS = 32, 1.0, 14


def clipped_sum(classifier: ReportClassifier, tokens: Tokenized, parts: Sequence[np.ndarray], pad: int) -> Tensor:  # type: ignore[type-arg]
    """The sum over all reports, cut into these micro-batches."""
    total = torch.zeros(sum(p.numel() for p in classifier.adapter().values()), dtype=torch.float64)
    for part in parts:
        batch = collate(tokens, part, pad)

        def losses(logits: Tensor, labels: Tensor = batch.labels, mask: Tensor = batch.mask) -> Tensor:
            return MultiLabel(()).losses(logits, labels, mask)

        hidden = classifier.prefix(batch.ids, batch.attention)
        _, found = leaf_gradients(classifier.suffix, classifier.adapter(), (hidden, batch.attention), losses)
        factors = clip_factors(list(found.values()), CLIP)
        total += torch.cat([factors @ finite_rows(gradient, factors) for gradient in found.values()])
    return total


def difference(backbone: str) -> float:
    """Norm of the change of the clipped sum between reports one at a time and eight together, in clip norms."""
    base = load_base(EMBEDDED)
    lora = LoRASpec(rank=4, alpha=8.0, targets=("query", "value"), layers=1)
    classifier = build(base, ModelSpec(base.name, backbone=backbone), lora, LABELS, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in classifier.adapter().values():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    corpus = load_corpus("synthetic", reports=200)
    tokens = tokenize(corpus, np.arange(REPORTS), base.tokenizer, base.max_length)
    order = np.argsort(tokens.lengths)
    pad = int(base.tokenizer.pad_token_id)
    alone = clipped_sum(classifier, tokens, np.split(order, REPORTS), pad)
    together = clipped_sum(classifier, tokens, np.split(order, REPORTS // 8), pad)
    return float((together - alone).norm()) / CLIP


def main() -> None:
    one_thread()
    warnings.simplefilter("ignore")
    print(describe(machine()), flush=True)
    rows = [(backbone, f"{difference(backbone):.0e}") for backbone in ("float32", "bfloat16")]
    print(table(("base model", "one report at a time, against eight together"), rows))


if __name__ == "__main__":
    main()
