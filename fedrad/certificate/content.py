"""What a certificate says, as plain values, all of it public: of what a hospital has, only its ledger is read.

Nothing goes in that may not leave a hospital anyway (docs/design.md, decisions 5 and 6): plans, charges, epsilon, the
declared size, digests. No actual count, no score, no cap, no path, and no time: when a round ended is what
``answer-every`` hides. The ledger's head covers its times, but the random number among its founding facts keeps a guess
at them from being tested.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fedrad.certificate.words import statement
from fedrad.errors import CertificateError
from fedrad.ledger.chain import LedgerView, canonical
from fedrad.privacy.accounting import SMALLEST_DELTA, Event, merged

Kind = Literal["hospital", "centralized", "simulation"]
VERSION = 1
_DELTAS = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
NOISE = {"system": "from the operating system", "seeded": "simulation only: protects nobody"}


def content_of(
    view: LedgerView,
    *,
    kind: Kind,
    size_stated: bool,
    configuration: str,
    code: Mapping[str, Any],
    weights: Mapping[str, str] | None,
    sent: tuple[str | None, str | None],
    audits: Sequence[Mapping[str, Any]],
    texts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of a site's certificate.

    Args:
        view: its ledger, with a charge or more.
        size_stated: whether the declared size is a public statement; else it was rounded from the actual one.
        configuration: ``Experiment.digest`` of the last run.
        weights: digests of the final adapter's files; None: the site does not know it.
        sent: digest of what it sent last, and how that left (``digests.answer_in``).
        audits: what audits of the run found.
        texts: of privatised texts (``training.privatised.draws_in``); None: there were none.

    Raises:
        CertificateError: nothing was charged, or the charges count different units.
    """
    said: dict[str, Any] = {
        "version": VERSION,
        "kind": kind,
        "site": view.site,
        "size_stated": size_stated,
        **charged(view),
        "adapter": {"weights": None if weights is None else dict(weights), "sent": sent[0], "left": sent[1]},
        "configuration": configuration,
        "code": dict(code),
        "audits": [dict(audit) for audit in audits],
    }
    if texts is not None:
        said["texts"] = dict(texts)
    return said | {"statement": statement(said)}


def charged(view: LedgerView) -> dict[str, Any]:
    """The part that a ledger decides by itself.

    Raises:
        CertificateError: as ``content_of``.
    """
    if not view.rows:
        raise CertificateError(f"the ledger of {view.site!r} has no charge, so there is nothing to certify")
    if len(view.units) > 1:
        raise CertificateError(f"the ledger of {view.site!r} counts {' and '.join(view.units)}: no epsilon is for both")
    account = view.account
    steps, counts = Counter[str](), Counter[str](row.plan for row in view.rows)
    for row in view.rows:
        steps[row.plan] += row.steps
    plans = [json.loads(text) for text in counts]
    return {
        "guarantee": {
            "private": math.isfinite(account.epsilon(view.delta)),
            "epsilon": _finite(account.epsilon(view.delta)),
            "delta": view.delta,
            "unit": view.units[0],
            "relation": plans[0]["relation"],
            "curve": [
                {"delta": delta, "epsilon": _finite(account.epsilon(delta))} for delta in deltas(plans, view.delta)
            ],
            "rule": account.rule,
            "order": account.order,
            "noise": noise_of(plans),
            "only_in_sums_of": only_in_sums_of(plans),
        },
        "events": [event._asdict() for event in account.events],
        "plans": [
            {"id": plan_id(text), "charges": counts[text], "charged_steps": steps[text], "fields": _storable(plan)}
            for text, plan in zip(counts, plans, strict=True)
        ],
        "ledger": {"head": view.head, "charges": len(view.rows), "trials": len(view.runs)},
    }


def deltas(plans: Sequence[Mapping[str, Any]], own: float) -> list[float]:
    """Where the curve is stated: the ledger's own delta, and those that are below 1 / declared size."""
    largest = min(1 / plan["declared_size"] for plan in plans)
    return sorted({own, *(delta for delta in _DELTAS if SMALLEST_DELTA <= delta < largest)}, reverse=True)


def noise_of(plans: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Where the noise came from: one seeded plan is enough."""
    source = "system" if all(plan["noise"] == "system" for plan in plans) else "seeded"
    return {"source": source, "meaning": NOISE[source]}


def only_in_sums_of(plans: Sequence[Mapping[str, Any]]) -> int | None:
    """Of how many hospitals' sums the guarantee speaks where they share their noise; None: of everything."""
    quorums = [plan["shared"]["quorum"] for plan in plans if plan["shared"] is not None]
    return max(quorums) if quorums else None


def plan_id(text: str) -> str:
    """``PrivacyPlan.id`` of a plan as JSON."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plan_text(fields: Mapping[str, Any]) -> str:
    """The plan's JSON again, from the fields in a certificate."""
    return canonical({**fields, "clip": math.inf if fields["clip"] is None else fields["clip"]})


def events_of(content: Mapping[str, Any]) -> tuple[Event, ...]:
    """What the plans of a certificate say was charged."""
    return merged(
        Event(
            plan["fields"]["expected_batch"] / plan["fields"]["declared_size"],
            float(plan["fields"]["noise_multiplier"]),
            plan["charged_steps"],
        )
        for plan in content["plans"]
    )


def _storable(plan: dict[str, Any]) -> dict[str, Any]:
    return {**plan, "clip": _finite(plan["clip"])}


def _finite(value: float) -> float | None:
    """JSON has no infinity: what has no finite epsilon, or no clip norm, has ``null``."""
    return value if math.isfinite(value) else None
