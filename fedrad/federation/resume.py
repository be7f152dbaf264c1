"""What the server knows of its hospitals, as JSON in the run's checkpoint, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedrad.errors import ConfigError
from fedrad.federation.budget import BudgetMirror
from fedrad.federation.participants import Participant
from fedrad.federation.rounds import RoundOutcome, Rounds
from fedrad.privacy.accounting import Event
from fedrad.privacy.filter import Account
from fedrad.training.checkpoint import Checkpoint

_LOST = "the server was ended in this round, and a masked round is not repeated"


def record(rounds: Rounds) -> dict[str, Any]:
    """What ``restore`` needs. Every figure in it is public."""
    return {
        "declared": {hospital.site: hospital.declared_weight for hospital in rounds.federation.hospitals},
        "mirror": _mirror(rounds.budget),
        "own": _mirror(rounds.own),
        "noise": rounds.noise,
        "unconfirmed": sorted(rounds.unconfirmed),
        "exhausted": sorted(rounds.exhausted),
        "rounds": [[o.round, o.absent, o.bytes_down, o.bytes_up] for o in rounds.outcomes],
    }


def restore(rounds: Rounds, checkpoint: Checkpoint) -> None:
    """Puts rounds that have not begun where the checkpoint left them.

    A round that was under way and must not be repeated counts as one that every hospital missed. What it charged them
    is known when they answer the next.
    """
    known = checkpoint.hospitals
    rounds.state, rounds.memory = dict(checkpoint.state), dict(checkpoint.memory)
    rounds.budget, rounds.own = _mirrored(known["mirror"]), _mirrored(known["own"])
    rounds.noise = dict(known["noise"])
    rounds.unconfirmed, rounds.exhausted = frozenset(known["unconfirmed"]), set(known["exhausted"])
    rounds.outcomes += [RoundOutcome(number, (), absent, down, up) for number, absent, down, up in known["rounds"]]
    rounds.finished = checkpoint.passed
    if checkpoint.passed > checkpoint.round:
        sites = [hospital.site for hospital in rounds.participants(checkpoint.begun)]
        rounds.outcomes.append(RoundOutcome(checkpoint.begun, (), dict.fromkeys(sites, _LOST)))
        rounds.unconfirmed |= set(sites)


def refuse_other_hospitals(checkpoint: Checkpoint, hospitals: tuple[Participant, ...]) -> None:
    """A run goes on with the hospitals that it began with, under what they declared then.

    Raises:
        ConfigError: naming those that declare another size.
    """
    declared = checkpoint.hospitals["declared"]
    if other := [h.site for h in hospitals if declared.get(h.site) != h.declared_weight]:
        raise ConfigError(
            f"run.resume: {', '.join(other)} declares another size than when the run began; set it back, or start"
            " another run"
        )


def _mirror(mirror: BudgetMirror) -> dict[str, Any]:
    return {
        site: [mirror.booked[site], [list(event) for event in account.events], account.rule, account.order]
        for site, account in mirror.charges.items()
    }


def _mirrored(known: Mapping[str, Any]) -> BudgetMirror:
    return BudgetMirror(
        {site: epsilon for site, (epsilon, *_) in known.items()},
        {
            site: Account(tuple(Event(*event) for event in events), rule, order)
            for site, (_, events, rule, order) in known.items()
        },
    )
