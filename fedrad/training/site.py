"""One round at one site, durable: charge the ledger, train, keep the state, answer. Never the same steps twice free.

Order of writes: (1) the ledger's intent for all K steps, with a digest of the request, synced to disk; (2) the noisy
steps; (3) state and reply in one file, replaced atomically; (4) a note in the ledger (and its witness) that the reply
may leave. The reply leaves after (4). A simulated site, whose ledger is not durable, keeps the order and does not wait
for the disk.

Guarantee:
    One charge pays for one reply. After (3) a retry gets the stored bytes. Between (1) and (3) nothing has left the
    site, and no (4) says otherwise, so the same request (run, round, settings, plan and every bit of the adapter that
    was sent) takes its steps again, with fresh noise, for the charge of (1). Whatever differs is charged anew: another
    adapter, and the same request after its reply may have left but was lost with the site's files. A server that
    claims to resume gets no second reply for a charge, whatever it sends.
    Of a round whose answer left masked (with all of the site's noise, or with a share of it) nothing is kept but its
    number: no answer, no moments, no averages. So no later answer, in whatever form, contains anything of that round
    but what the server sent. This protects an adapter that was summed from a server that asks differently afterwards:
    in clear, or in a sum over other survivors, from which the first sum could be subtracted. A site can't make that
    depend on the survivors: who is in the next sum is known only after its own answer is masked. It costs momentum and
    averages across rounds.
    What a round in clear leaves behind (moments, averages, the answer) is a function of public values and of noisy
    steps, each of which is charged with all of its noise; a later answer that uses it is post-processing, in any form.
    (With the hospital as the unit these steps have no noise: the server is trusted.)
    Within a run nothing changes from round to round but the round's number, the adapter that is sent and who is asked:
    the state is bound to a digest of all other settings and of the plan, and a round under others, or beyond the
    plan's last step, is refused before it is charged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from torch import Tensor

from fedrad.errors import FederationError, PrivacyError
from fedrad.ledger.ledger import Ledger
from fedrad.model.encoder import ReportClassifier
from fedrad.privacy.plan import PrivacyPlan
from fedrad.secure.fixed_point import DEFAULT_BOUND
from fedrad.secure.rounding import check_covered, check_start
from fedrad.training.inputs import Inputs
from fedrad.training.local import StepReport, TrainingState, run_steps
from fedrad.training.recipe import Recipe, step_scales
from fedrad.training.site_state import Left, Saved, adapter_digest, load_state, save_state
from fedrad.training.strategy import Strategy


@dataclass(frozen=True)
class RoundRequest:
    """What a server asks of a site. All of it is public.

    Attributes:
        run: names the run; a site answers a (run, round) once.
        round: counted from 1.
        steps: noisy steps in this round.
        last: the run's last round: answer with the mean of the averaged iterates.
        blocks: which tensors the steps train, as for ``run_steps``; none: all of them.
        keeps_moments: the optimizer's moments of earlier rounds still mean something.
        keeps_average: so do the iterates of earlier rounds; otherwise this round's alone are averaged.
        masked: the answer leaves under the masks of secure aggregation and in no other way. Nothing of it is kept, and
            the round is not repeated.
        settings: digest of all that must be the same in every round of the run: the whole configuration.
    """

    run: str
    round: int
    steps: int
    last: bool
    blocks: tuple[frozenset[str], ...] = ()
    keeps_moments: bool = True
    keeps_average: bool = True
    masked: bool = False
    settings: str = ""

    @staticmethod
    def of(
        strategy: Strategy, names: Collection[str], *, run: str, round: int, steps: int, last: bool, settings: str
    ) -> RoundRequest:
        """The round as a strategy wants it; ``names`` are all tensors that may be trained."""
        return RoundRequest(
            run=run,
            round=round,
            steps=steps,
            last=last,
            blocks=strategy.blocks(names, round),
            keeps_moments=strategy.keeps_moments,
            keeps_average=strategy.keeps_average,
            settings=settings,
        )

    def sent(self, adapter: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is answered: the tensors that some step trained."""
        return {n: t for n, t in adapter.items() if not self.blocks or any(n in block for block in self.blocks)}


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
        FederationError: the request is out of order or beyond the plan, under other settings than earlier rounds of the
            run, or repeats a round with another adapter, or one whose answer left masked.
        PrivacyError: the plan's noise is shared, but the answer would not leave masked.
        SecureAggregationRefusal: the answer must leave masked, but what was sent is too large for the sum, or for
            shared noise to survive rounding (``secure.rounding``). Nothing was charged or trained.
        LedgerError: the ledger can't be trusted or written.
    """
    opened = open_round(site.directory, ledger, request, site.plan, incoming)
    if opened.answer is not None:
        return opened.answer
    after = run_steps(
        site.inputs,
        site.plan,
        site.recipe,
        opened.before,
        request.steps,
        site=site.name,
        blocks=request.blocks,
        on_step=on_step,
    )
    return close_round(site.directory, ledger, request, opened, after)


class Charge(TypedDict):
    # The arguments of ``Ledger.record_intent`` and ``Ledger.unanswered``.
    run: str
    round: int
    plan: PrivacyPlan
    steps: int
    request: str


@dataclass(frozen=True)
class OpenedRound:
    """A round that is charged and may be trained, or one that was answered before.

    Attributes:
        before: the state to start from.
        asked: digest of the adapter that the server sent.
        left: how the answer will leave.
        bound: digest of the settings and the plan, to which what is kept of the round is bound.
        sequence: the ledger's number of the intent.
        answer: what was answered before; nothing is trained then.
    """

    before: TrainingState
    asked: str
    left: Left
    bound: str
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
        last = ledger.view.rows[-1:]
        if last and (last[0].run, last[0].round) == (request.run, request.round) and ledger.answered < last[0].seq:
            ledger.mark_done(last[0].seq)  # it was stored, and the process ended before this was noted
        return opened
    charge = _charge(request, plan, opened)
    return replace(opened, sequence=ledger.unanswered(**charge) or ledger.record_intent(**charge))


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
    if not request.steps <= request.round * request.steps <= plan.steps:
        raise FederationError(
            f"round {request.round} is none of the run's, whose plan is for {plan.steps} steps in all"
        )
    before, left = TrainingState(dict(incoming)), _left(request, plan)
    opened = OpenedRound(before, adapter_digest(incoming), left, _bound(request, plan), sequence=-1)
    saved = load_state(directory, durable=ledger.durable)
    if saved is not None and saved.run == request.run:
        if (saved.left, saved.bound) != (left, opened.bound):
            raise FederationError(
                f"round {request.round} would leave {left}, round {saved.round} of this run left {saved.left}; or the"
                " configuration or this hospital's plan has changed since. None of that may change in a run: start"
                " another one"
            )
        if saved.round == request.round:
            if saved.asked != opened.asked:
                raise FederationError(f"round {request.round} was already answered for another adapter")
            if left != "clear":
                raise FederationError(f"round {request.round} was answered under secure aggregation: never twice")
            return replace(opened, answer=saved.reply)
        if request.round < saved.round:
            raise FederationError(f"round {request.round} comes after round {saved.round} was answered")
        before = replace(
            before,
            step=saved.step,
            moments=saved.moments if request.keeps_moments else {},
            average_sum=saved.average_sum if request.keeps_average else {},
            averaged=saved.averaged if request.keeps_average else 0,
        )
        odd = [
            key
            for key, value in before.moments.items()
            if value.dim() and (name := key.rpartition("|")[0]) in incoming and value.shape != incoming[name].shape
        ]
        if odd:
            raise FederationError(f"the adapter has other shapes than in earlier rounds of this run ({odd[0]})")
    if not ledger.unanswered(**_charge(request, plan, opened)):
        ledger.check_room(plan, request.steps)
    return replace(opened, before=before)


def _charge(request: RoundRequest, plan: PrivacyPlan, opened: OpenedRound) -> Charge:
    """What the ledger is charged for. Of a round that leaves masked the ledger knows no digest, so it never offers the
    same charge again: a round of secure aggregation is not repeated."""
    asked = hashlib.sha256(f"{opened.asked}|{opened.bound}".encode()).hexdigest() if opened.left == "clear" else ""
    return Charge(run=request.run, round=request.round, plan=plan, steps=request.steps, request=asked)


def _left(request: RoundRequest, plan: PrivacyPlan) -> Left:
    if plan.shared is not None:
        return "shared"
    return "masked" if request.masked else "clear"


def _bound(request: RoundRequest, plan: PrivacyPlan) -> str:
    """SHA-256 (hex) of all that may not change within a run; the form in which answers leave is compared beside it."""
    return hashlib.sha256(f"{request.settings}|{plan.id}|{request.steps}".encode()).hexdigest()


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

    Of one that must leave masked nothing is kept but that it was given: see the module's guarantee.
    """
    if ledger.answered >= opened.sequence:
        raise FederationError(f"another process has answered round {request.round} meanwhile")
    reply = request.sent(after.result() if request.last else after.adapter)
    clear = opened.left == "clear"
    kept = Saved(
        run=request.run,
        round=request.round,
        left=opened.left,
        bound=opened.bound,
        asked=opened.asked,
        step=after.step,
        averaged=after.averaged if clear else 0,
        moments=after.moments if clear else {},
        average_sum=after.average_sum if clear else {},
        reply=reply if clear else {},
    )
    save_state(directory, kept, durable=ledger.durable)
    ledger.mark_done(opened.sequence)
    return reply
