"""What one DP-LoRA step of a decoder costs: fedrad, in float32 or NF4, checkpointed or not, beside PEFT and Opacus.

    python -m benchmarks.decoder                          SmolLM2, if it was fetched: 16 notes of about 100 tokens
    python -m benchmarks.decoder --model small            a random decoder, to see that it runs
    python -m benchmarks.decoder --model llama-7b --plan  the memory that a 7B step needs; builds nothing
    python -m benchmarks.decoder --model llama-7b --device cuda --engines "fedrad, nf4;fedrad, nf4, checkpointed"

LoRA of rank 8 on all linear layers of all blocks; loss on the answer's tokens. PEFT, without privacy, runs the stock
model, which multiplies every token with the vocabulary. CPU seconds of one thread, in turns (on a GPU look at the wall
seconds); memory of base and step in MB (10^6 bytes), each engine in a process of its own. A random model is quantised
matrix by matrix, so that a 7B base never exists in more than 4 bits. The summed gradients of PEFT and fedrad are
compared first, and nothing is timed if they differ.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.measure import describe, growth, interleaved, machine, median, one_thread, ratio, table, write_json
from fedrad.data.batches import Batch, Tokenized, collate
from fedrad.model.adapter import LoRASpec
from fedrad.model.answers import Answers
from fedrad.model.base import BaseModel, load_base
from fedrad.model.build import build
from fedrad.model.encoder import ModelSpec, ReportClassifier
from fedrad.model.families import take_apart
from fedrad.model.kernels import Kernels
from fedrad.model.quantized import NF4Linear, StoredLinear, stored_bytes
from fedrad.privacy.gradients import leaf_gradients, opacus_gradients
from fedrad.settings import SMOLLM2
from fedrad.tasks.causal_lm import CausalLM

SHAPES: Mapping[str, dict[str, int]] = {
    "small": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4},
    "llama-7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
}
VOCABULARY, ANSWER, RANK = 32000, 12, 8
LORA = LoRASpec(RANK, 2.0 * RANK, ("all-linear",), layers=0)
PEFT, HOOKS, OURS = "peft, not private", "opacus hooks", "fedrad"
# By name: whether the base is in NF4, and whether the backward pass computes layers again.
PRIVATE: Mapping[str, tuple[bool, bool]] = {
    HOOKS: (False, False),
    OURS: (False, False),
    f"{OURS}, checkpointed": (False, True),
    f"{OURS}, nf4": (True, False),
    f"{OURS}, nf4, checkpointed": (True, True),
}
ENGINES = (PEFT, *PRIVATE)
TASK = CausalLM(("a", "b"))
Step = Callable[[], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Case:
    """A model on a device, and the notes of a step."""

    model: str
    device: str
    notes: int
    tokens: int

    def batch(self, vocabulary: int) -> Batch:
        """Random notes of 0.6 to 1.4 times ``tokens`` tokens, with answers of 3 to 12."""
        generator = np.random.default_rng(0)
        lengths = generator.integers(int(0.6 * self.tokens), int(1.4 * self.tokens) + 1, self.notes)
        ids = generator.integers(5, vocabulary, int(lengths.sum())).astype(np.int32)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        labels = np.zeros((self.notes, 1 + ANSWER), dtype=np.int64)
        mask = np.zeros(labels.shape, dtype=np.float32)
        for row, count in enumerate(generator.integers(3, ANSWER + 1, self.notes)):
            labels[row, -count:], mask[row, -count:] = ids[offsets[row + 1] - count : offsets[row + 1]], 1.0
        read = collate(Tokenized(ids, offsets, labels, mask), np.arange(self.notes), 0)
        return Batch(*(part.to(self.device) for part in read))


def base_of(case: Case, *, nf4: bool) -> BaseModel:
    """SmolLM2, or a random model of the shape."""
    if case.model == SMOLLM2:
        return load_base(SMOLLM2, quantize="nf4" if nf4 else "none").placed(torch.float32, case.device)
    config: Any = _config(case)
    torch.manual_seed(0)
    module = _random_nf4(config, case.device) if nf4 else AutoModelForCausalLM.from_config(config).to(case.device)
    return BaseModel(
        name=case.model,
        revision="",
        config=config,
        tokenizer=None,
        module=module.eval().requires_grad_(False),
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        max_length=2048,
    )


def _config(case: Case) -> Any:
    if case.model == SMOLLM2:
        return load_base(SMOLLM2).config
    return AutoConfig.for_model("llama", vocab_size=VOCABULARY, **SHAPES[case.model])


def _random_nf4(config: Any, device: str) -> nn.Module:
    """Every matrix is made and quantised before the next one is."""
    with torch.device("meta"):
        module: Any = AutoModelForCausalLM.from_config(config)
    for name, part in list(module.named_modules()):
        parent, _, child = name.rpartition(".")
        if isinstance(part, nn.Linear):
            dense = nn.Linear(part.in_features, part.out_features, bias=False, device=device)
            nn.init.normal_(dense.weight, std=0.02)
            half = nn.Parameter(dense.weight.detach().bfloat16(), requires_grad=False)
            stored = StoredLinear(dense, half) if name == "lm_head" else NF4Linear(dense)
            setattr(module.get_submodule(parent), child, stored)
        elif isinstance(part, nn.Embedding):
            embedding = nn.Embedding(part.num_embeddings, part.embedding_dim, device=device, dtype=torch.bfloat16)
            setattr(module.get_submodule(parent), child, embedding)
        elif list(part.parameters(recurse=False)):  # a norm
            part.weight = nn.Parameter(torch.ones(part.weight.shape, device=device), requires_grad=False)
    with torch.device(device):
        module.model.rotary_emb = type(module.model.rotary_emb)(config)
    return module


def classifier_of(base: BaseModel, case: Case, *, checkpointing: bool = False) -> ReportClassifier:
    """With B that is not zero, so that A has a gradient."""
    answers = Answers(tuple((k + 1,) * (ANSWER - k) for k in range(2)))
    kernels = Kernels(checkpointing=checkpointing, device=case.device)
    model = build(base, ModelSpec(base.name), LORA, 0, 0, kernels, answers=answers)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.adapter().values():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


def clipped(losses: Tensor, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sum of the gradients, each clipped to norm 1, joint over all tensors."""
    norms = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0).sqrt()
    factors = (1.0 / norms).clamp(max=1.0)
    return {name: torch.einsum("b,b...->...", factors, g) for name, g in gradients.items()}


def engine(name: str, case: Case) -> tuple[Step, int]:
    """A step that returns the sum it would add noise to, and the bytes of the base."""
    if name == PEFT:
        return _peft(case)
    nf4, checkpointing = PRIVATE[name]
    base = base_of(case, nf4=nf4)
    model, batch = classifier_of(base, case, checkpointing=checkpointing), case.batch(base.config.vocab_size)
    gradients = opacus_gradients if name == HOOKS else leaf_gradients
    read = (batch.attention,) if name == HOOKS else (batch.attention, batch.mask[:, 1:])

    def step() -> Mapping[str, Tensor]:
        hidden = model.prefix(batch.ids, batch.attention)
        losses = lambda outputs: TASK.losses(outputs, batch.labels, batch.mask)  # noqa: E731
        return clipped(*gradients(model.suffix, model.adapter(), (hidden, *read), losses))

    return step, stored_bytes(base.module)


def _peft(case: Case) -> tuple[Step, int]:
    base = base_of(case, nf4=False)
    batch, size = case.batch(base.config.vocab_size), stored_bytes(base.module)
    targets = sorted({name.rpartition(".")[2] for name, part in _linear(base)})
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets, task_type="CAUSAL_LM")
    stock = get_peft_model(copy.deepcopy(base.module), config).train()
    trained = {name: p for name, p in stock.named_parameters() if p.requires_grad}
    own = {name.removeprefix("base_model.model.").removesuffix(".default.weight"): p for name, p in trained.items()}
    with torch.no_grad():
        for name, parameter in classifier_of(base, case).adapter().items():
            own[name].copy_(parameter)
    places = batch.attention.sum(1, keepdim=True) + torch.arange(-ANSWER - 1, -1, device=batch.ids.device)

    def step() -> Mapping[str, Tensor]:
        logits = stock(input_ids=batch.ids, attention_mask=batch.attention).logits
        picked = logits.gather(1, places.unsqueeze(-1).expand(-1, -1, logits.shape[-1]))
        TASK.losses(picked, batch.labels, batch.mask).sum().backward()
        found = {name: p.grad for name, p in own.items() if p.grad is not None}
        for parameter in own.values():
            parameter.grad = None
        return found

    return step, size


def _linear(base: BaseModel) -> list[tuple[str, nn.Linear]]:
    layers = take_apart(base.module).layers.values()
    return [(n, part) for layer in layers for n, part in layer.named_modules() if isinstance(part, nn.Linear)]


def error(case: Case) -> float:
    """Relative error of the sum of fedrad's per-note gradients against PEFT's gradient."""
    theirs = engine(PEFT, case)[0]()
    base = base_of(case, nf4=False)
    model, batch = classifier_of(base, case), case.batch(base.config.vocab_size)
    read = (model.prefix(batch.ids, batch.attention), batch.attention, batch.mask[:, 1:])
    losses = lambda outputs: TASK.losses(outputs, batch.labels, batch.mask)  # noqa: E731
    _, each = leaf_gradients(model.suffix, model.adapter(), read, losses)
    apart = sum(float((g.sum(0) - theirs[name]).square().sum()) for name, g in each.items())
    return float((apart / sum(float(g.square().sum()) for g in theirs.values())) ** 0.5)


def plan(case: Case) -> dict[str, float]:
    """MB that a step needs, computed from the shapes alone: what is stored, and what a step adds at most."""
    config = _config(case)
    d, f, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    kv = d // config.num_attention_heads * config.num_key_value_heads
    matrices = layers * (2 * d * d + 2 * d * kv + 3 * d * f)
    tables = config.vocab_size * d * (1 if config.tie_word_embeddings else 2)
    lora = layers * RANK * (2 * (d + d) + 2 * (d + kv) + 3 * (d + f))
    rows = case.notes * int(1.4 * case.tokens)
    layer = rows * (10 * d + 4 * f) * 4  # what the backward pass needs of all tokens in a layer
    logits = 3 * case.notes * ANSWER * config.vocab_size * 4
    dense = 2 * max(d * f, tables if config.tie_word_embeddings else tables // 2) * 4
    return {
        "base, float32": 4 * (matrices + tables) / 1e6,
        "base, nf4": (matrices * (0.5 + 1 / 64 + 4 / 64 / 256) + 2 * tables) / 1e6,
        "adapter and gradients of all notes": 4 * lora * (case.notes + 1) / 1e6,
        "optimizer's state: Adam's (momentum: half)": 2 * 4 * lora / 1e6,
        "kept for the backward pass, at most": layers * layer / 1e6,
        "kept if checkpointed: inputs, and one layer": (layers * rows * d * 4 + layer) / 1e6,
        "logits and one matrix made whole": (logits + dense) / 1e6,
    }


def _memory(name: str, case: Case) -> tuple[float, ...]:
    """MB of the base and MB that a step adds at most, in a process of its own."""
    request = json.dumps({"engine": name, "case": case.__dict__})
    command = [sys.executable, "-m", "benchmarks.decoder", "--memory-of", request]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    base, step = json.loads(done.stdout.splitlines()[-1])
    return base, step


def _report_memory(request: str) -> None:
    asked = json.loads(request)
    case = Case(**asked["case"])
    step, size = engine(asked["engine"], case)
    if case.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        grown = (torch.cuda.max_memory_allocated() - before) / 1e6
    else:
        grown = growth(step)
    print(json.dumps([size / 1e6, grown]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SMOLLM2, choices=(SMOLLM2, *SHAPES))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--notes", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=100, help="of a note with its prompt, on average")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", default=";".join(ENGINES), help="separated by semicolons")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--plan", action="store_true", help="print the memory that a step needs, and end")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    one_thread()
    if options.memory_of:
        _report_memory(options.memory_of)
        return
    case = Case(options.model, options.device, options.notes, options.tokens)
    needs = [(what, f"{mb:.0f}") for what, mb in plan(case).items()]
    print(f"{describe(machine())}\n{table(('computed beforehand', 'MB'), needs)}", flush=True)
    if options.plan:
        return
    names = options.engines.split(";")
    memory: dict[str, tuple[float, ...]] = dict.fromkeys(names, ())
    for name in () if options.no_memory else names:  # first, while this process holds no model
        memory[name] = _memory(name, case)
        print(f"{name}: base {memory[name][0]:.0f} MB, step {memory[name][1]:.0f} MB", flush=True)
    if PEFT in names and OURS in names:
        found = error(case)
        print(f"sum of per-note gradients against PEFT's gradient: relative error {found:.1e}", flush=True)
        if found > 1e-4:
            sys.exit("decoder: the gradients differ, so nothing is timed.")
    steps = {name: engine(name, case)[0] for name in names}
    times = interleaved({name: lambda _, step=step: step() for name, step in steps.items()}, options.rounds)  # type: ignore[misc]
    rows = []
    for name in names:
        took = median(times[name])
        to_peft = str(ratio(times[name], times[PEFT])) if PEFT in times else ""
        rows.append((name, f"{took.cpu:.2f}", f"{took.wall:.2f}", to_peft, *(f"{mb:.0f}" for mb in memory[name])))
    columns = ("engine", "cpu s", "wall s", "time / peft", "base MB", "step MB")
    print(table(columns[:4] if options.no_memory else columns, rows))
    write_json(options.json, {"benchmark": "decoder", "case": case.__dict__, "plan": plan(case), "rows": rows})


if __name__ == "__main__":
    main()
