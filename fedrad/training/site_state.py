"""What a site keeps between the rounds of a run, in one file that is replaced atomically.

``training.site`` decides what may be in it, and which later round may use it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from fedrad.errors import LedgerError
from fedrad.files import partial_of, whole_file

STATE_FILE = "round.safetensors"

# How an answer leaves a hospital: readable by the server; under the masks of secure aggregation, with all of its noise;
# under them with a share of its noise.
Left = Literal["clear", "masked", "shared"]


@dataclass(frozen=True)
class Saved:
    """The site after a round.

    Attributes:
        run, round: which round it was.
        left: how its answer left.
        bound: digest of the settings and the plan under which the run is (``site.OpenedRound.bound``).
        asked: digest of the adapter that the server sent.
        step: noisy steps taken so far in this run.
        averaged: how many iterates ``average_sum`` adds up.
        moments, average_sum: as in ``TrainingState``; empty unless ``left`` is "clear".
        reply: the answer, for a retry; empty unless ``left`` is "clear".
    """

    run: str
    round: int
    left: Left
    bound: str
    asked: str
    step: int
    averaged: int
    moments: dict[str, Tensor]
    average_sum: dict[str, Tensor]
    reply: dict[str, Tensor]


def save_state(directory: Path, saved: Saved, *, durable: bool) -> None:
    """Puts this state in the place of the former one.

    Args:
        durable: wait for the disk; not needed for a simulated site.
    """
    path = directory / STATE_FILE
    groups = {"moments": saved.moments, "average": saved.average_sum, "reply": saved.reply}
    tensors = {
        f"{group}/{name}": tensor.detach().contiguous().numpy()
        for group, named in groups.items()
        for name, tensor in named.items()
    }
    metadata = {
        "run": saved.run,
        "round": str(saved.round),
        "left": saved.left,
        "bound": saved.bound,
        "request": saved.asked,
        "step": str(saved.step),
        "averaged": str(saved.averaged),
    }
    # Moments and sums are functions of noised gradients, but a hospital's own files are nobody else's to read (P28).
    with whole_file(path, durable=durable) as file:
        # Through numpy: a simulation writes and reads hundreds of these in a round, and that takes a third of the time.
        file.write(save(tensors, metadata=metadata))
        if not durable:
            # Linux's ext4 writes a file to the disk as soon as it replaces another one, which costs a simulation more
            # than all the rest here. So nothing is replaced; after a kill in between, `load_state` finds the new file.
            file.flush()
            path.unlink(missing_ok=True)


def load_state(directory: Path, *, durable: bool) -> Saved | None:
    """The state after the site's last round; None: there was none.

    Args:
        durable: as for ``save_state``.

    Raises:
        LedgerError: the file is damaged, or an earlier version of fedrad wrote it.
    """
    path = directory / STATE_FILE
    if not path.exists():
        if durable or not _whole(partial_of(path)):
            return None
        partial_of(path).replace(path)
    groups: dict[str, dict[str, Tensor]] = {"moments": {}, "average": {}, "reply": {}}
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            for key in file.keys():
                group, _, name = key.partition("/")
                groups[group][name] = torch.from_numpy(file.get_tensor(key))
        if metadata["left"] not in get_args(Left):
            raise ValueError(metadata["left"])
        return Saved(
            run=metadata["run"],
            round=int(metadata["round"]),
            left=cast(Left, metadata["left"]),
            bound=metadata["bound"],
            asked=metadata["request"],
            step=int(metadata["step"]),
            averaged=int(metadata["averaged"]),
            moments=groups["moments"],
            average_sum=groups["average"],
            reply=groups["reply"],
        )
    except (KeyError, ValueError, OSError, SafetensorError) as error:
        raise LedgerError(
            f"{path} can't be read ({type(error).__name__}). Restore it from a backup together with the ledger, or"
            " remove it: the ledger keeps the budget, the site's optimizer state starts anew."
        ) from None


def _whole(path: Path) -> bool:
    """Whether there is such a file and it has its whole length."""
    try:
        with safe_open(path, framework="np"):
            return True
    except (OSError, SafetensorError):
        return False


def adapter_digest(adapter: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(adapter):
        tensor = adapter[name].detach().contiguous()
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
