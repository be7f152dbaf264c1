"""Checks the files of a base model before and after transformers reads them, and names what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from fedrad.errors import ModelError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
JSON_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    INDEX,
)
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
BUFFERS = {"position_ids", "token_type_ids"}  # constants that older versions of transformers saved


def check_folder(name: str, folder: Path) -> None:
    """Refuses a local folder that holds no complete base model. Of weights, it reads only headers.

    Raises:
        ModelError: the folder is empty, holds git-lfs pointers or a PEFT adapter, lacks config.json or safetensors, or
            has damaged files.
    """
    if problem := _problem_of(folder):
        raise ModelError(f"base model {name!r}: {problem}")


def _problem_of(folder: Path) -> str:
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    if not files:
        return "the folder is empty. Put config.json, the tokenizer files and model.safetensors there."
    if pointers := [file for file, path in files.items() if _starts_with(path, LFS_POINTER)]:
        return (
            f"git-lfs pointers stand in place of {_some(pointers)} in {folder}: run `git lfs pull` in the repository"
            " that the folder was copied from, or download the files from the hub."
        )
    contents = {file: _json(files[file]) for file in JSON_FILES if file in files}
    if broken := [file for file, content in contents.items() if content is None]:
        return f"{_some(broken)} in {folder} can't be read as a JSON object; copy it again, whole."
    if "adapter_config.json" in files and "config.json" in files:
        return (
            f"{folder} has an adapter_config.json beside config.json, and transformers would put that adapter into the"
            " model. Move the adapter elsewhere, or merge it (PEFT: merge_and_unload, then save_pretrained)."
        )
    if "adapter_config.json" in files:
        owner = (_json(files["adapter_config.json"]) or {}).get("base_model_name_or_path") or "its base model"
        return (
            f"{folder} holds a PEFT adapter (adapter_config.json and no config.json), not a base model. Name the base"
            f" model, {owner}; to use an adapter that fedrad trained, run `fedrad predict` on its run directory; to"
            " train on top of one, merge it (PEFT: merge_and_unload, then save_pretrained)."
        )
    if "config.json" not in files:
        return f"{folder} has no config.json; copy all files of the model."
    if WEIGHTS not in files and INDEX not in files:
        if pickled := [file for file in files if file.endswith(PICKLED)]:
            return (
                f"{folder} has no {WEIGHTS}, only {_some(pickled)}. Pickled weights are refused, as loading them runs"
                " code: take a revision with safetensors, or convert them to safetensors in a sandbox."
            )
        return f"{folder} has no {WEIGHTS}; copy all files of the model."
    weights = [WEIGHTS] if WEIGHTS in files else _shards(contents[INDEX] or {})
    if not weights:
        return f"{INDEX} in {folder} names no files; copy it again, whole."
    if missing := [file for file in weights if file not in files]:
        return f"{folder} lacks {_some(missing)}, which {INDEX} names; copy all of them."
    for file in weights:
        try:
            with safe_open(files[file], "pt"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{file} in {folder} can't be loaded ({error}): it is cut off or damaged; copy it again."
    return ""


def check_weights(name: str, module: nn.Module, loading: Mapping[str, Any]) -> None:
    """Refuses a checkpoint that does not match the model. Heads are ignored.

    Args:
        name: of the base model, for the message.
        module: the model as loaded.
        loading: ``output_loading_info`` of transformers, with mismatched sizes ignored.

    Raises:
        ModelError: weights are missing (except the pooler's), superfluous, of another shape or not finite.
    """
    parts = {part for part, _ in module.named_children()}  # names of a head's tensors contain none of these
    extra = [key for key in loading["unexpected_keys"] if _belongs(key, parts)]
    held = module.state_dict()
    if lora := [key for key in (*extra, *held) if "lora_" in key or ".base_layer." in key]:
        raise ModelError(
            f"base model {name!r} has an adapter among its weights, such as {min(lora)}, that is not merged: merge it"
            " first (PEFT: merge_and_unload, then save_pretrained)."
        )
    problems = []
    if missing := [key for key in loading["missing_keys"] if not key.startswith("pooler.")]:
        problems.append(f"lacks {len(missing)} weights, such as {min(missing)}: the checkpoint is incomplete")
    if extra:
        problems.append(
            f"has {len(extra)} weights that the encoder of its config.json has no place for, such as {min(extra)}:"
            " without them it would be another model (fewer layers than the checkpoint, relative positions, an extra"
            " part)"
        )
    problems += [
        f"has {key} of shape {tuple(found)}, and its config.json asks for {tuple(asked)}"
        for key, found, asked in sorted(loading["mismatched_keys"])[:1]
    ]
    if problems:
        raise ModelError(
            f"base model {name!r} {'; '.join(problems)}. Take config.json and weights from the same model."
        )
    if wrong := [key for key, tensor in held.items() if not bool(torch.isfinite(tensor).all())]:
        raise ModelError(
            f"base model {name!r} has numbers that are not finite in {_some(wrong)}: the checkpoint is damaged or was"
            " saved from a training run that diverged; take another."
        )


def _belongs(key: str, parts: set[str]) -> bool:
    """Whether a tensor of that name belongs to a model with these parts, rather than to a head."""
    names = key.split(".")
    return names[-1] not in BUFFERS and (not parts.isdisjoint(names) or "lora_" in key)


def _starts_with(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(mark)) == mark


def _shards(index: Mapping[str, Any]) -> list[str]:
    """The files that an index of sharded weights names."""
    places = index.get("weight_map")
    return sorted({str(file) for file in places.values()}) if isinstance(places, dict) else []


def _json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
