"""Every model family against stock transformers, PEFT and the definition of a per-sample gradient.

The last test adds a decoder by what would be one new file: pre-norm blocks, RMSNorm, rotary positions, shared key and
value heads, a gated feed-forward part and a causal mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu
from transformers import LlamaConfig, LlamaModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from fedrad.model.adapter import LoRASpec
from fedrad.model.base import BaseModel
from fedrad.model.block import Block
from fedrad.model.encoder import ModelSpec, ReportClassifier, build
from fedrad.model.families import FAMILIES
from fedrad.model.family import Family, Stack
from fedrad.model.shapes import shapes_of
from fedrad.privacy.gradients import leaf_gradients
from fedrad.training.setup import set_up
from tests import small
from tests.model import tiny
from tests.model.test_export import LABELS, logits_of, run_readme, trained, write
from tests.privacy.test_gradients import batch_of, losses_of, one_at_a_time, relative_error

DEFAULT = LoRASpec(rank=2, alpha=4.0, targets=("query", "value"), layers=2)
CASES = [*((family, "mean") for family in FAMILIES), ("bert", "cls"), ("albert", "cls")]


def gradient_error(classifier: ReportClassifier) -> float:
    """Largest relative error of per-sample gradients against one report at a time."""
    ids, attention, labels = batch_of("", [7, 30, 12, 2, 18])
    losses, hidden = losses_of(labels[:, : len(LABELS)]), classifier.prefix(ids, attention)
    _, found = leaf_gradients(classifier.suffix, classifier.adapter(), (hidden, attention), losses)
    return relative_error(found, one_at_a_time(classifier, ids, attention, labels[:, : len(LABELS)]))


@pytest.mark.parametrize("targets", [("query", "value"), ("all-linear",)])
@pytest.mark.parametrize(("family", "pooling"), CASES)
def test_a_family_is_exact(
    family: str, pooling: str, targets: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny.base_of(tmp_path / "base", family)
    lora = LoRASpec(rank=2, alpha=4.0, targets=targets, layers=2)
    classifier = trained(base, lora, pooling)
    adapted = [name for name in classifier.adapter() if name.endswith(".lora_A")]
    layers = 1 if family == "albert" else 2  # ALBERT's are all the same one
    assert len(adapted) == layers * (2 if targets == DEFAULT.targets else 6)
    assert len(shapes_of(base.name, "", lora).adapted) == len(adapted)
    assert gradient_error(classifier) < 1e-5
    # Stock transformers and PEFT, by the README's lines, word for word.
    names = run_readme(write(classifier, base, tmp_path / "adapter"), monkeypatch)
    assert float((names["logits"] - logits_of(classifier, base, names["texts"])).abs().max()) <= 1e-5
    assert float(names["logits"].abs().max()) > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_default_settings_find_the_layers_to_adapt(family: str, tmp_path: Path) -> None:
    experiment = small.experiment(model__name=tiny.save(tmp_path / "base", family), train__warm_start="none")
    setup = set_up(experiment, small.TASK)
    assert any(name.endswith(".lora_A") for name in setup.classifier.adapter())


# ---- a family in one file


@dataclass(frozen=True)
class RotaryAttention:
    """Causal attention, rotated by position, with fewer heads for keys and values than for queries."""

    part: Any
    rotary: nn.Module

    def all_tokens(self, x: Tensor, mask: Tensor, *, eager: bool) -> Tensor:
        inputs = (self.part.q_proj, self.part.k_proj, self.part.v_proj)
        q, k, v = (layer(x).unflatten(-1, (-1, self.part.head_dim)).transpose(1, 2) for layer in inputs)
        q, k = apply_rotary_pos_emb(q, k, *self.rotary(x, torch.arange(x.shape[1])[None]))
        k, v = (each.repeat_interleave(self.part.num_key_value_groups, 1) for each in (k, v))
        later = torch.full(2 * x.shape[1:2], torch.finfo(x.dtype).min).triu(1)
        attended = scaled_dot_product_attention(q, k, v, attn_mask=mask + later)
        out: Tensor = self.part.o_proj(attended.transpose(1, 2).flatten(2))
        return out

    def first_token(self, first: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        raise NotImplementedError("no stock classifier of this family reads the first token")


def llama_blocks(rotary: nn.Module, layer: Any) -> list[Block]:
    mlp = layer.mlp
    return [
        Block(
            RotaryAttention(layer.self_attn, rotary),
            lambda x: mlp.down_proj(silu(mlp.gate_proj(x)) * mlp.up_proj(x)),
            before_attention=layer.input_layernorm,
            before_mlp=layer.post_attention_layernorm,
        )
    ]


def take_llama_apart(model: Any) -> Stack:
    layers = {f"layers.{i}": layer for i, layer in enumerate(model.layers)}
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
    blocks = partial(llama_blocks, model.rotary_emb)
    return Stack(model.embed_tokens, layers, tuple(range(len(layers))), blocks, final=model.norm, targets=names)


@pytest.mark.parametrize("layers", [0, 1])
def test_a_decoder_is_one_more_file(layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "llama", Family("llama", take_llama_apart, ("tokenizer.json",)))
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaModel(LlamaConfig(vocab_size=len(tiny.VOCABULARY), pad_token_id=0, **sizes, **heads)).eval()
    for norm in (module for name, module in model.named_modules() if name.endswith("norm")):
        nn.init.uniform_(norm.weight, 0.5, 2.0)
    base = BaseModel("toy", "", model.config, tiny.tokenizer(), model.requires_grad_(False), 32, 3, 48)
    classifier = build(base, ModelSpec("toy"), LoRASpec(2, 4.0, ("query", "value"), layers), len(LABELS), 0)
    ids, attention = tiny.encode(base, tiny.TEXTS)
    with torch.no_grad():
        hidden = model(ids, attention_mask=attention).last_hidden_state * attention.unsqueeze(-1)
    expected = hidden.sum(1) / attention.sum(1, keepdim=True)
    torch.testing.assert_close(classifier.pooled(ids, attention), expected, atol=1e-5, rtol=1e-5)
    assert gradient_error(tiny.randomise(classifier)) < 1e-5
