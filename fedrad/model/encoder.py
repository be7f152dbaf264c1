"""The report classifier: frozen base model, adapter, centring constants, head; ``build.py`` puts it together."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedrad.errors import ModelError
from fedrad.model.adapter import LoRALinear, LoRASpec, is_residual, residual_factors
from fedrad.model.answers import Answers
from fedrad.model.kernels import Kernels, matmul_precision, on_cpu
from fedrad.model.layers import AnswerReadout, Prefix, Readout, Suffix

_HEAD = "head"


def is_head(name: str) -> bool:
    """Whether the adapter tensor of this name belongs to the head; the others belong to LoRA."""
    return name.startswith(f"{_HEAD}.")


@dataclass(frozen=True)
class ModelSpec:
    """The base model, and how its hidden states are pooled.

    Attributes:
        name, revision: as for ``load_base``.
        pooling: ``mean`` over tokens, or ``cls``: the input of the last layer of the family's stock classifier.
        backbone: dtype of the frozen weights, ``float32`` or ``bfloat16``.
        quantize: ``none`` or ``nf4``: how the matrices of the frozen layers are stored.
    """

    name: str
    revision: str = ""
    pooling: str = "mean"
    backbone: str = "float32"
    quantize: str = "none"


class ReportClassifier(nn.Module):
    """Token ids -> logits of L labels, in two parts.

    ``prefix(ids, attention)`` is everything below the lowest adapted layer and is never differentiated. It returns
    hidden states [B, T, d] or, if only the head is trained, the features [B, k].
    ``suffix(prefix_out, attention)`` returns the logits [B, L]. Per-sample gradients are taken of ``suffix``.

    A decoder with a list of answers has no trainable head: ``suffix`` returns logits [B, M, V] of the last M tokens.

    A report's logits and gradients do not depend on the other reports of its batch, except for rounding.
    """

    def __init__(
        self,
        prefix: Prefix,
        suffix: Suffix,
        adapted: Mapping[str, LoRALinear],
        spec: ModelSpec,
        lora: LoRASpec,
        kernels: Kernels,
        answers: Answers | None = None,
    ) -> None:
        super().__init__()
        self.prefix = prefix
        self.suffix = suffix
        self.spec = spec
        self.lora = lora
        self.kernels = kernels
        self.answers = answers
        self._adapted = dict(adapted)  # modules inside suffix, by their names in the base model
        self._residual: dict[str, Tensor] = {}

    def forward(self, ids: Tensor, attention: Tensor) -> Tensor:
        logits: Tensor = self.suffix(self.prefix(ids, attention), attention)
        return logits

    @property
    def device(self) -> torch.device:
        """The device of the parameters and of the inputs of ``prefix`` and ``suffix``."""
        return self.suffix.head.weight.device

    def arithmetic(self) -> AbstractContextManager[None]:
        """Applies the float32 precision of ``kernels``. Run the model, and its backward pass, inside it."""
        return matmul_precision(self.kernels.matmul)

    @property
    def head_only(self) -> bool:
        """Whether only the head is trained; ``prefix`` then returns features [B, k]."""
        return self.prefix.readout is not None

    @property
    def prefix_layers(self) -> int:
        """Number of encoder layers in ``prefix``; with 0 it holds only the embeddings."""
        return len(self.prefix.layers.order)

    @property
    def hidden_size(self) -> int:
        """d, length of a hidden state."""
        return self.readout.width

    @property
    def features(self) -> int:
        """k, the number of features that the head reads: d, or the number of directions of the basis."""
        return self.suffix.head.in_features

    @property
    def readout(self) -> Readout | AnswerReadout:
        """Pooling and centring, or the places of the answer; part of ``prefix`` or ``suffix``."""
        return next(part.readout for part in (self.prefix, self.suffix) if part.readout is not None)

    @torch.no_grad()
    def pooled(self, ids: Tensor, attention: Tensor) -> Tensor:
        """Pooled vectors [B, d] with the current adapter, neither centred nor projected."""
        if not isinstance(self.readout, Readout):
            raise ModelError("a decoder pools nothing.")
        return self.readout.pool(self._states(ids, attention), attention)

    @torch.no_grad()
    def answer_scores(self, ids: Tensor, attention: Tensor) -> Tensor:
        """Log-probabilities [B, L], float32, of all answers to prompts, with the current adapter.

        Raises:
            ModelError: it is no decoder.
        """
        if self.answers is None:
            raise ModelError("an encoder writes no answers.")
        tree, found = self.answers.tree, []
        rows = max(1, self.kernels.micro_tokens // (ids.shape[1] + len(tree.tokens)))
        for part, seen in zip(ids.split(rows), attention.split(rows), strict=True):
            laid, attends = tree.behind(part, seen)
            found.append(self.tree_scores(self.prefix(laid, attends), attends))
        return torch.cat(found)

    @torch.no_grad()
    def tree_scores(self, hidden: Tensor, attends: Tensor) -> Tensor:
        """Log-probabilities [B, L], float32, of all answers, from what ``prefix`` made of prompts and trees: hidden
        [B, T + N, d], attends [B, T + N, T + N] as of ``AnswerTree.behind``.

        Raises:
            ModelError: it is no decoder.
        """
        if self.answers is None:
            raise ModelError("an encoder writes no answers.")
        tree = self.answers.tree
        behind = torch.arange(hidden.shape[1] - len(tree.tokens), hidden.shape[1], device=hidden.device)
        ends = attends[:, behind[0], : behind[0]].sum(1, keepdim=True) - 1  # the last token of a prompt
        places = torch.cat([ends, behind.expand(len(ends), -1)], dim=1)
        states = self.suffix.layers(hidden, attends, places)
        return tree.scores(torch.log_softmax(self.suffix.head(states).float(), dim=-1))

    def _states(self, ids: Tensor, attention: Tensor) -> Tensor:
        """Hidden states [B, T, d] of the last layer."""
        hidden = self.prefix.layers(self.prefix.embed(ids), attention)
        states: Tensor = self.suffix.layers(hidden, attention)
        return states

    def adapter(self) -> dict[str, nn.Parameter]:
        """The trainable tensors by name, sorted.

        ``<layer>.lora_A`` [r, in] and ``<layer>.lora_B`` [out, r] unless frozen, with a core ``<layer>.lora_R`` [r, r]
        instead, and, except of a decoder, ``head.weight`` [L, k] and ``head.bias`` [L]. Layers have their names in the
        base model, such as
        ``encoder.layer.4.attention.self.query``.
        """
        return {name: tensor for name, tensor in self._tensors().items() if tensor.requires_grad}

    def state(self) -> dict[str, Tensor]:
        """CPU copies of all adapter tensors, including frozen ones, and of the readout's constants: ``centre`` [d], and
        ``scale`` [d] or ``basis`` [k, d]."""
        return {name: on_cpu(tensor) for name, tensor in {**self._tensors(), **self.readout.constants()}.items()}

    def load_adapter(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets all trainable tensors.

        Raises:
            ModelError: a name, shape or dtype differs, or a number is not finite. Nothing is changed then.
        """
        _copy(tensors, self.adapter())

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets what ``state`` returns, and replaces the base residual.

        The residual is ``<layer>.base_A.<k>`` [m, in] and ``<layer>.base_B.<k>`` [out, m] for any keys k. It makes the
        frozen weight of that adapted layer W0 + sum_k base_B.k base_A.k.

        Raises:
            ModelError: a name, shape or dtype differs, or a number is not finite. Nothing is changed then.
        """
        residual = {name: tensor for name, tensor in tensors.items() if is_residual(name)}
        factors = residual_factors(residual, self._adapted)
        plain = {name: tensor for name, tensor in tensors.items() if name not in residual}
        _copy(plain, {**self._tensors(), **self.readout.constants()})
        held = self._residual
        if residual.keys() != held.keys() or not all(torch.equal(residual[name], held[name]) for name in held):
            for name, module in self._adapted.items():
                module.set_residual(factors[name])
            self._residual = residual

    def set_basis(self, mean: Tensor, basis: Tensor) -> None:
        """Makes the features ``(pooled - mean) @ basis.T``. The classifier must have been built with k directions.

        Args:
            mean: [d], of pooled vectors of public text. From private text it would be a release without noise.
            basis: [k, d], equally public.

        Raises:
            ModelError: a wrong shape, or a number that is not finite.
        """
        _copy({"centre": mean.detach().float(), "basis": basis.detach().float()}, self.readout.constants())

    def set_centring(self, mean: Tensor, scale: Tensor | float) -> None:
        """Makes the features ``(pooled - mean) * scale``, in a classifier without a basis.

        Args:
            mean: [d], of pooled vectors of public text. From private text it would be a release without noise.
            scale: [d] or one number, positive, equally public.

        Raises:
            ModelError: a wrong shape, a number that is not finite, or a scale that is not positive.
        """
        full = torch.as_tensor(scale, dtype=torch.float32).expand(self.hidden_size).clone()
        if not bool((full > 0).all()):
            raise ModelError("the scale of the features must be positive.")
        _copy({"centre": mean.detach().float(), "scale": full}, self.readout.constants())

    def set_head(self, weight: Tensor, bias: Tensor) -> None:
        """Sets the head to public values: weight [L, k] and bias [L].

        Raises:
            ModelError: a wrong shape, or a number that is not finite.
        """
        given = {"head.weight": weight.detach().float(), "head.bias": bias.detach().float()}
        _copy(given, {"head.weight": self.suffix.head.weight, "head.bias": self.suffix.head.bias})

    def folded_head(self) -> tuple[Tensor, Tensor]:
        """Weight [L, d] and bias [L] of a linear layer on the pooled vector that includes centring and basis."""
        if not isinstance(self.readout, Readout):
            raise ModelError("a decoder has no head.")
        constants = {name: on_cpu(tensor).double() for name, tensor in self.readout.constants().items()}
        weight, centre = on_cpu(self.suffix.head.weight).double(), constants["centre"]
        weight = weight @ constants["basis"] if self.readout.directions else weight * constants["scale"]
        bias = on_cpu(self.suffix.head.bias).double() - weight @ centre
        return weight.float(), bias.float()

    def _tensors(self) -> dict[str, nn.Parameter]:
        head = {} if self.answers else dict(self.suffix.head.named_parameters(prefix=_HEAD))
        tensors = head | {f"{_HEAD}.{name}": self.suffix.get_parameter(name) for name in self.suffix.own}
        for name, module in self._adapted.items():
            for part, parameter in module.named_parameters():
                if part.startswith("lora_"):
                    tensors[f"{name}.{part.removesuffix('.weight')}"] = parameter
        return dict(sorted(tensors.items()))


@torch.no_grad()
def _copy(given: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    """Copies values after checking all names, shapes, dtypes and numbers."""
    problems = [f"{name} is missing" for name in into if name not in given]
    problems += [f"{name} is unknown" for name in given if name not in into]
    for name in into.keys() & given.keys():
        value, target = given[name], into[name]
        if value.shape != target.shape or value.dtype != target.dtype:
            problems.append(
                f"{name} is {tuple(value.shape)} {value.dtype}, expected {tuple(target.shape)} {target.dtype}"
            )
        elif not bool(torch.isfinite(value).all()):
            problems.append(f"{name} is not finite")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ModelError(f"the adapter does not fit: {'; '.join(sorted(problems)[:5])}{more}.")
    for name, target in into.items():
        target.copy_(given[name])
