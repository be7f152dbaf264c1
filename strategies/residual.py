"""The base residual, which some strategies add to the frozen weights. It is stored as factors and never multiplied out.

Round k adds ``<layer>.base_A.<k>`` [m, in] and ``<layer>.base_B.<k>`` [out, m], and the frozen weight of the layer is
W0 + sum_k base_B.k base_A.k. W0 itself never changes, so a hospital needs only the factors, and the result can be
exported as plain LoRA on the unchanged model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor
from torch.nn.functional import pad

from fedrad.model.adapter import LoRASpec
from strategies.factors import Product, combined, recompressed

Tensors = Mapping[str, Tensor]


def layers_of(state: Tensors) -> list[str]:
    """The adapted layers, sorted."""
    return sorted(name.removesuffix(".lora_A") for name in state if name.endswith(".lora_A"))


def lora_of(state: Tensors, layer: str) -> Product:
    """B and A of a layer."""
    return Product(state[f"{layer}.lora_B"], state[f"{layer}.lora_A"])


def residual_of(state: Tensors, layer: str) -> list[Product]:
    """The base residual of a layer, oldest part first."""
    prefix = f"{layer}.base_A."
    numbers = sorted(int(name.removeprefix(prefix)) for name in state if name.startswith(prefix))
    return [Product(state[f"{layer}.base_B.{k}"], state[f"{layer}.base_A.{k}"]) for k in numbers]


def with_residual(state: Tensors, layer: str, added: Product, number: int) -> dict[str, Tensor]:
    """The state with ``added`` as the residual of round ``number``.

    When the total rank of the residual exceeds that of the layer, all of it becomes one pair under the new number. From
    then on a round sends min(out, in) (out + in) numbers a layer, however many hospitals there are.
    """
    parts = [*residual_of(state, layer), added]
    if sum(part.A.shape[0] for part in parts) > added.most:
        added = recompressed(combined(parts, [1.0] * len(parts)))
        state = {name: tensor for name, tensor in state.items() if not name.startswith(f"{layer}.base_")}
    return {
        **state,
        f"{layer}.base_A.{number}": added.A.float().contiguous(),
        f"{layer}.base_B.{number}": added.B.float().contiguous(),
    }


def as_plain_lora(state: Tensors, lora: LoRASpec) -> tuple[dict[str, Tensor], LoRASpec]:
    """LoRA and residual as plain LoRA: A = [A; base_A ...], B = [B, base_B / s ...], with the same scaling s.

    The rank is the largest that a layer needs; the other layers are padded with zeros.

    Returns:
        the state without base tensors, and its rank r' with alpha' = s r'.
    """
    scaling = lora.alpha / lora.rank
    parts = {layer: residual_of(state, layer) for layer in layers_of(state)}
    if not any(parts.values()):
        return dict(state), lora
    products = {}
    for layer, residual in parts.items():
        weights = [1.0, *[1.0 / scaling] * len(residual)]
        product = combined([lora_of(state, layer), *residual], weights)
        products[layer] = recompressed(product) if product.A.shape[0] > product.most else product
    rank = max(product.A.shape[0] for product in products.values())
    plain = {name: tensor for name, tensor in state.items() if ".base_A." not in name and ".base_B." not in name}
    for layer, product in products.items():
        missing = rank - product.A.shape[0]
        plain[f"{layer}.lora_A"] = pad(product.A.float(), (0, 0, 0, missing)).contiguous()
        plain[f"{layer}.lora_B"] = pad(product.B.float(), (0, missing)).contiguous()
    return plain, replace(lora, rank=rank, alpha=scaling * rank)
