"""Base models that load without a word and would waste a budget, and folders that are not what they seem."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from transformers import (
    AlbertForMaskedLM,
    AutoModel,
    BertForMaskedLM,
    BertTokenizer,
    DistilBertForMaskedLM,
    ElectraForPreTraining,
    PreTrainedModel,
    RobertaForMaskedLM,
    RobertaTokenizer,
)

from fedrad.errors import ModelError
from fedrad.model.base import embedded_folder, load_base
from fedrad.model.families import FAMILIES
from fedrad.model.vocabulary import MOST_PIECES, REPORT, check_vocabulary, reading
from tests.model import tiny

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 90868376\n"
)
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # RoBERTa's
QUERY = {
    "bert": "bert.encoder.layer.0.attention.self.query.weight",
    "roberta": "roberta.encoder.layer.0.attention.self.query.weight",
    "distilbert": "distilbert.transformer.layer.0.attention.q_lin.weight",
    "albert": "albert.encoder.albert_layer_groups.0.albert_layers.0.attention.query.weight",
    "electra": "electra.encoder.layer.0.attention.self.query.weight",
}
WITH_HEAD: dict[str, type[PreTrainedModel]] = {
    "bert": BertForMaskedLM,
    "roberta": RobertaForMaskedLM,
    "distilbert": DistilBertForMaskedLM,
    "albert": AlbertForMaskedLM,
    "electra": ElectraForPreTraining,
}


def saved(tmp_path: Path, family: str = "bert") -> Path:
    return Path(tiny.save(tmp_path / "base", family))


def remove(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).unlink()


def reconfigure(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def refused(folder: Path, match: str) -> str:
    """The message, which names the folder."""
    with pytest.raises(ModelError, match=match) as caught:
        load_base(str(folder))
    assert str(folder) in str(caught.value)
    return str(caught.value)


# ---- tokenizers


@pytest.mark.parametrize(
    ("family", "files"),
    [
        ("bert", "lacks tokenizer.json, vocab.txt"),
        ("distilbert", "lacks tokenizer.json, vocab.txt"),
        ("roberta", "lacks tokenizer.json, vocab.json, merges.txt"),
        ("albert", "lacks tokenizer.json, spiece.model"),
        ("electra", "lacks tokenizer.json, vocab.txt"),
    ],
)
def test_a_model_without_a_vocabulary_is_refused(family: str, files: str, tmp_path: Path) -> None:
    """Transformers makes a tokenizer of five special tokens then. The table is as small: nothing else gives it away."""
    folder = saved(tmp_path, family)
    remove(folder, "tokenizer.json", "tokenizer_config.json")
    reconfigure(folder, vocab_size=5)
    tables = [key for key in load_file(folder / "model.safetensors") if key.endswith("word_embeddings.weight")]
    rewrite(folder, lambda tensors: tensors.update({key: tensors[key][:5].clone() for key in tables}))
    message = refused(folder, r"can't read 100% of an ordinary chest report")
    assert files in message
    assert "Copy the model's own tokenizer files again" in message


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_tokenizer_json_that_was_not_copied_is_named(family: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, family)
    remove(folder, "tokenizer.json")
    assert "lacks tokenizer.json" in refused(folder, "its tokenizer can't be loaded")


def with_vocab_txt(folder: Path, tokens: int | None = None, end: str = "\n") -> None:
    remove(folder, "tokenizer.json", "tokenizer_config.json")
    (folder / "vocab.txt").write_bytes("".join(f"{word}{end}" for word in list(tiny.VOCABULARY)[:tokens]).encode())


@pytest.mark.parametrize("tokens", [0, 1, 5, 30])
def test_a_vocabulary_that_is_cut_off_is_refused(tokens: int, tmp_path: Path) -> None:
    folder = saved(tmp_path)
    with_vocab_txt(folder, tokens)
    assert "are cut off or belong to another model" in refused(folder, r"can't read \d+% of an ordinary chest report")


def test_windows_line_ends_change_no_id(tmp_path: Path) -> None:
    ids = []
    for end in ("\n", "\r\n"):
        folder = Path(tiny.save(tmp_path / repr(end), "bert"))
        with_vocab_txt(folder, end=end)
        ids.append(load_base(str(folder)).tokenizer(REPORT)["input_ids"])
    assert ids[0] == ids[1]
    assert tiny.VOCABULARY["[UNK]"] not in ids[0]


def minilm(tokens: int | None = None, *, lower: bool = True) -> BertTokenizer:
    words = (embedded_folder() / "vocab.txt").read_text(encoding="utf-8").splitlines()[:tokens]
    return BertTokenizer(vocab={word: i for i, word in enumerate(words)}, do_lower_case=lower)


def test_a_real_vocabulary_is_whole_or_refused() -> None:
    whole = reading(minilm())
    assert whole.unread == 0
    assert whole.pieces < 2
    for tokens in (100, 500, 1000, 2000):  # the words of English begin after that
        with pytest.raises(ModelError, match=r"can't read (9\d|100)% of"):
            check_vocabulary("some/model", "some/model", FAMILIES["bert"].tokenizer_files, minilm(tokens), 30522)
    with pytest.raises(ModelError, match=r"no more than 15000 of the model's 30522 tokens"):
        check_vocabulary("some/model", "some/model", FAMILIES["bert"].tokenizer_files, minilm(15000), 30522)
    check_vocabulary("some/model", "some/model", FAMILIES["bert"].tokenizer_files, minilm(), 30592)  # a padded table


def test_an_uncased_vocabulary_that_is_fed_capitals_is_refused() -> None:
    with pytest.raises(ModelError, match=r"can't read 11% of"):
        check_vocabulary("some/model", "some/model", FAMILIES["bert"].tokenizer_files, minilm(lower=False), 30522)


def byte_level(folder: Path, merges: int | None = None) -> None:
    """Replaces the tokenizer by a byte-level one, with all of its merges or the first few."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([REPORT] * 2, vocab_size=480, min_frequency=1, special_tokens=SPECIAL)
    remove(folder, "tokenizer.json", "tokenizer_config.json")
    trained.save_model(str(folder))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    (folder / "merges.txt").write_text("\n".join(lines[: None if merges is None else merges + 1]), encoding="utf-8")


@pytest.mark.parametrize("merges", [None, 0, 20])
def test_a_byte_level_vocabulary_without_its_merges_is_refused(merges: int | None, tmp_path: Path) -> None:
    """It knows every byte, so it has no unknown token: every character is a piece of its own."""
    config = tiny.config_of("roberta")
    config.vocab_size, config.pad_token_id = 480, 1
    folder = tmp_path / "base"
    AutoModel.from_config(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    byte_level(folder, merges)
    if merges is None:
        assert reading(load_base(str(folder)).tokenizer).pieces < MOST_PIECES
    else:
        refused(folder, "only single characters are left")


def test_too_few_merges_for_the_vocabulary_are_refused() -> None:
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([REPORT], vocab_size=480, min_frequency=1, special_tokens=SPECIAL)
    words = {**trained.get_vocab(), **{f"word{i}": i for i in range(480, 2000)}}
    merges = [tuple(pair) for pair in json.loads(trained._tokenizer.to_str())["model"]["merges"]]
    files = FAMILIES["roberta"].tokenizer_files
    with pytest.raises(ModelError, match=r"no more than \d+ of the model's 2000 tokens"):
        check_vocabulary("some/model", "some/model", files, RobertaTokenizer(vocab=words, merges=merges), 2000)


def test_a_tokenizer_of_a_smaller_model_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    size = 2 * len(tiny.VOCABULARY)
    reconfigure(folder, vocab_size=size)
    table = "embeddings.word_embeddings.weight"
    rewrite(folder, lambda tensors: tensors.update({table: torch.cat([tensors[table], tensors[table]])}))
    refused(folder, f"no more than {size // 2} of the model's {size} tokens")


# ---- padding


@pytest.mark.parametrize("family", ["bert", "distilbert", "albert", "electra"])
def test_a_configuration_without_a_padding_id_gives_the_same_model(family: str, tmp_path: Path) -> None:
    ordinary = tiny.base_of(tmp_path / "ordinary", family)
    folder = saved(tmp_path, family)
    reconfigure(folder, pad_token_id=None)
    base = load_base(str(folder))
    ids, attention = tiny.encode(base, tiny.TEXTS)
    assert torch.equal(ids, tiny.encode(ordinary, tiny.TEXTS)[0])
    with torch.no_grad():
        hidden, expected = (model.module(ids, attention)[0] for model in (base, ordinary))
    assert torch.equal(hidden, expected)


@pytest.mark.parametrize(("pad", "shown"), [(None, "null"), (3, "3")])
def test_roberta_needs_the_padding_id_of_its_tokenizer(pad: int | None, shown: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, "roberta")
    reconfigure(folder, pad_token_id=pad)
    refused(folder, f"pad_token_id is {shown} in config.json, and its tokenizer pads with 0")


@pytest.mark.parametrize("changes", [{}, {"pad_token_id": None}])
def test_a_tokenizer_without_a_padding_token_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    folder = saved(tmp_path)
    reconfigure(folder, **changes)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    refused(folder, "with a padding token")


# ---- weights


@pytest.mark.parametrize("family", tiny.ALL)
def test_heads_are_dropped_and_parts_of_the_encoder_are_not(family: str, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    WITH_HEAD[family](tiny.config_of(family)).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    root, query = QUERY[family].split(".")[0], QUERY[family]
    rewrite(
        folder,
        lambda t: t.update(
            {f"{root}.embeddings.position_ids": torch.arange(48)[None], "qa_outputs.bias": torch.ones(2)}
        ),
    )
    load_base(str(folder))
    for extra, match in (
        (f"{root}.embeddings.extra_embeddings.weight", "has no place for, such as"),
        (query.replace("0", "7"), "has no place for, such as"),
        (query.replace("weight", "lora_A.default.weight"), "an adapter among its weights"),
    ):
        other = tmp_path / extra
        other.mkdir()
        for file in folder.iterdir():
            (other / file.name).write_bytes(file.read_bytes())
        rewrite(other, lambda tensors, extra=extra: tensors.update({extra: torch.ones(2, 32)}))
        assert extra in refused(other, match)


def test_fewer_layers_than_the_checkpoint_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    reconfigure(folder, num_hidden_layers=2)
    assert "encoder.layer.2." in refused(folder, "has 16 weights that the encoder of its config.json has no place for")


def test_relative_positions_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    reconfigure(folder, position_embedding_type="relative_key")
    distance = {f"encoder.layer.{i}.attention.self.distance_embedding.weight": torch.zeros(95, 8) for i in range(3)}
    rewrite(folder, lambda tensors: tensors.update(distance))
    assert "relative positions" in refused(folder, "has 3 weights")


def test_an_adapter_that_wraps_its_layer_is_named_before_what_it_hides(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    layer = "encoder.layer.0.attention.self.query"
    rewrite(folder, lambda tensors: tensors.update({f"{layer}.base_layer.weight": tensors.pop(f"{layer}.weight")}))
    assert "merge_and_unload" in refused(folder, "an adapter among its weights")


def test_another_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    reconfigure(folder, intermediate_size=64)
    refused(folder, r"of shape \(40,\), and its config.json asks for \(64,\)")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    folder = saved(tmp_path)
    key = "encoder.layer.1.attention.self.key.weight"
    rewrite(folder, lambda tensors: tensors[key][3, 4].fill_(value))
    assert key in refused(folder, "not finite")


# ---- folders


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_git_lfs_pointer_is_named_as_such(file: str, tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / file).write_text(POINTER)
    assert "git lfs pull" in refused(folder, f"git-lfs pointers stand in place of {file}")


def test_an_adapter_folder_is_named_as_such(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    adapter = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "somebody/some-model"})
    (folder / "adapter_config.json").write_text(adapter)
    assert "merge" in refused(folder, "adapter_config.json beside config.json")
    remove(folder, "config.json", "model.safetensors")
    message = refused(folder, "holds a PEFT adapter")
    assert "somebody/some-model" in message
    assert "fedrad predict" in message


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "the folder is empty")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b""])
def test_a_file_that_is_not_json_is_named(file: str, content: bytes, tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / file).write_bytes(content)
    refused(folder, f"{file} in .* can't be read as a JSON object")


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    remove(folder, "model.safetensors")
    refused(folder, "has no model.safetensors; copy all files")
    remove(folder, "config.json")
    refused(folder, "has no config.json; copy all files")


@pytest.mark.parametrize("change", [{"hidden_size": "wide"}, {"pad_token_id": 5000}, {"model_type": None}])
def test_a_configuration_that_makes_no_model_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    folder = saved(tmp_path)
    reconfigure(folder, **change)
    refused(folder, "can't be loaded: ")


@pytest.mark.parametrize("kept", [5, -100])
def test_weights_that_are_cut_off_are_named(kept: int, tmp_path: Path) -> None:
    folder = saved(tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    assert "copy it again" in refused(folder, "model.safetensors in .* can't be loaded")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    AutoModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    remove(folder, "model.safetensors")
    lost = sorted(folder.glob("*.safetensors"))[1]
    lost.unlink()
    refused(folder, f"lacks {lost.name}, which model.safetensors.index.json names")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": []}')
    refused(folder, "model.safetensors.index.json in .* names no files")
