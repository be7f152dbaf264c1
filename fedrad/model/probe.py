"""Measures which kernels are fastest on this machine, and caches the result so that all processes agree to the bit.

Torch has several implementations of a product, and the fastest depends on the processor: on some, `medium` matrix
products use oneDNN at twice the speed and the same accuracy; on others `medium` means bfloat16, or nothing. So a probe
of about a second measures time *and* error. Results differ in the last bits between kernels, and probes differ from run
to run. Therefore the first result is written to the user's cache folder, and every later process on this machine with
the same torch and model shape reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from fedrad.cache import fedrad_cache_dir
from fedrad.model.base import BaseModel
from fedrad.model.block import eager_attention
from fedrad.model.families import take_apart
from fedrad.model.kernels import Kernels, dtype_of, matmul_precision
from fedrad.model.quantized import StoredLinear

FLOAT32_ERROR = 1e-6  # largest relative error of a product that counts as float32
FASTER = 0.9  # another kernel must take less than this share of the default's time
SECONDS = 0.7  # for the whole probe: CPU time if the model is on the CPU, else wall time
MEMORY_SHARE = 0.25  # of the free memory, for the activations of one micro-batch
_GPU_TOKENS = (8192, 16384, 32768, 65536)  # a GPU is idle between small kernels; these are not measured yet


def kernels_for(base: BaseModel, precision: str, device: str = "cpu", *, probed: bool = True) -> Kernels:
    """The kernels for this model on this machine.

    Args:
        precision: ``float32``, ``bfloat16``, or ``auto``: bfloat16 where the machine runs it clearly faster.
        device: as torch names it.
        probed: measure, or read an earlier measurement; otherwise use torch's defaults.
    """
    unprobed = _unprobed(precision, device)
    if not probed:
        return unprobed
    path = fedrad_cache_dir() / f"kernels-{_key(base, precision, device)}.json"
    if (before := _read(path, precision, device)) is not None:
        return before
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.unlink(missing_ok=True)  # a damaged one
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".partial") as file:
            file.write(json.dumps(asdict(probe(base, precision, device)), indent=1) + "\n")
            file.flush()
            os.link(file.name, path)  # fails if another process was first; all read that process's file
    # Without a cache, processes can only agree on the defaults.
    return _read(path, precision, device) or unprobed


def _unprobed(precision: str, device: str) -> Kernels:
    """Torch's defaults, with a number of tokens that suits the device."""
    tokens = Kernels().micro_tokens if device == "cpu" else _GPU_TOKENS[0]
    return Kernels(backbone="bfloat16" if precision == "bfloat16" else "float32", micro_tokens=tokens, device=device)


def _read(path: Path, precision: str, device: str) -> Kernels | None:
    """The cached kernels, or None if the file is damaged or its precision is not the requested one: a file must not
    bring bfloat16 to a hospital that refuses it.
    """
    try:
        found = Kernels(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    fits = found.matmul in ("highest", "medium") and found.backbone in ("float32", "bfloat16")
    return found if fits and found.device == device and precision in ("auto", found.backbone) else None


def probe(base: BaseModel, precision: str, device: str = "cpu") -> Kernels:
    """Measures one core or a GPU with tensors of this model's shapes; takes about a second."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        deadline = _now(device) + SECONDS
        chosen, measured = _unprobed("float32", device), dict[str, float]()
        chosen = replace(chosen, **_products(base, precision, device, measured))
        with matmul_precision(chosen.matmul):
            chosen = replace(chosen, eager_up_to=_attention(base, chosen, measured, deadline))
            chosen = replace(chosen, micro_tokens=_micro_tokens(base, chosen, measured, deadline))
    finally:
        torch.set_num_threads(threads)
    return replace(chosen, measured={name: float(f"{value:.3g}") for name, value in measured.items()})


def _products(base: BaseModel, precision: str, device: str, measured: dict[str, float]) -> dict[str, Any]:
    """The fastest accurate precision for float32 products, and the dtype of the frozen weights."""
    weight = _widest(base.placed(torch.float32, device))
    x = torch.randn(256, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(device)
    exact = x.double() @ weight.double().T
    runs = {name: partial(_product, name, x, weight) for name in ("highest", "medium")}
    if precision != "float32":
        runs["bfloat16"] = partial(_product, "highest", x.bfloat16(), weight.bfloat16())
    times = dict(zip(runs, _milliseconds(device, *runs.values()), strict=True))
    errors = {name: _error(run(), exact) for name, run in runs.items()}
    for name in runs:
        measured |= {f"matmul-{name}-error": errors[name], f"matmul-{name}-ms": times[name]}
    medium = errors["medium"] <= FLOAT32_ERROR and times["medium"] < FASTER * times["highest"]
    matmul = "medium" if medium else "highest"
    half = precision == "auto" and times["bfloat16"] < FASTER**2 * times[matmul]
    return {"matmul": matmul, "backbone": "bfloat16" if half or precision == "bfloat16" else "float32"}


def _attention(base: BaseModel, kernels: Kernels, measured: dict[str, float], deadline: float) -> int:
    """The longest length at which plain products beat the fused kernel, forward and backward together."""
    dtype, device, heads = dtype_of(kernels.backbone), kernels.device, base.config.num_attention_heads
    best = 0
    for length in (32, 64, 128, 256, 512):
        if length > base.max_length or _now(device) > deadline:
            break
        shape = (max(1, 512 // length), heads, length, base.hidden // heads)
        parts = [torch.ones(shape, dtype=dtype, device=device, requires_grad=True) for _ in range(3)]
        mask = torch.zeros(shape[0], 1, 1, length, dtype=dtype, device=device)
        ways = (scaled_dot_product_attention, eager_attention)
        fused, eager = _milliseconds(device, *(partial(_and_back, way, parts, mask) for way in ways))
        measured |= {f"attention-{length}-sdpa-ms": fused, f"attention-{length}-eager-ms": eager}
        if eager >= FASTER * fused:
            break
        best = length
    return best


def _micro_tokens(base: BaseModel, kernels: Kernels, measured: dict[str, float], deadline: float) -> int:
    """The affordable number of tokens with the least time per token for a block, forward and backward.

    The default is kept unless another number is clearly cheaper. Padding does not matter here: `micro_batches` limits
    it.
    """
    dtype, device = dtype_of(kernels.backbone), kernels.device
    stack = take_apart(base.placed(dtype, device).module)
    block = stack.blocks(next(iter(stack.layers.values())))[0]
    run = partial(block.run, eager=kernels.eager_up_to >= 64)
    best, least = kernels.micro_tokens, float("inf")
    bytes_per_token = 4 * (12 * base.hidden + 3 * _widest(base).shape[0]) * base.layers
    affordable = int(MEMORY_SHARE * _free_bytes(device) / bytes_per_token)
    for tokens in (best, best // 2, 2 * best, 4 * best) if device == "cpu" else _GPU_TOKENS:
        if tokens > affordable or _now(device) > deadline:
            continue
        x = torch.ones(tokens // 64, 64, base.hidden, dtype=dtype, device=device, requires_grad=True)
        mask = torch.zeros(len(x), 1, 1, 64, dtype=dtype, device=device)
        each = 1000 * _milliseconds(device, partial(_and_back, run, [x], mask))[0] / tokens
        measured[f"block-{tokens}-us-per-token"] = each
        if each < FASTER * least:
            best, least = tokens, each
    return min(best, max(64, affordable))


def _free_bytes(device: str) -> int:
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _widest(base: BaseModel) -> Tensor:
    """The largest weight [out, in] of a layer, that of its first feed-forward product."""
    layer = next(iter(take_apart(base.module).layers.values()))
    linears = [module for module in layer.modules() if isinstance(module, nn.Linear)]
    widest = max(linears, key=lambda module: module.in_features * module.out_features)
    weight = widest.dense(torch.float32) if isinstance(widest, StoredLinear) else widest.weight
    return weight.detach()


def _and_back(run: Callable[..., Tensor], parts: Sequence[Tensor], mask: Tensor) -> None:
    out = run(*parts, mask)
    torch.autograd.grad(out, parts, torch.ones_like(out))


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def _product(precision: str, x: Tensor, weight: Tensor) -> Tensor:
    with matmul_precision(precision):
        return linear(x, weight)


def _now(device: str) -> float:
    """Seconds of this thread's CPU time or, on a GPU, of wall time after all its work is done.

    Other jobs on the machine lengthen wall time, but hardly CPU time. The probe uses one thread because this does not
    count torch's other threads.
    """
    if device == "cpu":
        return time.thread_time()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _milliseconds(device: str, *runs: Callable[[], object]) -> list[float]:
    """The shortest of three runs of each, after a warm-up; the runs take turns."""
    least = [float("inf")] * len(runs)
    for turn in range(4):
        for index, run in enumerate(runs):
            start = _now(device)
            run()
            if turn:
                least[index] = min(least[index], 1000 * (_now(device) - start))
    return least


def _key(base: BaseModel, precision: str, device: str) -> str:
    """A hash of everything that the choice depends on."""
    shape = [base.config.model_type, base.hidden, base.layers, base.max_length, *_widest(base).shape]
    machine = [_processor(), torch.backends.cpu.get_cpu_capability(), torch.__version__, device]
    if device.startswith("cuda"):
        machine.append(torch.cuda.get_device_name(device))
    return hashlib.sha256(json.dumps([3, precision, *shape, *machine]).encode()).hexdigest()[:16]


def _processor() -> str:
    """The processor's name and its instruction sets, some of which a virtual machine may hide."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        if found := sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}):
            return "".join(found)
    return platform.processor()
