"""What all engines are given: the same random model, the same LoRA on the same layers, the same reports.

Weights are random, since no figure here depends on them and a rerun then needs no download. The only trained model is
the embedded all-MiniLM-L6-v2. Every dropout is 0, so that engines can be compared number by number.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
)

from fedrad.data.batches import Tokenized, tokenize
from fedrad.data.load import load_corpus
from fedrad.model.adapter import ALL_LINEAR, LoRASpec
from fedrad.model.base import BaseModel, load_base
from fedrad.model.build import build
from fedrad.model.encoder import ModelSpec, ReportClassifier
from fedrad.model.families import take_apart
from fedrad.model.kernels import Kernels
from fedrad.privacy.randomness import Stream
from fedrad.privacy.sampler import poisson_sample
from fedrad.settings import EMBEDDED

LABELS = 14
LONGEST = 256  # tokens at which reports are cut
PAD = 0
ADAPTED = {"qv": ("query", "value"), "qkv": ("query", "key", "value"), "all": (ALL_LINEAR,)}


@dataclass(frozen=True)
class Shape:
    """A model with random weights, pooled by its first token as stock sequence classifiers are."""

    family: str
    layers: int
    width: int
    inner: int
    heads: int
    vocabulary: int
    positions: int = 512


SHAPES = {
    "tiny-bert": Shape("bert", 3, 32, 40, 4, 100, 64),
    "tiny-albert": Shape("albert", 3, 32, 40, 4, 100, 64),
    "bert-small": Shape("bert", 4, 512, 2048, 8, 30522),
    "bert-medium": Shape("bert", 8, 512, 2048, 8, 30522),
    "albert-base": Shape("albert", 12, 768, 3072, 12, 30000),
}
MODELS = (*SHAPES, "minilm")


@dataclass(frozen=True)
class Problem:
    """One training problem; every engine gets the same.

    Attributes:
        model: one of ``MODELS``. "minilm" is the embedded model with mean pooling.
        adapted: key of ``ADAPTED``.
        clip: L2 norm to which each report's gradient is clipped.
        noise: standard deviation of the noise divided by ``clip``.
        expected: expected batch size, by which sums are divided.
        device: where the model is, as torch names it.
    """

    model: str = "bert-small"
    adapted: str = "qv"
    rank: int = 8
    clip: float = 1.0
    noise: float = 1.0
    expected: int = 32
    device: str = "cpu"


@dataclass(frozen=True)
class Workload:
    """Which reports a step is given.

    Attributes:
        reports: reports in a step; at real lengths, how many a Poisson sample has on average.
        length: tokens of every report, all random; None: reports of a corpus at their own lengths.
        openi: folder of Open-i; empty: generated reports, whose lengths are much like those of Open-i.
        batches: how many different batches, taken in turn.
    """

    reports: int
    length: int | None = None
    openi: str = ""
    batches: int = 3

    def of(self, model: str) -> list[Tokenized]:
        """The logical batches, tokenized: what a step is given."""
        if self.length is None:
            return samples(corpus(model, self.openi), self.reports, self.batches)
        return [random_reports(model, [self.length] * self.reports, seed) for seed in range(self.batches)]


def vocabulary(model: str) -> int:
    """Number of token ids."""
    return SHAPES[model].vocabulary if model in SHAPES else load_base(EMBEDDED).config.vocab_size


def random_reports(model: str, lengths: Sequence[int], seed: int) -> Tokenized:
    """Random tokens and labels."""
    generator = np.random.default_rng(seed)
    return Tokenized(
        ids=generator.integers(5, vocabulary(model), sum(lengths), dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=(generator.random((len(lengths), LABELS)) < 0.2).astype(np.float32),
        mask=np.ones((len(lengths), LABELS), dtype=np.float32),
    )


@lru_cache(maxsize=4)
def corpus(model: str, openi: str) -> Tokenized:
    """A corpus by MiniLM's tokenizer (BERT's uncased WordPiece). Ids that the model lacks become its last one."""
    reports = load_corpus("openi", openi) if openi else load_corpus("synthetic")
    tokens = tokenize(reports, np.arange(len(reports)), load_base(EMBEDDED).tokenizer, LONGEST)
    return Tokenized(np.minimum(tokens.ids, vocabulary(model) - 1), tokens.offsets, tokens.labels, tokens.mask)


def samples(tokens: Tokenized, expected: int, count: int) -> list[Tokenized]:
    """Poisson samples, the same in every run."""
    streams = [Stream.seeded(0, "benchmark", step) for step in range(count)]
    return [tokens.select(poisson_sample(len(tokens), expected / len(tokens), stream)) for stream in streams]


class Mean(nn.Module):
    """Encoder, mean over tokens, linear head: what a PEFT user writes for a sentence encoder."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = nn.Linear(encoder.config.hidden_size, LABELS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        logits: Tensor = self.classifier((hidden * weight).sum(1) / weight.sum(1))
        return logits


@lru_cache(maxsize=2)
def plain(model: str) -> nn.Module:
    """The classifier before anything was adapted. Shared: engines copy it or read its tensors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if model not in SHAPES:
            return Mean(load_base(EMBEDDED).module)
        return _random(SHAPES[model])


def _random(shape: Shape) -> nn.Module:
    size: dict[str, Any] = {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_attention_heads": shape.heads,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.positions,
        "num_labels": LABELS,
        "pad_token_id": PAD,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    if shape.family == "albert":
        return AlbertForSequenceClassification(AlbertConfig(**size, classifier_dropout_prob=0.0))
    return BertForSequenceClassification(BertConfig(**size))


def _encoder(model: nn.Module) -> tuple[str, Any]:
    """The encoder inside a classifier, and its name there."""
    return next((name, child) for name, child in model.named_children() if name in ("bert", "albert", "encoder"))


def stock(problem: Problem) -> tuple[PeftModel, dict[str, nn.Parameter]]:
    """The problem as a user of transformers and PEFT writes it, and its trained tensors by fedrad's names.

    B is random rather than zero, or A would have no gradient and nothing could be compared.
    """
    model = copy.deepcopy(plain(problem.model))
    where, encoder = _encoder(model)
    config = LoraConfig(
        r=problem.rank,
        lora_alpha=2 * problem.rank,
        target_modules=[f"{where}.{name}" for name in linear_layers(encoder, ADAPTED[problem.adapted])],
        modules_to_save=["classifier"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapted = get_peft_model(model, config)
        for name, parameter in adapted.named_parameters():
            if ".lora_B." in name:
                nn.init.normal_(parameter, std=0.02)
    adapted = adapted.train().to(problem.device)
    return adapted, {
        _library_name(name, where): parameter
        for name, parameter in adapted.named_parameters()
        if parameter.requires_grad
    }


def linear_layers(encoder: Any, targets: tuple[str, ...]) -> list[str]:
    """Names of the linear layers that are adapted. The pooler is none of them: PEFT's "all-linear" would take it."""
    return [
        f"{layer}.{name}"
        for layer, module in take_apart(encoder).layers.items()
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and (ALL_LINEAR in targets or name.rpartition(".")[2] in targets)
    ]


def _library_name(name: str, where: str) -> str:
    if ".modules_to_save." in name:
        return f"head.{name.rpartition('.')[2]}"
    return name.removeprefix(f"base_model.model.{where}.").removesuffix(".default.weight")


def base_of(model: str) -> BaseModel:
    """The encoder as fedrad's base model."""
    _, encoder = _encoder(plain(model))
    config = encoder.config
    return BaseModel(
        name=model,
        revision="",
        config=config,
        tokenizer=None,
        module=encoder.eval().requires_grad_(False),
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        max_length=config.max_position_embeddings,
    )


def library(problem: Problem, kernels: Kernels) -> ReportClassifier:
    """The same model, built by fedrad, with the same values."""
    pooling = "cls" if problem.model in SHAPES else "mean"
    spec = ModelSpec(problem.model, pooling=pooling, backbone=kernels.backbone)
    lora = LoRASpec(problem.rank, 2.0 * problem.rank, ADAPTED[problem.adapted])
    classifier = build(base_of(problem.model), spec, lora, LABELS, 0, kernels)
    _, tensors = stock(problem)
    classifier.load_adapter({name: tensor.detach() for name, tensor in tensors.items()})
    return classifier
