"""A decoder of random weights, made on the spot: an audit asks what training tells, not whether the model is good."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedrad.corpora import PROTOCOLS
from fedrad.data.protocol import generate
from fedrad.model.base import quietly
from fedrad.model.vocabulary import REPORT

_NOTES = 200  # public ones, of which the vocabulary is made


def save_random_decoder(folder: Path) -> str:
    """Writes a Llama of two layers, width 64 and 256 positions, and returns the folder's name."""
    texts = [REPORT, *(f" {name}" for name in PROTOCOLS), *(row["text"] for row in islice(generate(_NOTES, 0), _NOTES))]
    reader = bytes_reader(texts, 1000)
    config = LlamaConfig(
        vocab_size=len(reader),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
    )
    with quietly():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
        reader.save_pretrained(folder)
    return str(folder)


def bytes_reader(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of at most so many tokens, as most decoders have, without a token that pads."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    begin, end = marks = ["<begin>", "<|endoftext|>"]
    alphabet = ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=size, special_tokens=marks, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=begin, eos_token=end)
