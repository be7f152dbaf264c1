"""Delta encoding of what the server sends: only the tensors that changed since the state that the hospital has.

A frozen factor is the same in all rounds, so it travels once; a residual grows by the newest factors. The server knows
what each hospital has from its last valid answer. The hospital checks the whole against a digest. If it lacks the state
that the delta builds on, it says so, and the server sends everything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fedrad.errors import StateMissing
from fedrad.files import private_folder, write_whole
from fedrad.training.site_state import adapter_digest


@dataclass(frozen=True)
class StateDelta:
    """A state as it travels.

    Attributes:
        base: digest of the state that the hospital has and this builds on; empty: on nothing.
        digest: of the whole new state.
        tensors: what is new or has changed.
        dropped: names that the new state has no more.
    """

    base: str
    digest: str
    tensors: Mapping[str, Tensor]
    dropped: tuple[str, ...] = ()


def delta_of(state: Mapping[str, Tensor], base: Mapping[str, Tensor] | None = None, known: str = "") -> StateDelta:
    """What must be sent so that a hospital that has ``base`` (with digest ``known``) has ``state``."""
    before = base or {}
    changed = {n: t for n, t in state.items() if n not in before or not _same(t, before[n])}
    dropped = tuple(sorted(before.keys() - state.keys()))
    return StateDelta(known if before else "", adapter_digest(state), changed, dropped)


def _same(left: Tensor, right: Tensor) -> bool:
    # Bits, not values: -0.0 is not 0.0 here, and the digest would tell.
    return left.shape == right.shape and left.dtype == right.dtype and left.numpy().tobytes() == right.numpy().tobytes()


@dataclass(frozen=True)
class PublicStore:
    """The last few states that were received, each in a file named by its digest. All of it is public.

    Attributes:
        folder: a hospital's own, or one for all simulated hospitals of a run, which get the same states.
        kept: how many; a reply that is lost leaves the server one state behind. None: all of them, where some of the
            hospitals may have sat out many rounds.
    """

    folder: Path
    kept: int | None = 4

    def receive(self, sent: StateDelta) -> dict[str, Tensor]:
        """The whole state that was meant. Nothing is written: ``keep`` it when it has been found to fit.

        Raises:
            StateMissing: the state it builds on is not here, or the result is not the one that was meant.
        """
        before = self._read(sent.base) if sent.base else {}
        state = {name: tensor for name, tensor in before.items() if name not in sent.dropped} | dict(sent.tensors)
        if adapter_digest(state) != sent.digest:
            raise StateMissing("the state that arrived is not the one that the server meant; it must be sent whole")
        return state

    def _read(self, digest: str) -> dict[str, Tensor]:
        try:
            return load_file(self._file(digest))
        except (OSError, SafetensorError):
            raise StateMissing("the state that the server builds on is not here; it must be sent whole") from None

    def keep(self, digest: str, state: Mapping[str, Tensor]) -> None:
        """Keeps what ``receive`` returned, for deltas that build on it."""
        file = self._file(digest)
        if file.is_file():
            os.utime(file)  # the newest again
            return
        private_folder(self.folder)
        content = save({name: tensor.contiguous() for name, tensor in state.items()})
        write_whole(file, content, durable=False, shared=True)
        if self.kept is not None:
            files = sorted(self.folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
            for old in files[: -self.kept]:
                old.unlink(missing_ok=True)

    def _file(self, digest: str) -> Path:
        if len(digest) != 64 or not digest.isalnum():
            raise StateMissing("what the server calls a state is no digest")
        return self.folder / f"{digest}.safetensors"


@dataclass
class SentStates:
    """The server's memory of who has which state."""

    states: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)
    _sent: dict[str, str] = field(default_factory=dict)
    _made: list[tuple[Mapping[str, Tensor], StateDelta]] = field(default_factory=list)

    def to(self, site: str, state: Mapping[str, Tensor]) -> StateDelta:
        """What to send to a site so that it has ``state``."""
        known = self.known.get(site, "") if self.known.get(site, "") in self.states else ""
        # Most hospitals of a round have and get the same: what was made for one is right for the next.
        made = [sent for earlier, sent in self._made if earlier is state and sent.base == known]
        sent = made[0] if made else delta_of(state, self.states.get(known), known)
        if not made:
            self._made = [*self._made[-3:], (state, sent)]
        self.states.setdefault(sent.digest, dict(state))
        self._sent[site] = sent.digest
        return sent

    def arrived(self, site: str) -> None:
        """The site has answered, so it has what was sent to it."""
        self.known[site] = self._sent[site]
        held = set(self.known.values()) | set(self._sent.values())
        self.states = {digest: state for digest, state in self.states.items() if digest in held}

    def lost(self, site: str) -> None:
        """The site says that it lacks what was built on."""
        self.known.pop(site, None)


def nbytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of these tensors, without Flower's framing."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
