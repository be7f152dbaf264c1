"""Llama (Touvron et al. 2023, arXiv 2302.13971) and what has its layers: Meditron, SmolLM2.

Pre-norm blocks with RMSNorm, rotary positions, fewer heads for keys and values than for queries, a gated feed-forward
part, and a causal mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.llama.modeling_llama import rotate_half

from fedrad.model.block import Block, eager_attention, tokens_at
from fedrad.model.family import Family, Stack

Angles = tuple[Tensor, Tensor]
Norms = Callable[[Any], tuple[Any, Any]]

# Those whose angles are a function of the position alone. The others depend on the longest text so far.
_ROTARY = ("default", "linear", "llama3", "yarn")
_LAYERS = {"full_attention", "sliding_attention"}


def no_norms(part: Any) -> tuple[Any, Any]:
    """For attention without norms of queries and keys."""
    return _unchanged, _unchanged


@dataclass(frozen=True)
class RotaryAttention:
    """Grouped-query attention with rotary positions (Su et al. 2021, arXiv 2104.09864).

    The position of a token is the number of tokens that it attends to beside itself, which the mask tells: right for
    texts that are padded on the right, and for a tree of continuations, where a token attends to its ancestors.

    Attributes:
        part: the attention module of transformers.
        rotary: the model's module of cosines and sines.
        norms: ``part`` -> its norms of queries and keys.
    """

    part: Any
    rotary: nn.Module
    norms: Norms = no_norms

    def all_tokens(self, x: Tensor, mask: Tensor, *, eager: bool) -> Tensor:
        """See ``Attention``."""
        angles = self._angles(x, mask)
        return self._attended(x, angles, x, angles, mask, eager=eager)

    def some_tokens(self, some: Tensor, places: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """See ``Attention``."""
        angles = self._angles(x, mask)
        own = (tokens_at(angles[0], places), tokens_at(angles[1], places))
        return self._attended(some, own, x, angles, tokens_at(mask[:, 0], places).unsqueeze(1), eager=False)

    def _angles(self, x: Tensor, mask: Tensor) -> Angles:
        """Cosines and sines [B, T, e] of every token's position."""
        positions = ((mask == 0).sum(-1) - 1).flatten(1).clamp(min=0)
        return cast(Angles, self.rotary(x, positions))

    def _attended(
        self,
        asking: Tensor,
        own: Angles,
        x: Tensor,
        angles: Angles,
        mask: Tensor,
        *,
        eager: bool,
    ) -> Tensor:
        """``asking`` [B, S, d] with its angles attends to x [B, T, d] with theirs, under a mask [B, 1, S, T]."""
        part, (norm_q, norm_k) = self.part, self.norms(self.part)
        q = _turned(norm_q(part.q_proj(asking).unflatten(-1, (-1, part.head_dim))), own)
        k = _turned(norm_k(part.k_proj(x).unflatten(-1, (-1, part.head_dim))), angles)
        v = part.v_proj(x).unflatten(-1, (-1, part.head_dim)).transpose(1, 2)
        k, v = (each.repeat_interleave(part.num_key_value_groups, 1) for each in (k, v))
        attended = eager_attention(q, k, v, mask) if eager else scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return cast(Tensor, part.o_proj(attended.transpose(1, 2).flatten(2)))


def blocks(rotary: nn.Module, norms: Norms, layer: Any) -> list[Block]:
    """The one block of a layer."""
    return [
        Block(
            RotaryAttention(layer.self_attn, rotary, norms),
            layer.mlp,
            before_attention=layer.input_layernorm,
            before_mlp=layer.post_attention_layernorm,
        )
    ]


def take_apart(model: Any, norms: Norms = no_norms) -> Stack:
    """The parts of a ``LlamaForCausalLM``."""
    decoder = model.model
    layers = {f"model.layers.{i}": layer for i, layer in enumerate(decoder.layers)}
    return Stack(
        decoder.embed_tokens,
        layers,
        tuple(range(len(layers))),
        partial(blocks, decoder.rotary_emb, norms),
        final=decoder.norm,
        targets={"query": "q_proj", "key": "k_proj", "value": "v_proj"},
        vocabulary=model.lm_head,
    )


def max_length(config: Any) -> int:
    """Positions. A model with a sliding window reads no more than the window, where the window makes no difference."""
    window = config.to_dict().get("sliding_window")
    return int(min(config.max_position_embeddings, window or config.max_position_embeddings))


def problem(config: Any, tokenizer: Any) -> str:
    """What of its configuration is not computed here, or what its tokenizer lacks."""
    facts = config.to_dict()
    kind = (facts.get("rope_parameters") or {}).get("rope_type", "default")
    if kind not in _ROTARY:
        return f"rotary positions of type {kind!r} are not supported, only {', '.join(_ROTARY)}."
    if other := set(facts.get("layer_types") or ()) - _LAYERS:
        return f"layers of type {', '.join(sorted(other))} are not supported, only {', '.join(sorted(_LAYERS))}."
    if tokenizer.eos_token_id is None:
        return "its tokenizer has no token that ends a text (eos_token in tokenizer_config.json)."
    return ""


def _turned(x: Tensor, angles: Angles) -> Tensor:
    """x [B, T, H, e] turned by its positions' angles, as [B, H, T, e]."""
    cosines, sines = angles[0].unsqueeze(1), angles[1].unsqueeze(1)
    x = x.transpose(1, 2)
    return cast(Tensor, x * cosines + rotate_half(x) * sines)


def _unchanged(x: Tensor) -> Tensor:
    return x


FAMILY = Family(
    "llama",
    take_apart,
    ("tokenizer.json", "tokenizer.model", "vocab.json with merges.txt"),
    max_length,
    problem,
    causal=True,
)
