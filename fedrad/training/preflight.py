"""The check before the first noisy step: would it train exactly what it clips?

It catches parameters that were replaced after the optimizer or the hooks were attached to them: the loss falls and
epsilon grows, but the adapter never moves (meta-pytorch/opacus#820).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import torch

from fedrad.data.synthetic import generate
from fedrad.errors import PreflightError
from fedrad.privacy.gradients import leaf_gradients, opacus_gradients
from fedrad.privacy.optimizer import PrivateOptimizer
from fedrad.privacy.plan import PrivacyPlan
from fedrad.privacy.randomness import Stream
from fedrad.training.inputs import Inputs
from fedrad.training.recipe import Recipe, learning_rate, torch_optimizer
from fedrad.training.setup import Setup

_REPORTS = 8


def check_before_first_step(setup: Setup, recipe: Recipe, plan: PrivacyPlan) -> None:
    """Takes one throw-away step without noise on generated text and leaves the model as it was.

    It costs no privacy: no private report is read. Noise is off because with noise every tensor that the optimizer
    holds moves, and a gradient that never arrives would be hidden.

    Raises:
        PreflightError: a trainable tensor is not in the clipped set, the optimizer holds other parameters than the
            model's, or an adapter tensor did not move.
    """
    classifier = setup.classifier
    clipped = classifier.adapter()
    trainable = {id(p) for p in classifier.parameters() if p.requires_grad}
    if trainable != {id(p) for p in clipped.values()}:
        raise PreflightError(
            "the model's trainable tensors are not the ones that are clipped; freeze every tensor outside the adapter"
        )
    # Never used for a private report, and it promises nothing: epsilon 0 means not private.
    without_noise = replace(plan, epsilon=0.0, noise_multiplier=0.0, noise="seeded", shared=None)
    before = {name: parameter.detach().clone() for name, parameter in clipped.items()}
    optimizer = PrivateOptimizer(torch_optimizer(clipped, recipe, learning_rate(recipe, plan)), without_noise)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if held != trainable:
        raise PreflightError("the optimizer's parameters are not the model's; build it after the model is in place")
    try:
        _move_off_zero(classifier.adapter())
        start = {name: parameter.detach().clone() for name, parameter in clipped.items()}
        _one_step(setup, recipe, optimizer)
        stuck = [name for name, parameter in clipped.items() if torch.equal(parameter.detach(), start[name])]
    finally:
        with torch.no_grad():
            for name, parameter in clipped.items():
                parameter.copy_(before[name])
    if stuck:
        raise PreflightError(f"a step moves nothing in {', '.join(stuck[:4])}; epsilon would be spent for nothing")


def _move_off_zero(parameters: dict[str, torch.nn.Parameter]) -> None:
    """With B = 0 and a zero head the gradients of A and B vanish; small values make them visible."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.device), alpha=0.02)


def _one_step(setup: Setup, recipe: Recipe, optimizer: PrivateOptimizer) -> None:
    texts = [row["text"] for row in islice(generate(_REPORTS, seed=0), _REPORTS)]
    tokens = setup.task.made_up(texts, setup.base.tokenizer, setup.max_length)
    engine = opacus_gradients if recipe.gradients == "opacus" else leaf_gradients
    with setup.classifier.arithmetic():
        inputs = Inputs(tokens, setup.classifier, setup.task, None, setup.pad_id)
        batch = inputs.batch(np.arange(len(texts)))
        _, gradients = engine(
            setup.classifier.suffix,
            setup.classifier.adapter(),
            batch.read,
            batch.losses,
        )
    optimizer.accumulate(gradients, np.arange(len(texts)))
    optimizer.step_noisy(Stream.seeded(0, "pre-flight"))
