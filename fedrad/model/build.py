"""Makes a classifier of a base model: adapts it, cuts it where the lowest adapted layer is, and puts a head on top."""

from __future__ import annotations

import copy

import torch
from torch import nn

from fedrad.errors import ModelError
from fedrad.model.adapter import LoRASpec, SampleLinear
from fedrad.model.answers import Answers
from fedrad.model.base import BaseModel
from fedrad.model.encoder import ModelSpec, ReportClassifier
from fedrad.model.families import take_apart
from fedrad.model.family import adapt
from fedrad.model.kernels import Kernels, dtype_of
from fedrad.model.layers import AnswerReadout, Layers, Prefix, Readout, Suffix
from fedrad.model.quantized import scales_of


def build(
    base: BaseModel,
    spec: ModelSpec,
    lora: LoRASpec,
    outputs: int,
    seed: int,
    kernels: Kernels | None = None,
    directions: int = 0,
    answers: Answers | None = None,
) -> ReportClassifier:
    """A classifier with modules of its own that shares the frozen tensors of ``base``; in eval mode, without dropout.

    A depends on ``seed`` only, not on torch's global generator. B and the head are zero, so every logit starts at 0.

    Args:
        outputs: L, of the head.
        directions: k, how many directions of the pooled vector the head reads (``set_basis``); 0: the whole vector.
        answers: what a decoder chooses from; it has no head then.

    Raises:
        ModelError: answers without a decoder, or the reverse; or targets, layers, rank or pooling that this base model
            can't have.
    """
    # The memo makes deepcopy copy the modules but share the tensors.
    kernels = Kernels(backbone=spec.backbone) if kernels is None else kernels
    frozen = base.placed(dtype_of(spec.backbone), kernels.device).module
    kept = [*frozen.parameters(), *frozen.buffers(), *scales_of(frozen)]
    encoder = copy.deepcopy(frozen, {id(tensor): tensor for tensor in kept})
    stack = take_apart(encoder)
    if answers is None and stack.vocabulary is not None:
        raise ModelError(f"base model {base.name!r} is a decoder, which writes its answer: set model.task=causal-lm.")
    if answers is not None and stack.vocabulary is None:
        raise ModelError(f"model.task=causal-lm needs a decoder, and base model {base.name!r} is an encoder.")
    pooler = None
    if spec.pooling == "cls":
        pooler = stack.pooler
        if pooler is None:
            raise ModelError(
                f"pooling 'cls' needs a pretrained pooler that stock sequence classifiers read, and {base.name!r}"
                " has none: use pooling 'mean'."
            )
    elif spec.pooling != "mean":
        raise ModelError(f"pooling is {spec.pooling!r}; it must be 'mean' or 'cls'.")
    generator = torch.Generator().manual_seed(seed)
    # The modules initialise themselves from the global generator; these values are overwritten.
    with torch.random.fork_rng(devices=[]):
        adapted = adapt(stack, lora, generator)
        head = stack.vocabulary or _zero_head(directions or base.hidden, outputs)
    steps = range(len(stack.order))
    cut = len(steps)
    if not (lora.freeze_a and lora.freeze_b):  # otherwise LoRA is not trained, and all layers belong to the prefix
        trained = [i for i, name in enumerate(stack.layers) if any(module.startswith(f"{name}.") for module in adapted)]
        cut = next((step for step in steps if stack.order[step] in trained), cut)
    readout = AnswerReadout(base.hidden, answers.learnt) if answers else Readout(pooler, base.hidden, directions)
    # A pooler reads only the first token.
    lower, upper = (
        Layers(
            stack,
            part,
            first_token_only=pooler is not None,
            eager_up_to=kernels.eager_up_to,
            checkpointing=kernels.checkpointing,
        )
        for part in (steps[:cut], steps[cut:])
    )
    head_only = cut == len(steps)
    if head_only and answers:
        raise ModelError("a decoder has no head of its own, so nothing would be trained: name lora.targets.")
    prefix = Prefix(stack.embed, lower, readout if head_only and isinstance(readout, Readout) else None)
    suffix = Suffix(upper, None if head_only else readout, head)
    classifier = ReportClassifier(prefix, suffix, adapted, spec, lora, kernels, answers)
    # Only adapter, head and centring move: the frozen tensors are on the device already.
    return classifier.eval().to(kernels.device)


def _zero_head(features: int, outputs: int) -> nn.Linear:
    head = SampleLinear(features, outputs)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
