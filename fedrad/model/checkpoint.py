"""What can be wrong with the files of a base model: said by name, before and after transformers reads them."""

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
LARGEST_POINTER = 1024  # bytes, by the specification of git-lfs
JSON_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "model.safetensors.index.json",
)
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# Parts of an encoder's tensor names. Heads (cls, classifier, lm_head, predictions, ...) have none of them.
ENCODER = {"embeddings", "encoder", "transformer"}
BUFFERS = {"position_ids", "token_type_ids"}  # counted up, not trained; saved by older versions of transformers


def check_folder(name: str, folder: Path) -> None:
    """Refuses a local folder that holds no whole base model, with the reason and the remedy.

    Only headers of weights are read.

    Raises:
        ModelError: an empty folder, git-lfs pointers, a PEFT adapter, no config.json, JSON that is none, no
            safetensors, or safetensors that are missing or cut off.
    """
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}

    def refuse(problem: str) -> ModelError:
        return ModelError(f"base model {name!r}: {problem}")

    if not files:
        raise refuse("the folder is empty. Put config.json, the tokenizer files and model.safetensors there.")
    if pointers := [file for file, path in files.items() if _is_pointer(path)]:
        raise refuse(
            f"git-lfs pointers stand in place of {_some(pointers)} in {folder}: run `git lfs pull` in the repository"
            " that the folder was copied from, or download the files from the hub."
        )
    contents = {file: _json(files[file]) for file in JSON_FILES if file in files}
    if broken := [file for file, content in contents.items() if content is None]:
        raise refuse(f"{_some(broken)} in {folder} can't be read as a JSON object; copy it again, whole.")
    if "adapter_config.json" in files:
        owner = (_json(files["adapter_config.json"]) or {}).get("base_model_name_or_path") or "its base model"
        if "config.json" not in files:
            raise refuse(
                f"{folder} holds a PEFT adapter (adapter_config.json and no config.json), not a base model. Name the"
                f" base model, {owner}; to use an adapter that fedrad trained, run `fedrad predict` on its run"
                " directory; to train on top of one, merge it (PEFT: merge_and_unload, then save_pretrained)."
            )
        raise refuse(
            f"{folder} has an adapter_config.json beside config.json, and transformers would put that adapter into the"
            " model. Move the adapter elsewhere, or merge it (PEFT: merge_and_unload, then save_pretrained)."
        )
    if "config.json" not in files:
        raise refuse(f"{folder} has no config.json; copy all files of the model.")
    if "model.safetensors" in files:
        weights = ["model.safetensors"]
    elif "model.safetensors.index.json" in files:
        weights = _shards(contents["model.safetensors.index.json"] or {})
        if not weights:
            raise refuse(f"model.safetensors.index.json in {folder} names no files; copy it again, whole.")
        if missing := [file for file in weights if file not in files]:
            raise refuse(
                f"{folder} lacks {_some(missing)}, which model.safetensors.index.json names; copy all of them."
            )
    elif pickled := [file for file in files if file.endswith(PICKLED)]:
        raise refuse(
            f"{folder} has no model.safetensors, only {_some(pickled)}. Pickled weights are refused, as loading them"
            " runs code: take a revision with safetensors, or convert them to safetensors in a sandbox."
        )
    else:
        raise refuse(f"{folder} has no model.safetensors; copy all files of the model.")
    for file in weights:
        try:
            with safe_open(files[file], "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise refuse(
                f"{file} in {folder} can't be loaded ({error}): it is cut off or damaged; copy it again."
            ) from None


def check_weights(name: str, module: nn.Module, loading: Mapping[str, Any]) -> None:
    """Refuses a checkpoint that is not exactly this encoder, whatever heads it has besides.

    Args:
        name: of the base model, for the message.
        module: the encoder as loaded.
        loading: ``output_loading_info`` of transformers, with mismatched sizes ignored.

    Raises:
        ModelError: weights that are missing (the pooler may be), superfluous, of another shape or not finite.
    """
    extra = [key for key in loading["unexpected_keys"] if _belongs(key)]
    held = module.state_dict()
    if lora := [key for key in (*extra, *held) if "lora_" in key or ".base_layer." in key]:
        raise ModelError(
            f"base model {name!r} has an adapter among its weights, such as {min(lora)}, that is not merged: merge it"
            " first (PEFT: merge_and_unload, then save_pretrained)."
        )
    missing = [key for key in loading["missing_keys"] if not key.startswith("pooler.")]
    problems = []
    if missing:
        problems.append(f"lacks {len(missing)} weights, such as {min(missing)}: the checkpoint is incomplete")
    if extra:
        problems.append(
            f"has {len(extra)} weights that the encoder of its config.json has no place for, such as {min(extra)}: it"
            " would be another model without them (fewer layers than the checkpoint, relative positions, a part of its"
            " own)"
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


def _belongs(key: str) -> bool:
    """Whether a tensor of that name is part of an encoder, and no head's."""
    parts = key.split(".")
    return parts[-1] not in BUFFERS and (not ENCODER.isdisjoint(parts) or "lora_" in key)


def _is_pointer(path: Path) -> bool:
    if path.stat().st_size > LARGEST_POINTER:
        return False
    return path.read_bytes().startswith(LFS_POINTER)


def _shards(index: Mapping[str, Any]) -> list[str]:
    """The files that an index of sharded weights names."""
    places = index.get("weight_map")
    return sorted({str(file) for file in places.values()}) if isinstance(places, dict) else []


def _json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
