"""Checking a certificate: each claim against what it follows from, each digest against what lies in reach.

Guarantee:
    Without a pinned key a passed check says: the figures follow from the charges that the certificate names, and what
    was in reach (ledger, adapter, configuration, code) is what it names. With the hospital's key pinned it says that
    the hospital named these charges. That it took no other steps on its reports, no check from outside can show.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from fedrad.certificate import reach
from fedrad.certificate.content import deltas, events_of, noise_of, only_in_sums_of, plan_id, plan_text
from fedrad.certificate.digests import code
from fedrad.certificate.envelope import Envelope, opened, pinned_key
from fedrad.certificate.finding import Finding, failed, passed, unchecked
from fedrad.certificate.recompute import figure_trouble, least_epsilon
from fedrad.certificate.words import account_in, statement
from fedrad.errors import CertificateError, ConfigError, PlanError, PrivacyError
from fedrad.privacy.filter import FILTER, MECHANISM, PLAN
from fedrad.privatise.budgets import Choice
from fedrad.privatise.local import figures


def read(file: Path) -> tuple[Envelope, dict[str, Any]]:
    """A certificate that has the form of one; nothing of what it says is checked.

    Raises:
        CertificateError: it has not, or can't be read.
    """
    from jsonschema import Draft202012Validator  # takes a moment

    try:
        outer = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CertificateError(f"{file} can't be read as a certificate ({type(error).__name__})") from None
    whole = schema()
    inner = whole["$defs"]["content"]
    if trouble := _trouble(Draft202012Validator(whole), outer):
        raise CertificateError(f"{file} breaks the schema: {trouble}")
    envelope, content = opened(outer)
    if trouble := _trouble(Draft202012Validator(inner), content):
        raise CertificateError(f"{file} breaks the schema: {trouble}")
    return envelope, content


def schema() -> dict[str, Any]:
    """The JSON Schema of certificates."""
    found: dict[str, Any] = json.loads(files("fedrad.certificate").joinpath("schema.json").read_text(encoding="utf-8"))
    return found


def verify(file: Path, *, run: Path | None = None, key: str = "") -> list[Finding]:
    """All checks of a certificate.

    Args:
        run: the run directory, or the hospital's state directory, with what the digests are of; None: the folder of
            ``file``, as far as it holds any of it.
        key: the signer's public key, in hexadecimal, or a file with it; empty: nobody is pinned.

    Raises:
        CertificateError: it breaks the schema, or ``key`` is none.
    """
    envelope, content = read(file)
    pinned = pinned_key(key, content["site"]) if key else ""
    found = [_signature(envelope, pinned), *_consistency(content), *_figures(content), *_words_and_code(content)]
    return [*found, *reach.findings(content, file.parent if run is None else run, named=run is not None)]


def _signature(envelope: Envelope, pinned: str) -> Finding:
    if not envelope.signed:
        return failed("signature", "it does not belong to this content, which was changed after it was signed")
    if pinned and envelope.key != pinned:
        return failed("signature", f"signed by {envelope.key}, which is not the key that you pinned")
    who = "the key that you pinned" if pinned else f"{envelope.key}, which you did not pin"
    return passed("signature", f"signed by {who}")


def _consistency(content: Mapping[str, Any]) -> Iterator[Finding]:
    """What the certificate says twice."""
    guarantee, plans = content["guarantee"], [plan["fields"] for plan in content["plans"]]
    for number, plan in enumerate(content["plans"], start=1):
        if plan_id(plan_text(plan["fields"])) != plan["id"]:
            yield failed("plans", f"plan {number} was changed: its id does not follow from its fields")
    units, noise = {plan["unit"] for plan in plans}, noise_of(plans)
    if units != {guarantee["unit"]}:
        yield failed("unit", f"it claims the unit {guarantee['unit']}, the plans {' and '.join(sorted(units))}")
    if guarantee["noise"] != noise:
        yield failed("noise source", f"it claims {guarantee['noise']['source']}, the plans {noise['source']}")
    if guarantee["only_in_sums_of"] != only_in_sums_of(plans):
        yield failed("shared noise", "what it says of sums is not what its plans say")
    account = account_in(content)
    if account.events != events_of(content):
        yield failed("events", "sampling rates, noise or steps are not those of its plans")
    charges = sum(plan["charges"] for plan in content["plans"])
    if charges != content["ledger"]["charges"] or content["ledger"]["trials"] > charges:
        yield failed("charges", f"its plans have {charges} charges, its ledger {content['ledger']['charges']}")
    if not all(_follows(drawn) for drawn in (content.get("texts") or {"draws": []})["draws"]):
        yield failed("texts", "the figures of privatised texts are not those of their profile, mechanism and epsilon")
    yield _rule(content)


def _follows(drawn: Mapping[str, Any]) -> bool:
    """Whether the figures of a draw of privatised texts are those of what it says was chosen."""
    try:
        choice = Choice(drawn["epsilon"], drawn["profile"], drawn["mechanism"])
    except ConfigError:
        return False
    return drawn == figures(choice, drawn["task"], drawn["noise"])


def _rule(content: Mapping[str, Any]) -> Finding:
    guarantee, plans = content["guarantee"], content["plans"]
    one_kind = len(content["events"]) == 1
    one_plan = one_kind and len({p["fields"]["steps"] for p in plans}) == 1
    within = sum(p["charged_steps"] for p in plans) <= min(p["fields"]["steps"] for p in plans)
    rule = guarantee["rule"]
    if (rule == PLAN and not (one_plan and within)) or (rule == MECHANISM and not one_kind):
        return failed("rule", f"'{rule}' does not hold for plans that could be chosen one after another")
    if (rule == FILTER) != (guarantee["order"] > 0):
        return failed("rule", f"order {guarantee['order']} is none of '{rule}'")
    return passed("rule", rule)


def _figures(content: Mapping[str, Any]) -> Iterator[Finding]:
    guarantee, account = content["guarantee"], account_in(content)
    claims = [("epsilon", guarantee["delta"], guarantee["epsilon"])]
    claims += [("curve", point["delta"], point["epsilon"]) for point in guarantee["curve"]]
    try:
        for what, delta, claimed in claims:
            if trouble := figure_trouble(account, delta, claimed):
                yield failed(what, trouble)
                return
        least = least_epsilon(account.events, guarantee["delta"])
    except (PlanError, PrivacyError) as error:
        yield failed("epsilon", f"nothing can be computed from its events: {error}")
        return
    if guarantee["private"] != (guarantee["epsilon"] is not None):
        yield failed("epsilon", "it calls itself private without a finite epsilon, or the other way round")
    elif least is not None and guarantee["epsilon"] is not None and guarantee["epsilon"] < least * (1 - 1e-6):
        yield failed("epsilon", f"dp-accounting's own lower bound is {least:.6g}, above what it claims")
    else:
        beside = "" if least is None else f"; dp-accounting by itself: not below {least:.6g}"
        yield passed("epsilon", f"{_shown(guarantee['epsilon'])} at delta {guarantee['delta']}{beside}")
    wanted = deltas([plan["fields"] for plan in content["plans"]], guarantee["delta"])
    if [point["delta"] for point in guarantee["curve"]] != wanted:
        yield failed("delta", f"the curve must be stated at {', '.join(map(str, wanted))}")
    for audit in content["audits"]:
        if audit["epsilon"] is not None and audit["bound"] > audit["epsilon"]:
            yield failed("audit", f"an audit ({audit['kind']}) found at least {audit['bound']:.4g}, above the claim")


def _words_and_code(content: Mapping[str, Any]) -> Iterator[Finding]:
    here, theirs = code(), content["code"]
    if theirs["version"] != here["version"]:
        yield unchecked("code", f"made by fedrad {theirs['version']}, this is {here['version']}")
        yield unchecked("words", "another version may put them differently")
        return
    if theirs["sources"] != here["sources"]:
        yield failed("code", f"made by other sources than those of the fedrad {here['version']} that is installed here")
    else:
        yield passed("code", f"fedrad {here['version']}, the same sources")
    if content["statement"] != statement(content):
        yield failed("words", "its statement is not what follows from its figures")


def _trouble(validator: Any, value: object) -> str:
    """The first error, by place: never the value itself, which may be long."""
    errors = sorted(validator.iter_errors(value), key=lambda error: list(map(str, error.absolute_path)))
    if not errors:
        return ""
    where = "/".join(map(str, errors[0].absolute_path)) or "the whole"
    return f"{where} ({errors[0].validator}: {str(errors[0].validator_value)[:80]})"


def _shown(epsilon: float | None) -> str:
    return "not private" if epsilon is None else f"epsilon {epsilon:.6g}"
