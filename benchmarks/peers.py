"""The engines that are compared, each as its documentation says it is used.

One step is the same for all: forward and backward over one logical batch, clip each report's gradient, sum, add noise,
divide by the expected batch, AdamW, clear the gradients. All have the same weights, the same LoRA on the same layers,
the same loss and the same batches, tokenized beforehand. What differs is what each library decides: how it gets
per-report gradients, how it cuts and pads a batch, where its noise comes from (fedrad: ChaCha20 keyed by the
operating system; Opacus without secure mode: torch's generator).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer_fast_gradient_clipping import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import Tensor, nn

from benchmarks.problems import PAD, Problem, base_of, library, stock
from fedrad.data.batches import Batch, Tokenized, collate
from fedrad.model.buckets import micro_batches
from fedrad.model.kernels import Kernels
from fedrad.model.probe import kernels_for
from fedrad.privacy.accounting import epsilon
from fedrad.privacy.gradients import leaf_gradients
from fedrad.privacy.noise import Stream
from fedrad.privacy.optimizer import PrivateOptimizer
from fedrad.privacy.plan import PrivacyPlan
from fedrad.tasks.multi_label import MultiLabel

TASK = MultiLabel(())  # of the loss only
Precision = Literal["float32", "medium", "bfloat16"]
STEPS, DELTA = 1000, 1e-5  # of the plan that fedrad's optimizer wants to see; no step costs more or less for them


class CantRun(Exception):
    """Why an engine does not do a problem: said in the tables, never left out."""


@dataclass(frozen=True)
class Prepared:
    """An engine with its model and optimizer.

    Attributes:
        step: takes one step on a logical batch.
        clipped_sum: the sum of the clipped gradients, to which ``step`` adds noise, by fedrad's names.
    """

    step: Callable[[Tokenized], None]
    clipped_sum: Callable[[Tokenized], dict[str, Tensor]]


class Peer(Protocol):
    """An engine that can be asked to do a problem."""

    @property
    def name(self) -> str: ...

    @property
    def precision(self) -> Precision: ...

    @property
    def bfloat16(self) -> bool:
        """Whether it computes in bfloat16, so that its sums are rounded."""
        ...

    def prepare(self, problem: Problem) -> Prepared:
        """Builds model and optimizer.

        Raises:
            CantRun: with the reason; a step or a sum may raise it as well.
        """
        ...


@dataclass(frozen=True)
class Peft:
    """transformers and PEFT without privacy: one batch, padded to its longest report."""

    name: str = "peft, not private"
    precision: Precision = "float32"

    @property
    def bfloat16(self) -> bool:
        return self.precision == "bfloat16"

    def prepare(self, problem: Problem) -> Prepared:
        model, tensors = stock(problem)
        optimizer = _adamw(tensors)

        def backward(batch: Tokenized) -> None:
            with numerics(self.precision, problem.device):
                (losses_of(model, batch).sum() / problem.expected).backward()

        def step(batch: Tokenized) -> None:
            backward(batch)
            optimizer.step()
            optimizer.zero_grad()

        def clipped_sum(batch: Tokenized) -> dict[str, Tensor]:
            """Not clipped, since this engine does not clip: the negative control of the check."""
            backward(batch)
            sums = {name: tensor.grad * problem.expected for name, tensor in tensors.items() if tensor.grad is not None}
            optimizer.zero_grad()
            return sums

        return Prepared(step, clipped_sum)


@dataclass(frozen=True)
class Opacus:
    """Opacus around the same PEFT model.

    Attributes:
        mode: how it gets per-report gradients; "ghost" gets only their norms and runs backward twice.
        rows: most reports in one pass, cut as its ``BatchMemoryManager`` cuts; None: all in one pass.
    """

    name: str
    mode: Literal["hooks", "functorch", "ghost"] = "hooks"
    rows: int | None = None
    precision: Precision = "float32"

    @property
    def bfloat16(self) -> bool:
        return self.precision == "bfloat16"

    def prepare(self, problem: Problem) -> Prepared:
        model, tensors = stock(problem)
        ghost = self.mode == "ghost"
        hooked: Any = (
            GradSampleModuleFastGradientClipping(model, max_grad_norm=problem.clip, use_ghost_clipping=True)
            if ghost
            else GradSampleModule(model, force_functorch=self.mode == "functorch")
        )
        private = DPOptimizerFastGradientClipping if ghost else DPOptimizer
        optimizer = private(
            _adamw(tensors),
            noise_multiplier=problem.noise,
            max_grad_norm=problem.clip,
            expected_batch_size=problem.expected,
        )

        def backward(batch: Tokenized) -> None:
            with numerics(self.precision, problem.device), _reasons():
                losses = losses_of(hooked, batch)
                # Opacus's own ghost criterion calls mean() over all labels; a loss per report goes in here.
                (DPTensorFastGradientClipping(hooked, optimizer, losses) if ghost else losses.mean()).backward()

        def step(batch: Tokenized) -> None:
            parts = _rows(batch, self.rows)
            for number, part in enumerate(parts, 1):
                optimizer.signal_skip_step(do_skip=number < len(parts))
                backward(part)
                optimizer.step()
                optimizer.zero_grad()

        def clipped_sum(batch: Tokenized) -> dict[str, Tensor]:
            sums = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
            for part in _rows(batch, self.rows):
                backward(part)
                optimizer.accumulate() if ghost else optimizer.clip_and_accumulate()
                for name, tensor in tensors.items():
                    sums[name] += vars(tensor)["summed_grad"].view_as(tensor)
                optimizer.zero_grad()
            return sums

        return Prepared(step, clipped_sum)


@dataclass(frozen=True)
class Fedrad:
    """fedrad's own pieces, put together as its training loop does.

    Attributes:
        probed: kernels as fedrad's probe picks them on this machine; otherwise torch's own, like the other engines.
        whole: the last layer computes all tokens, as the other engines do, and not only the one that the head reads.
        alone: one report in a pass, as real hospitals do.
    """

    name: str
    probed: bool
    precision: Precision = "float32"
    whole: bool = False
    alone: bool = False

    @property
    def bfloat16(self) -> bool:
        return self.precision == "bfloat16"

    def prepare(self, problem: Problem) -> Prepared:
        kernels = kernels_for(base_of(problem.model), self.precision, problem.device, probed=self.probed)
        kernels = replace(kernels, micro_tokens=1) if self.alone else kernels
        return fedrad_engine(problem, kernels, whole=self.whole)


def fedrad_engine(problem: Problem, kernels: Kernels, *, whole: bool = False) -> Prepared:
    """Model, optimizer and step of fedrad."""
    classifier = library(problem, kernels)
    if whole:
        classifier.suffix.layers.first_token_only = False
    parameters = classifier.adapter()
    optimizer = PrivateOptimizer(_adamw(parameters), _plan(problem))

    def accumulate(batch: Tokenized) -> None:
        for indices in micro_batches(batch.lengths, np.arange(len(batch)), kernels.micro_tokens):
            part = placed(collate(batch, indices, PAD), problem.device)

            def losses(logits: Tensor, labels: Tensor = part.labels, mask: Tensor = part.mask) -> Tensor:
                return TASK.losses(logits, labels, mask)

            with classifier.arithmetic():
                hidden = classifier.prefix(part.ids, part.attention)
                _, gradients = leaf_gradients(classifier.suffix, parameters, (hidden, part.attention), losses)
            optimizer.accumulate(gradients)

    def step(batch: Tokenized) -> None:
        accumulate(batch)
        optimizer.step_noisy(Stream.system())

    def clipped_sum(batch: Tokenized) -> dict[str, Tensor]:
        accumulate(batch)
        sums = {name: vars(tensor)["summed_grad"] for name, tensor in parameters.items()}
        optimizer.zero_grad()
        return sums

    return Prepared(step, clipped_sum)


def _plan(problem: Problem) -> PrivacyPlan:
    """A plan with exactly this clip and noise."""
    size = max(3000, 10 * problem.expected)
    spent = epsilon([(problem.expected / size, problem.noise, STEPS)], DELTA)
    return PrivacyPlan(
        unit="report",
        relation="add-or-remove-one",
        declared_size=size,
        expected_batch=problem.expected,
        clip=problem.clip,
        noise_multiplier=problem.noise,
        steps=STEPS,
        epsilon=spent,
        delta=DELTA,
        noise="system",
    )


@contextmanager
def numerics(precision: Precision, device: str = "cpu") -> Iterator[None]:
    """The switches of torch that a user of the other engines can turn as well.

    medium: ``torch.set_float32_matmul_precision``. bfloat16: autocast.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if precision == "medium" else "highest")
    try:
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _reasons() -> Iterator[None]:
    """What Opacus refuses becomes a reason."""
    try:
        yield
    except NotImplementedError as error:
        raise CantRun(f"refused: {error}") from None


def too_slow(peer: Peer, device: str = "cpu") -> str:
    """The reason not to time an engine on this processor, or nothing."""
    if peer.bfloat16 and device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "no bfloat16 in this processor: torch emulates it, tens of times slower"
    return ""


def _adamw(tensors: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(tensors.items(), lr=1e-4)


def losses_of(model: nn.Module, batch: Tokenized) -> Tensor:
    """[B]: one loss per report, the batch padded to its longest report."""
    padded = placed(collate(batch, np.arange(len(batch)), PAD), next(model.parameters()).device)
    output = model(input_ids=padded.ids, attention_mask=padded.attention)
    logits = output if isinstance(output, Tensor) else output.logits
    return TASK.losses(logits, padded.labels, padded.mask)


def placed(batch: Batch, device: torch.device | str) -> Batch:
    """The batch on a device."""
    return Batch(*(tensor.to(device, non_blocking=True) for tensor in batch))


def _rows(batch: Tokenized, most: int | None) -> list[Tokenized]:
    """Parts of nearly equal size with at most that many reports, in the order drawn."""
    if most is None or len(batch) <= most:
        return [batch]
    return [batch.select(part) for part in np.array_split(np.arange(len(batch)), -(-len(batch) // most))]


BASELINE = Peft()
HOOKS = Opacus("opacus hooks")
PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        BASELINE,
        HOOKS,
        Opacus("opacus hooks, 16 rows", rows=16),
        Opacus("opacus functorch", mode="functorch"),
        Opacus("opacus ghost", mode="ghost"),
        Fedrad("fedrad, same kernels, whole", probed=False, whole=True),
        Fedrad("fedrad, same kernels", probed=False),
        Fedrad("fedrad, everything on", probed=True),
        Fedrad("fedrad, one report a pass", probed=True, alone=True),
        Fedrad("fedrad, bfloat16", probed=True, precision="bfloat16"),
        Peft("peft, medium", precision="medium"),
        Peft("peft, bfloat16", precision="bfloat16"),
        Opacus("opacus hooks, medium", precision="medium"),
        Opacus("opacus hooks, bfloat16", precision="bfloat16"),
    )
}
PRIVATE = tuple(name for name, peer in PEERS.items() if not isinstance(peer, Peft))
