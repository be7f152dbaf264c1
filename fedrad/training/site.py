"""One round at one site, durable: charge the ledger, train, keep the state, answer. Never the same steps twice free.

Order of writes: (1) the ledger's intent for all K steps, synced to disk; (2) the noisy steps; (3) state and reply in
one file, replaced atomically. A crash between (1) and (3) has been charged and is charged again if the round is
retried; a retry after (3) gets the stored bytes and costs nothing, because nothing new is released. A simulated site,
whose ledger is not durable, keeps the order and does not wait for the disk.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from fedrad.errors import FederationError, LedgerError, PrivacyError
from fedrad.model.encoder import ReportClassifier
from fedrad.privacy.durable import sync_folder
from fedrad.privacy.ledger import Ledger
from fedrad.privacy.noise_share import SharedNoiseTerms
from fedrad.privacy.plan import PrivacyPlan
from fedrad.secure.fixed_point import DEFAULT_BOUND
from fedrad.secure.rounding import check_covered, check_start
from fedrad.training.inputs import Inputs
from fedrad.training.local import LORA_SHARE, Recipe, StepReport, TrainingState, run_steps
from fedrad.training.strategy import Strategy

_STATE_FILE = "round.safetensors"


@dataclass(frozen=True)
class RoundRequest:
    """What a server asks of a site. All of it is public.

    Attributes:
        run: names the run; a site answers a (run, round) once.
        round: counted from 1.
        steps: noisy steps in this round.
        last: the run's last round: answer with the mean of the averaged iterates.
        turns: which tensors the steps train, as for ``run_steps``; none: all of them.
        keeps_moments: the optimizer's moments of earlier rounds still mean something.
        keeps_average: so do the iterates of earlier rounds; otherwise this round's alone are averaged.
        masked: the answer leaves under the masks of secure aggregation and in no other way. It is not kept for a retry,
            and the round is not repeated.
    """

    run: str
    round: int
    steps: int
    last: bool
    turns: tuple[frozenset[str], ...] = ()
    keeps_moments: bool = True
    keeps_average: bool = True
    masked: bool = False

    @staticmethod
    def of(strategy: Strategy, names: Collection[str], *, run: str, round: int, steps: int, last: bool) -> RoundRequest:
        """The round as a strategy wants it; ``names`` are all tensors that may be trained."""
        return RoundRequest(
            run=run,
            round=round,
            steps=steps,
            last=last,
            turns=strategy.turns(names, round),
            keeps_moments=strategy.keeps_moments,
            keeps_average=strategy.keeps_average,
        )

    def sent(self, adapter: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is answered: the tensors that some step trained."""
        return {n: t for n, t in adapter.items() if not self.turns or any(n in turn for turn in self.turns)}


@dataclass(frozen=True)
class Site:
    """A hospital with its shard, ready to train. ``directory`` holds its ledger and its state between rounds."""

    name: str
    directory: Path
    classifier: ReportClassifier
    inputs: Inputs
    plan: PrivacyPlan
    recipe: Recipe


def train_round(
    site: Site,
    ledger: Ledger,
    request: RoundRequest,
    incoming: Mapping[str, Tensor],
    on_step: Callable[[StepReport], None] | None = None,
) -> dict[str, Tensor]:
    """Answers one round: those of the site's tensors that it trained, noised.

    Args:
        incoming: the trainable tensors that the server sent, checked by the caller.

    Raises:
        BudgetExhausted: the ledger has no room for the round; nothing was trained or written.
        FederationError: the request is out of order, or repeats a round with another adapter, or one whose answer left
            masked.
        PrivacyError: the plan's noise is shared, but the answer would not leave masked.
        SecureAggregationRefusal: the answer must leave masked, but what was sent is too large for the sum, or for
            shared noise to survive rounding (``secure.rounding``). Nothing was charged or trained.
        LedgerError: the ledger can't be trusted or written.
    """
    opened = open_round(site.directory, ledger, request, site.plan, incoming)
    if opened.answer is not None:
        return opened.answer
    after = run_steps(
        site.classifier,
        site.inputs,
        site.plan,
        site.recipe,
        opened.before,
        request.steps,
        site=site.name,
        turns=request.turns,
        on_step=on_step,
    )
    return close_round(site.directory, ledger, request, opened, after)


@dataclass(frozen=True)
class OpenedRound:
    """A round that is charged and may be trained, or one that was answered before.

    Attributes:
        before: the state to start from.
        asked: digest of the adapter that the server sent.
        sequence: the ledger's number of the intent.
        answer: what was answered before; nothing is trained then.
    """

    before: TrainingState
    asked: str
    sequence: int
    answer: dict[str, Tensor] | None = None


def open_round(
    directory: Path, ledger: Ledger, request: RoundRequest, plan: PrivacyPlan, incoming: Mapping[str, Tensor]
) -> OpenedRound:
    """Charges the ledger for all steps of the round, before the first of them; or finds the answer given before.

    Raises: as ``train_round``.
    """
    opened = judge_round(directory, ledger, request, plan, incoming)
    if opened.answer is not None:
        return opened
    sequence = ledger.record_intent(run=request.run, round=request.round, plan=plan, steps=request.steps)
    return replace(opened, sequence=sequence)


def judge_round(
    directory: Path, ledger: Ledger, request: RoundRequest, plan: PrivacyPlan, incoming: Mapping[str, Tensor]
) -> OpenedRound:
    """All that could refuse the round, from public values alone: a real hospital asks before it reads a report.

    Nothing is charged or written; what it returns has no sequence number yet.

    Raises: as ``train_round``.
    """
    if plan.shared is not None and not (request.masked and request.steps == 1):
        raise PrivacyError("A plan with shared noise is for one step, whose result leaves masked.")
    if request.masked:
        _check_maskable(plan, request.sent(incoming))
    asked = adapter_digest(incoming)
    before = TrainingState(dict(incoming))
    saved = _load(directory / _STATE_FILE, durable=ledger.durable)
    if saved is not None and saved.run == request.run:
        if saved.round == request.round:
            if saved.request != asked:
                raise FederationError(f"round {request.round} was already answered for another adapter")
            if request.masked or not saved.reply:
                raise FederationError(f"round {request.round} was answered under secure aggregation: never twice")
            return OpenedRound(before, asked, -1, saved.reply)
        if request.round < saved.round:
            raise FederationError(f"round {request.round} comes after round {saved.round} was answered")
        # Shared noise is in one sum once. With no averaging planned, iterates of rounds after the last one that was
        # planned would still be averaged, and a server may ask for more rounds.
        again = plan.shared is None
        before = replace(
            before,
            step=saved.step,
            moments=saved.moments if request.keeps_moments and again else {},
            average_sum=saved.average_sum if request.keeps_average and again else {},
            averaged=saved.averaged if request.keeps_average and again else 0,
        )
        odd = [
            key
            for key, value in before.moments.items()
            if value.dim() and (name := key.rpartition("|")[0]) in incoming and value.shape != incoming[name].shape
        ]
        if odd:
            raise FederationError(f"the adapter has other shapes than in earlier rounds of this run ({odd[0]})")
    ledger.check_room(plan, request.steps)
    return OpenedRound(before, asked, -1)


def step_scales(terms: SharedNoiseTerms, names: Collection[str]) -> dict[str, float]:
    """Learning rate x clip / divisor of each tensor by ``torch_optimizer``, under which the head has the whole rate."""
    scale = terms.step_scales[0]
    return {name: scale if name.startswith("head.") else LORA_SHARE * scale for name in names}


def _check_maskable(plan: PrivacyPlan, sent: Mapping[str, Tensor]) -> None:
    """Whether what comes of these public tensors stays in the range of a sum and keeps the hospital's noise."""
    check_start(sent, DEFAULT_BOUND)
    if plan.shared is not None:
        scales = step_scales(plan.shared, sent)
        check_covered(sent, scales, plan.own_noise_multiplier, plan.divisor, DEFAULT_BOUND)


def close_round(
    directory: Path, ledger: Ledger, request: RoundRequest, opened: OpenedRound, after: TrainingState
) -> dict[str, Tensor]:
    """Keeps state and answer, so that a retry costs nothing, and returns the answer.

    One that must leave masked isn't kept: no later request, whatever it claims, can get it in clear.
    """
    reply = request.sent(after.result() if request.last else after.adapter)
    kept = {} if request.masked else reply
    _save(directory / _STATE_FILE, request, opened.asked, after, kept, durable=ledger.durable)
    ledger.mark_done(opened.sequence)
    return reply


def adapter_digest(adapter: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(adapter):
        tensor = adapter[name].detach().contiguous()
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Saved:
    run: str
    round: int
    request: str
    step: int
    averaged: int
    moments: dict[str, Tensor]
    average_sum: dict[str, Tensor]
    reply: dict[str, Tensor]


def _save(
    path: Path, request: RoundRequest, asked: str, state: TrainingState, reply: Mapping[str, Tensor], *, durable: bool
) -> None:
    groups = {"moments": state.moments, "average": state.average_sum, "reply": reply}
    tensors = {
        f"{group}/{name}": tensor.detach().contiguous().numpy()
        for group, named in groups.items()
        for name, tensor in named.items()
    }
    metadata = {
        "run": request.run,
        "round": str(request.round),
        "request": asked,
        "step": str(state.step),
        "averaged": str(state.averaged),
    }
    partial = _partial(path)
    # Moments and sums are functions of noised gradients, but a hospital's own files are nobody else's to read (P28).
    partial.unlink(missing_ok=True)
    # Through numpy: a simulation writes and reads hundreds of these in a round, and that takes a third of the time.
    with os.fdopen(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(save(tensors, metadata=metadata))
        if durable:
            file.flush()
            os.fsync(file.fileno())
    if not durable:
        # Linux's ext4 writes a file to the disk as soon as it replaces another one, which costs a simulation more than
        # all the rest here. So nothing is replaced; after a kill in between, `_load` finds the new file.
        path.unlink(missing_ok=True)
    partial.replace(path)
    if durable:
        sync_folder(path.parent)


def _partial(path: Path) -> Path:
    return path.with_suffix(".partial")


def _load(path: Path, *, durable: bool) -> _Saved | None:
    if not path.exists():
        if durable or not _whole(_partial(path)):
            return None
        _partial(path).replace(path)
    groups: dict[str, dict[str, Tensor]] = {"moments": {}, "average": {}, "reply": {}}
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            for key in file.keys():
                group, _, name = key.partition("/")
                groups[group][name] = torch.from_numpy(file.get_tensor(key))
        return _Saved(
            run=metadata["run"],
            round=int(metadata["round"]),
            request=metadata["request"],
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
