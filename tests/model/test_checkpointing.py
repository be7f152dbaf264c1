"""Layers that the backward pass computes again: the same gradients to the bit, of which less is kept.

That the gradients are those of one sample at a time is tested where they are without it: ``test_families.py``,
``test_decoders.py``, ``test_quantized.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fedrad.data.batches import Batch, collate
from fedrad.model.base import load_base
from fedrad.model.build import build
from fedrad.model.encoder import ModelSpec, ReportClassifier
from fedrad.model.kernels import Kernels
from fedrad.privacy.gradients import Losses, leaf_gradients
from fedrad.tasks.task import Task
from tests import small
from tests.model import tiny
from tests.model.test_decoders import ALL_LINEAR, TASK, notes


def model_and_batch(folder: Path, family: str, backbone: str = "float32") -> tuple[ReportClassifier, Batch, Losses]:
    """With adapters in all layers, which the backward pass computes again; and the losses of a batch."""
    causal = family == "llama"
    base = load_base(tiny.save_decoder(folder, family)) if causal else tiny.base_of(folder, family)
    task: Task = TASK if causal else small.TASK
    tokens = notes(base) if causal else small.tokens(6)
    spec, kernels = ModelSpec(base.name, backbone=backbone), Kernels(backbone=backbone, checkpointing=True)
    model = build(base, spec, ALL_LINEAR, task.outputs(), 0, kernels, answers=task.answers(base.tokenizer))
    batch = collate(tokens, np.arange(len(tokens)), 0)
    return tiny.randomise(model, scale=0.1), batch, lambda outputs: task.losses(outputs, batch.labels, batch.mask)


@pytest.mark.parametrize("apart", [False, True], ids=["one-adapter", "an-adapter-each"])
@pytest.mark.parametrize("backbone", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["bert", "albert", "llama"])
def test_no_bit_of_a_gradient_changes_and_less_is_kept(family: str, backbone: str, apart: bool, tmp_path: Path) -> None:
    model, batch, losses = model_and_batch(tmp_path / "base", family, backbone)
    read, kept = (model.prefix(batch.ids, batch.attention), batch.attention), list[int]()
    generator = torch.Generator().manual_seed(3)
    own = {p: torch.randn((len(batch.ids), *p.shape), generator=generator) / 10 for p in model.adapter().values()}

    def gradients(*, checkpointing: bool) -> dict[str, Tensor]:
        model.suffix.layers.checkpointing = checkpointing
        storages: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            _, found = leaf_gradients(model.suffix, model.adapter(), read, losses, own if apart else None)
        kept.append(sum(storages.values()))
        return found

    assert small.same(gradients(checkpointing=True), gradients(checkpointing=False))
    inputs = len(model.suffix.layers.order) * read[0].nbytes  # hooks do not see what a checkpoint keeps
    assert kept[0] + inputs < kept[1] / 2


def test_nothing_is_computed_twice_where_no_gradient_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch, _ = model_and_batch(tmp_path / "base", "bert")
    monkeypatch.setattr("fedrad.model.layers.checkpoint", lambda *args, **options: pytest.fail("a checkpoint"))
    with torch.no_grad():
        model(batch.ids, batch.attention)
