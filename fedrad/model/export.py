"""Writes and reads a trained adapter in PEFT's format.

``adapter_config.json`` and ``adapter_model.safetensors`` load with ``PeftModel.from_pretrained`` on stock transformers:
with pooling ``cls`` on ``AutoModelForSequenceClassification`` (the head is the saved module ``classifier``), with
pooling ``mean`` on ``AutoModel`` (the head is in ``head.safetensors``), a decoder's on ``AutoModelForCausalLM`` (there
is no head). The head includes the centring.
``fedrad.json`` holds what PEFT's files can't. No file holds any part of a report.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedrad.errors import ModelError
from fedrad.files import whole_folder
from fedrad.model.adapter import LoRASpec
from fedrad.model.base import EMBEDDED_HUB_ID, BaseModel
from fedrad.model.card import card
from fedrad.model.encoder import ModelSpec, ReportClassifier
from fedrad.model.families import take_apart
from fedrad.model.folder import MANIFEST, Manifest, Outputs, incomplete
from fedrad.settings import CAUSAL, EMBEDDED

_FORMAT = 2


def export_peft(
    classifier: ReportClassifier,
    base: BaseModel,
    directory: Path,
    outputs: Outputs,
    *,
    max_length: int,
    privacy_statement: str,
) -> None:
    """Writes the adapter folder, which appears whole or not at all.

    Args:
        base: the base model of ``classifier``.
        directory: an adapter that fedrad wrote there before is replaced.
        max_length: tokens at which reports were cut in training.
        privacy_statement: a paragraph for the README and ``fedrad.json``.

    Raises:
        ModelError: the directory holds something else, or can't be written.
    """
    directory = Path(directory)
    if directory.exists() and any(directory.iterdir()) and not (directory / MANIFEST).is_file():
        raise ModelError(f"{directory} is not empty and holds no adapter of fedrad's: name another folder.")
    try:
        with whole_folder(directory) as partial:
            _write(classifier, base, partial, outputs, max_length, privacy_statement)
            shutil.rmtree(directory, ignore_errors=True)
    except OSError as error:
        raise ModelError(f"the adapter can't be written to {directory}: {error.strerror or error}.") from error


def import_peft(directory: Path) -> tuple[Manifest, dict[str, Tensor]]:
    """Reads an adapter folder back.

    Returns:
        the manifest, and tensors for ``ReportClassifier.load_state``. The head includes the centring, so ``centre`` is
        0 and ``scale`` 1; a decoder has none of these.

    Raises:
        ModelError: a file is missing, unreadable or contradicts another.
    """
    try:
        manifest = _manifest_from(json.loads((directory / MANIFEST).read_text(encoding="utf-8")))
        stored = load_file(directory / "adapter_model.safetensors")
        causal = manifest.outputs.task == CAUSAL
        beside = manifest.spec.pooling == "mean" and not causal
        head = load_file(directory / "head.safetensors") if beside else None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise incomplete(directory, type(error).__name__) from error
    tensors: dict[str, Tensor] = {}
    for key, tensor in stored.items():
        name = key.removeprefix("base_model.model.")
        if name.startswith("classifier."):
            tensors[f"head.{name.removeprefix('classifier.')}"] = tensor
        elif manifest.lora.targets:  # otherwise only `_placeholder` is there
            name = name.removesuffix(".weight")
            tensors[name if manifest.spec.pooling == "mean" else name.partition(".")[2]] = tensor
    if head is not None:
        tensors |= {f"head.{name}": tensor for name, tensor in head.items()}
    if causal:
        return manifest, tensors
    if "head.weight" not in tensors or tensors["head.weight"].dim() != 2:
        raise ModelError(f"{directory} lacks the weights of the head.")
    hidden = tensors["head.weight"].shape[1]
    return manifest, tensors | {"centre": torch.zeros(hidden), "scale": torch.ones(hidden)}


def _write(
    classifier: ReportClassifier, base: BaseModel, folder: Path, outputs: Outputs, max_length: int, privacy: str
) -> None:
    spec, lora = classifier.spec, classifier.lora
    mean, causal = spec.pooling == "mean", classifier.answers is not None
    matrices = {name: tensor for name, tensor in classifier.state().items() if name.endswith((".lora_A", ".lora_B"))}
    rank, alpha = lora.rank, lora.alpha
    if not matrices:
        matrices, rank, alpha = _placeholder(base), 1, 1.0
    # PEFT wraps the base model itself, or with cls a classifier that holds it as "bert", "albert", ...
    root = "base_model.model." + ("" if mean else f"{base.module.base_model_prefix}.")
    tensors = {f"{root}{name}.weight": tensor.contiguous() for name, tensor in matrices.items()}
    if not causal:
        weight, bias = classifier.folded_head()
        if mean:
            save_file({"weight": weight, "bias": bias}, folder / "head.safetensors", metadata={"format": "pt"})
        else:
            tensors |= {"base_model.model.classifier.weight": weight, "base_model.model.classifier.bias": bias}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = sorted({name.rpartition(".")[0] for name in matrices})
    kind = "CAUSAL_LM" if causal else "FEATURE_EXTRACTION" if mean else "SEQ_CLS"
    _write_peft_config(folder, base, kind, targets, rank, alpha)
    manifest = Manifest(spec, lora, outputs, max_length, base.sha256, privacy)
    (folder / MANIFEST).write_text(
        json.dumps({"format": _FORMAT, **asdict(manifest)}, indent=2) + "\n", encoding="utf-8"
    )
    (folder / "README.md").write_text(card(manifest, base, targets), encoding="utf-8")


def _placeholder(base: BaseModel) -> dict[str, Tensor]:
    """A LoRA of rank 1 with A = B = 0 on one layer, for a head-only adapter: PEFT refuses an adapter without LoRA."""
    layer, module = list(take_apart(base.module).layers.items())[-1]
    name, linear = next((name, part) for name, part in module.named_modules() if isinstance(part, torch.nn.Linear))
    return {
        f"{layer}.{name}.lora_A": torch.zeros(1, linear.in_features),
        f"{layer}.{name}.lora_B": torch.zeros(linear.out_features, 1),
    }


def _write_peft_config(folder: Path, base: BaseModel, kind: str, targets: list[str], rank: int, alpha: float) -> None:
    from peft import LoraConfig  # importing it takes a second

    LoraConfig(
        task_type=kind,
        base_model_name_or_path=EMBEDDED_HUB_ID if base.name == EMBEDDED else base.name,
        revision=base.revision or None,
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT only divides it by r
        lora_dropout=0.0,
        bias="none",
        target_modules=targets,  # full names match no other layer
        modules_to_save=["classifier"] if kind == "SEQ_CLS" else None,
        inference_mode=True,
    ).save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["target_modules"] = targets  # PEFT keeps a set, whose order varies between processes
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _manifest_from(read: Mapping[str, Any]) -> Manifest:
    if read["format"] != _FORMAT:
        raise ValueError(f"format {read['format']}, not {_FORMAT}")
    lora = {**read["lora"], "targets": tuple(read["lora"]["targets"])}
    return Manifest(
        spec=ModelSpec(**read["spec"]),
        lora=LoRASpec(**lora),
        outputs=Outputs(**{**read["outputs"], "labels": tuple(read["outputs"]["labels"])}),
        max_length=int(read["max_length"]),
        base_sha256=str(read["base_sha256"]),
        privacy=str(read["privacy"]),
    )
