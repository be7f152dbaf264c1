"""What an unfinished run goes on from: the state after its last finished round, in one file, replaced atomically.

The file is on the disk before anything of its round is sent, shown or evaluated. So a run that was cut off at any point
goes on from it, and asks for the next round with the very request that was sent before, which every hospital answers
from its own disk, or computes for the charge that is there (``training.site``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from fedrad.errors import ConfigError
from fedrad.files import USUAL, write_whole

CHECKPOINT, START = "checkpoint.safetensors", "start.safetensors"
VERSIONS = ("fedrad", "flwr", "torch", "transformers", "peft", "opacus", "dp-accounting", "datasets", "numpy")
_SERVER = "server."  # before the names of what the strategy's server alone remembers


@dataclass(frozen=True)
class Checkpoint:
    """A run after a round.

    Attributes:
        round: the last finished one; 0: the start.
        run: the name by which the ledgers know the run.
        state: all public tensors.
        memory: what the strategy keeps at the server.
        base: fingerprint of the base model.
        seconds: that the run has taken, those of ended processes included.
        begun: a round that was begun since and must not be repeated; 0: none.
        hospitals: what the server knows of them (``federation.resume``), as JSON; empty if the training is centralized.
        versions: of the packages that decide the bits of a result.
    """

    round: int
    run: str
    state: Mapping[str, Tensor]
    memory: Mapping[str, Tensor]
    base: str
    seconds: float
    begun: int = 0
    hospitals: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=lambda: {name: version(name) for name in VERSIONS})

    @property
    def passed(self) -> int:
        """The run goes on with the round after this one."""
        return max(self.round, self.begun)


def write_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Replaces the run's checkpoint, and waits for the disk."""
    facts = {
        "run": checkpoint.run,
        "base": checkpoint.base,
        "seconds": checkpoint.seconds,
        "begun": checkpoint.begun,
        "hospitals": checkpoint.hospitals,
        "versions": checkpoint.versions,
    }
    tensors = {**checkpoint.state, **{f"{_SERVER}{name}": tensor for name, tensor in checkpoint.memory.items()}}
    metadata = {"round": str(checkpoint.round), "resume": json.dumps(facts, sort_keys=True)}
    _write(directory / CHECKPOINT, tensors, metadata)


def read_checkpoint(directory: Path, base: str) -> Checkpoint | None:
    """The run's checkpoint; None: no process came that far, so nothing was charged.

    Args:
        base: fingerprint of the base model here.

    Raises:
        ConfigError: it can't be read, or was written with another base model or other versions: going on would give
            other bits, or train another model.
    """
    path = directory / CHECKPOINT
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        facts, round = json.loads(metadata["resume"]), int(metadata["round"])
    except (KeyError, ValueError, OSError, SafetensorError) as error:
        raise ConfigError(f"run.resume: {path} can't be read as a checkpoint ({type(error).__name__})") from None
    found = Checkpoint(
        round=round,
        state={name: tensor for name, tensor in tensors.items() if not name.startswith(_SERVER)},
        memory={n.removeprefix(_SERVER): tensor for n, tensor in tensors.items() if n.startswith(_SERVER)},
        **facts,
    )
    here = {name: version(name) for name in VERSIONS}
    other = [f"{name} {was} (now {here.get(name)})" for name, was in found.versions.items() if here.get(name) != was]
    problems = [f"run.resume: {directory} was begun with {', '.join(other)}; install that again"] if other else []
    if found.base != base:
        problems.append(f"run.resume: {directory} was begun with another base model (fingerprint {found.base})")
    if problems:
        raise ConfigError(problems)
    return found


def write_start(directory: Path, state: Mapping[str, Tensor]) -> None:
    """The state that the run starts from, which its result is compared with."""
    _write(directory / START, state, {})


def read_start(directory: Path) -> dict[str, Tensor] | None:
    """What ``write_start`` wrote; None: nothing yet.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        return load_file(directory / START) if (directory / START).exists() else None
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"run.resume: {directory / START} can't be read ({type(error).__name__})") from None


def keep_metrics_before(directory: Path, round: int) -> None:
    """Drops the evaluations of this round and later ones from ``metrics.jsonl``, and a line that was cut off."""
    path = directory / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["round"] < round]
    write_whole(path, "".join(kept).encode(), durable=True, mode=USUAL)


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=metadata)
    write_whole(path, content, durable=True, mode=USUAL)
