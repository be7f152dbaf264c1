from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from fedrad.data.batches import Tokenized, collate, patient_numbers, tokenize
from fedrad.data.report import FEATURES

PAD, CLS, SEP, UNKNOWN = 0, 1, 2, 3


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Words a to z as tokens 4 to 29, between [CLS] and [SEP]."""
    words = {word: k for k, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz"])}
    inner = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]")


def corpus(texts: list[str]) -> datasets.Dataset:
    rows = [
        {"text": text, "labels": {"x": k % 3 - 1, "y": 1}, "patient": "", "site": "", "time": "", "split": ""}
        for k, text in enumerate(texts)
    ]
    return datasets.Dataset.from_list(rows, features=FEATURES(("x", "y")))


def test_tokenize(tokenizer: PreTrainedTokenizerFast) -> None:
    ds = corpus(["a b", "c", "a b c d e f", "?"])
    tokens = tokenize(ds, np.array([2, 0, 3]), tokenizer, max_length=5)
    assert tokens.ids.dtype == np.int32
    assert tokens.offsets.dtype == np.int64
    assert tokens.ids.tolist() == [CLS, 4, 5, 6, SEP, CLS, 4, 5, SEP, CLS, UNKNOWN, SEP]
    assert tokens.offsets.tolist() == [0, 5, 9, 12]
    assert tokens.lengths.tolist() == [5, 4, 3]
    assert len(tokens) == 3
    assert tokens.labels.tolist() == [[1, 1], [0, 1], [0, 1]]
    assert tokens.mask.tolist() == [[1, 1], [0, 1], [0, 1]]
    assert tokens.labels.dtype == tokens.mask.dtype == np.float32


def test_tokenize_keeps_the_order_over_many_reads(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [" ".join("abcdefghij"[: k % 10 + 1]) for k in range(2500)]
    order = np.random.default_rng(0).permutation(2500)
    tokens = tokenize(corpus(texts), order, tokenizer, max_length=64)
    assert tokens.lengths.tolist() == [k % 10 + 3 for k in order]


def test_tokenize_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenize(corpus(["a"]), np.array([], dtype=np.int64), tokenizer, max_length=5)
    assert len(tokens) == 0
    assert tokens.labels.shape == (0, 2)


def made(lengths: list[int]) -> Tokenized:
    """Reports whose every token is their own number plus 10."""
    ids = np.repeat(np.arange(len(lengths)), lengths).astype(np.int32) + 10
    labels = np.arange(len(lengths), dtype=np.float32)[:, None]
    return Tokenized(ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), labels, np.ones_like(labels))


def test_patients_are_numbered_and_travel_with_their_reports(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [row | {"patient": name} for row, name in zip(corpus(["a", "b", "c", "d"]), "pqpr", strict=True)]
    ds = datasets.Dataset.from_list(rows, features=FEATURES(("x", "y")))
    numbers = patient_numbers(ds)
    names = ds["patient"]
    assert all((numbers[i] == numbers[j]) == (names[i] == names[j]) for i in range(4) for j in range(4))
    tokens = tokenize(ds, np.array([3, 1]), tokenizer, max_length=5)
    assert tokens.patients is not None
    assert tokens.select(np.array([1])).patients == tokens.patients[[1]]
    assert made([2, 1]).select(np.array([0])).patients is None


def test_select() -> None:
    tokens = made([2, 1, 3]).select(np.array([2, 0, 2]))
    assert tokens.ids.tolist() == [12, 12, 12, 10, 10, 12, 12, 12]
    assert tokens.offsets.tolist() == [0, 3, 5, 8]
    assert tokens.labels[:, 0].tolist() == [2, 0, 2]
    assert len(tokens.select(np.array([], dtype=np.int64))) == 0


@given(st.lists(st.integers(1, 12), min_size=1, max_size=10))
def test_collate_pads_right(lengths: list[int]) -> None:
    tokens = made(lengths)
    order = np.arange(len(lengths))[::-1]
    batch = collate(tokens, order, pad_id=7)
    assert batch.ids.shape == batch.attention.shape == (len(lengths), max(lengths))
    assert batch.ids.dtype == batch.attention.dtype == torch.int64
    assert batch.labels.dtype == batch.mask.dtype == torch.float32
    for row, k in enumerate(order):
        n = lengths[k]
        assert batch.ids[row].tolist() == [k + 10] * n + [7] * (max(lengths) - n)
        assert batch.attention[row].tolist() == [1] * n + [0] * (max(lengths) - n)
    assert batch.labels[:, 0].tolist() == order.tolist()


def test_collate_nothing() -> None:
    batch = collate(made([3]), np.array([], dtype=np.int64), pad_id=0)
    assert batch.ids.shape == (0, 1)
    assert batch.labels.shape == (0, 1)
