"""A decoder in NF4: its gradients, its bits and its adapter, against the definitions and against stock libraries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fedrad.config import Experiment
from fedrad.data.batches import collate
from fedrad.errors import ConfigError, ModelError
from fedrad.model import quantized
from fedrad.model.adapter import LoRALinear
from fedrad.model.base import BaseModel, load_base
from fedrad.model.build import build
from fedrad.model.encoder import ModelSpec
from fedrad.privacy.gradients import leaf_gradients
from fedrad.simulation import centralized, simulate
from fedrad.tasks.classifier import Classifier
from tests import small
from tests.model import tiny
from tests.model.test_decoders import ALL_LINEAR, LENGTH, TASK, notes, one_at_a_time
from tests.model.test_export import STATEMENT, run_readme
from tests.privacy.test_gradients import relative_error
from tests.tasks.test_causal_lm import SETTINGS

pytest.importorskip("bitsandbytes", reason="the extra qlora is not installed")


def save_rounded(folder: Path, **sizes: int) -> str:
    """A decoder whose embeddings and vocabulary are bfloat16 already: stock transformers does not round them."""
    name = tiny.save_decoder(folder / "base", "llama", max_position_embeddings=320, **sizes)
    weights = load_file(Path(name) / "model.safetensors")
    rounded = {key: w.bfloat16().float() if "embed" in key or "lm_head" in key else w for key, w in weights.items()}
    save_file(rounded, Path(name) / "model.safetensors", metadata={"format": "pt"})
    return name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_rounded(tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="module")
def base(folder: str) -> BaseModel:
    return load_base(folder, quantize="nf4")


def test_matrices_take_four_bits_and_nothing_else_changes(base: BaseModel, folder: str) -> None:
    plain = load_base(folder)
    assert (base.sha256, base.fingerprint) == (plain.sha256, plain.fingerprint)
    wide, before = (dict(model.module.named_modules()) for model in (base, plain))
    layers = [name for name, module in before.items() if type(module) is nn.Linear and name != "lm_head"]
    assert len(layers) == 3 * 7
    for name in layers:
        stored, weight = wide[name], before[name].weight
        assert isinstance(stored, quantized.NF4Linear)
        assert stored.weight.numel() * 2 == weight.numel()
        assert 0.02 < relative_error({"": stored.dense(torch.float32)}, {"": weight}) < 0.15
    assert torch.equal(wide["lm_head"].dense(torch.float32), before["lm_head"].weight)
    share = quantized.stored_bytes(nn.ModuleList(wide[name] for name in layers))
    assert share / quantized.stored_bytes(nn.ModuleList(before[name] for name in layers)) < 0.14


def test_per_sample_gradients_are_those_of_one_note_at_a_time_on_the_quantised_base(base: BaseModel) -> None:
    answers, spec = TASK.answers(base.tokenizer), ModelSpec(base.name, quantize="nf4")
    model = tiny.randomise(build(base, spec, ALL_LINEAR, 0, 0, answers=answers), scale=0.1)
    adapted = [module for module in model.modules() if isinstance(module, LoRALinear)]
    assert len(adapted) == 21
    assert all(isinstance(module.base, quantized.NF4Linear) for module in adapted)
    tokens = notes(base)
    batch = collate(tokens, torch.arange(len(tokens)).numpy(), base.tokenizer.pad_token_id)
    read = (model.prefix(batch.ids, batch.attention), batch.attention, batch.mask[:, 1:])
    alone = one_at_a_time(model, tokens)
    for checkpointing in (False, True):
        model.suffix.layers.checkpointing = checkpointing
        _, found = leaf_gradients(
            model.suffix, model.adapter(), read, lambda outputs: TASK.losses(outputs, batch.labels, batch.mask)
        )
        assert relative_error(found, alone) < 1e-5
    plain = tiny.randomise(
        build(load_base(base.name), ModelSpec(base.name), ALL_LINEAR, 0, 0, answers=answers), scale=0.1
    )
    assert relative_error(one_at_a_time(plain, tokens), alone) > 1e-3  # the control: four bits can be felt


def test_the_adapter_works_in_peft_on_the_quantised_stock_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With AVX-512, bitsandbytes itself can't run narrower layers.
    base = load_base(save_rounded(tmp_path, hidden_size=64, intermediate_size=128, head_dim=16), quantize="nf4")
    spec = ModelSpec(base.name, quantize="nf4")
    model = tiny.randomise(build(base, spec, ALL_LINEAR, 0, 0, answers=TASK.answers(base.tokenizer)), scale=0.1)
    written = tmp_path / "adapter"
    TASK.export(model, base, written, max_length=LENGTH, privacy_statement=STATEMENT)
    names = run_readme(written, monkeypatch)
    asked = TASK.made_up(names["texts"], base.tokenizer, LENGTH)
    prompts = collate(asked, torch.arange(2).numpy(), base.tokenizer.pad_token_id)
    mine = TASK.predict(model, prompts.ids, prompts.attention, prompts.ids, prompts.mask)
    assert float((torch.from_numpy(mine) - names["probabilities"]).abs().max()) < 1e-4


def test_one_hospital_is_centralized_to_the_last_bit(folder: str, tmp_path: Path) -> None:
    flat = {**SETTINGS, "model.name": folder, "model.quantize": "nf4", "train.warm-start": "none"}
    given = [
        f"{key}={json.dumps(value)}" for key, value in {**flat, "sites.count": 1, "sites.partition": "iid"}.items()
    ]
    simulate.simulate("protocol", given, tmp_path / "alone")
    _, central = centralized.train(Experiment.from_flat({**flat, "run.out": str(tmp_path / "central")}))
    alone, together = (load_file(run / "adapter/adapter_model.safetensors") for run in (tmp_path / "alone", central))
    assert small.same(alone, together)
    assert any(bool(tensor.any()) for name, tensor in alone.items() if "lora_B" in name)
    assert Classifier.load(central).model.spec.quantize == "nf4"


def test_what_can_not_be_quantised_is_refused(tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="is for decoders"):
        load_base(tiny.save(tmp_path / "bert", "bert"), quantize="nf4")
    with pytest.raises(ConfigError, match=r"model\.quantize"):
        small.experiment(model__quantize="nf4")
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'fedrad\[qlora\]'"):
        quantized.quantized(load_base(folder))
