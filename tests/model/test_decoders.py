"""Decoders against stock transformers, PEFT and the definition of a per-sample gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from fedrad.data.batches import Tokenized, collate
from fedrad.errors import ModelError
from fedrad.model.adapter import LoRASpec
from fedrad.model.base import BaseModel, load_base
from fedrad.model.build import build
from fedrad.model.encoder import ModelSpec, ReportClassifier
from fedrad.model.families import FAMILIES
from fedrad.model.generation import greedy
from fedrad.model.shapes import shapes_of
from fedrad.privacy.gradients import leaf_gradients, opacus_gradients
from fedrad.tasks.causal_lm import CausalLM, prompts_of
from fedrad.tasks.multi_label import MultiLabel
from tests.model import tiny
from tests.model.test_export import STATEMENT, run_readme
from tests.privacy.test_gradients import relative_error

LABELS = ("Chest", "Chest CT", "Chest CT prior", "Heart radiograph")
TASK = CausalLM(LABELS, instruction="No acute effusion.")
WHOLE = replace(TASK, loss="text")
LENGTH = 64
DECODERS = [name for name, family in FAMILIES.items() if family.causal]
QUERY_VALUE = LoRASpec(rank=2, alpha=4.0, targets=("query", "value"), layers=2)
ALL_LINEAR = LoRASpec(rank=2, alpha=4.0, targets=("all-linear",), layers=0)


def decoder(base: BaseModel, lora: LoRASpec, task: CausalLM = TASK) -> ReportClassifier:
    answers = task.answers(base.tokenizer)
    return tiny.randomise(build(base, ModelSpec(base.name), lora, TASK.outputs(), 0, answers=answers), scale=0.1)


def notes(base: BaseModel) -> Tokenized:
    """Of ragged lengths, one of them cut, with all answers."""
    return TASK.made_up([*tiny.TEXTS, "small left effusion, " * 20], base.tokenizer, LENGTH)


def one_at_a_time(model: ReportClassifier, tokens: Tokenized, task: CausalLM = TASK) -> dict[str, Tensor]:
    """The definition: forward and backward for each note alone, without padding."""
    trainable, rows = model.adapter(), []
    for row in range(len(tokens)):
        alone = collate(tokens, torch.tensor([row]).numpy(), 0)
        loss = task.losses(model(alone.ids, alone.attention), *task.targets(*alone)).sum()
        rows.append(torch.autograd.grad(loss, list(trainable.values())))
    return {name: torch.stack([row[i] for row in rows]) for i, name in enumerate(trainable)}


def by_every_engine(model: ReportClassifier, tokens: Tokenized, task: CausalLM = TASK) -> Iterator[dict[str, Tensor]]:
    """Per-sample gradients of one pass: by leaves, of all outputs or what is read, checkpointed, and by Opacus."""
    batch = collate(tokens, np.arange(len(tokens)), 0)
    labels, mask = task.targets(*batch)
    prefix, wanted = model.prefix(batch.ids, batch.attention), task.wanted(mask)
    assert wanted is not None
    for engine, checkpointing, also in (
        (leaf_gradients, False, ()),
        (leaf_gradients, False, (wanted,)),
        (leaf_gradients, True, (wanted,)),
        (opacus_gradients, False, (wanted,)),
    ):
        model.suffix.layers.checkpointing = checkpointing
        read = (prefix, batch.attention, *also)
        yield engine(model.suffix, model.adapter(), read, lambda outputs: task.losses(outputs, labels, mask))[1]


@pytest.mark.parametrize("lora", [QUERY_VALUE, ALL_LINEAR], ids=["query-value", "all-linear"])
@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_is_exact(family: str, lora: LoRASpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = load_base(tiny.save_decoder(tmp_path / "base", family))
    model, tokens = decoder(base, lora), notes(base)
    assert (
        len(shapes_of(base.name, "", lora).adapted) == len(model.adapter()) // 2 == (4 if lora == QUERY_VALUE else 21)
    )
    batch = collate(tokens, torch.arange(len(tokens)).numpy(), base.tokenizer.pad_token_id)
    alone = one_at_a_time(model, tokens)
    assert max(relative_error(found, alone) for found in by_every_engine(model, tokens)) < 1e-5
    # The loss is the stock model's log-probability of the answer, once the adapter does nothing.
    with torch.no_grad():
        blank = build(base, ModelSpec(base.name), lora, 0, 0, answers=model.answers)
        stock = AutoModelForCausalLM.from_pretrained(base.name).eval()
        losses = TASK.losses(blank(batch.ids, batch.attention), batch.labels, batch.mask)
        for row, loss in enumerate(losses):
            ids = torch.from_numpy(tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]]).long()
            count = int(batch.mask[row].sum())
            picked = stock(ids[None]).logits[0].log_softmax(-1)[-count - 1 : -1].gather(1, ids[-count:, None])
            assert float((picked.sum() + loss).abs()) < 1e-4
    # Plain PEFT on the stock model, by the README's lines, word for word, one answer at a time.
    written = tmp_path / "adapter"
    TASK.export(model, base, written, max_length=LENGTH, privacy_statement=STATEMENT)
    names = run_readme(written, monkeypatch)
    asked = TASK.made_up(names["texts"], base.tokenizer, LENGTH)
    prompts = collate(asked, torch.arange(2).numpy(), base.tokenizer.pad_token_id)
    inputs = (model.prefix(prompts.ids, prompts.attention), prompts.attention, prompts.ids, prompts.mask)
    assert float((torch.from_numpy(TASK.predict(model, *inputs)) - names["probabilities"]).abs().max()) < 1e-5
    assert float(names["probabilities"].std(dim=1).min()) > 1e-3


@pytest.mark.parametrize("family", DECODERS)
def test_the_whole_text_is_learnt_as_stock_causal_training_learns_it(family: str, tmp_path: Path) -> None:
    base = load_base(tiny.save_decoder(tmp_path / "base", family))
    model, tokens = decoder(base, ALL_LINEAR, WHOLE), notes(base)
    alone = one_at_a_time(model, tokens, WHOLE)
    assert max(relative_error(found, alone) for found in by_every_engine(model, tokens, WHOLE)) < 1e-5
    # The loss is the stock model's with all tokens as labels, summed, once the adapter does nothing.
    batch = collate(tokens, np.arange(len(tokens)), 0)
    with torch.no_grad():
        blank = build(base, ModelSpec(base.name), ALL_LINEAR, 0, 0, answers=model.answers)
        stock = AutoModelForCausalLM.from_pretrained(base.name).eval()
        losses = WHOLE.losses(blank(batch.ids, batch.attention), *WHOLE.targets(*batch))
        for row, loss in enumerate(losses):
            ids = torch.from_numpy(tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]]).long()[None]
            assert float(loss) == pytest.approx(float(stock(ids, labels=ids).loss) * (ids.shape[1] - 1), rel=1e-5)
    # What is learnt changes nothing of what is asked.
    other = decoder(base, ALL_LINEAR)
    asked = (model.prefix(batch.ids, batch.attention), batch.attention, batch.ids, batch.mask)
    np.testing.assert_array_equal(WHOLE.predict(model, *asked), TASK.predict(other, *asked))


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    base, encoder = load_base(tiny.save_decoder(tmp_path / "llama", "llama")), tiny.base_of(tmp_path / "bert", "bert")
    answers = TASK.answers(base.tokenizer)
    with pytest.raises(ModelError, match=r"set model\.task=causal-lm"):
        build(base, ModelSpec(base.name), QUERY_VALUE, MultiLabel(("a",)).outputs(), 0)
    with pytest.raises(ModelError, match="needs a decoder"):
        build(encoder, ModelSpec(encoder.name), QUERY_VALUE, 0, 0, answers=answers)
    with pytest.raises(ModelError, match=r"name lora\.targets"):
        build(base, ModelSpec(base.name), LoRASpec(2, 4.0, ()), 0, 0, answers=answers)
    with pytest.raises(ModelError, match="same text to the tokenizer"):
        CausalLM(("Chest CT", "Chest CT")).answers(base.tokenizer)
    with pytest.raises(ModelError, match=r"data\.max-length = 12 leaves no room"):
        TASK.made_up(["effusion"], base.tokenizer, 12)
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    folder = tiny.save_decoder(tmp_path / "rope", "llama", rope_parameters=rope)
    with pytest.raises(ModelError, match="rotary positions of type 'dynamic'"):
        load_base(folder)


def test_a_sliding_window_bounds_the_length(tmp_path: Path) -> None:
    assert load_base(tiny.save_decoder(tmp_path / "base", "mistral", sliding_window=20)).max_length == 20


def test_it_writes_what_stock_transformers_writes(tmp_path: Path) -> None:
    """Prompts of several lengths in one batch, some ended early: token for token as one at a time with PEFT."""
    base = load_base(tiny.save_decoder(tmp_path / "base", "llama"))
    model, tokens = decoder(base, ALL_LINEAR), notes(base)
    TASK.export(model, base, tmp_path / "adapter", max_length=LENGTH, privacy_statement=STATEMENT)
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.name), tmp_path / "adapter")
    batch = collate(tokens, np.arange(len(tokens)), 0)
    prompts, attention = prompts_of(batch.ids, batch.attention, batch.mask)
    expected = []
    for ids, seen in zip(prompts, attention, strict=True):
        ids = ids[None, : int(seen.sum())]
        asked = {"do_sample": False, "max_new_tokens": 7, "eos_token_id": len(base.tokenizer), "pad_token_id": 0}
        made = peft.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **asked)
        expected.append(made[0, ids.shape[1] :].tolist())
    assert greedy(model, prompts, attention, len(base.tokenizer), 7) == expected
    end = expected[0][2]  # a text ends before the token that ends texts
    ended = [line[: line.index(end)] if end in line else line for line in expected]
    assert greedy(model, prompts, attention, end, 7) == ended
    assert len(ended[0]) <= 2 < len(max(ended, key=len))
