"""A certificate in words: for a data protection officer, a radiologist, and the card of an adapter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedrad.privacy.accounting import Event
from fedrad.privacy.filter import Account
from fedrad.privacy.groups import patients_in_words
from fedrad.privatise.local import in_words as in_words_of_texts
from fedrad.training.result import rounded_up

_UNIT = {
    "report": "one report",
    "patient": "one patient, with all reports of theirs at the hospital",
    "hospital": "one hospital, with all its reports",
}


def statement(content: Mapping[str, Any]) -> dict[str, list[str]]:
    """What is promised, and what is not: sentences that follow from a certificate's figures alone."""
    return {"promised": promised(content), "not_promised": not_promised(content)}


def promised(content: Mapping[str, Any]) -> list[str]:
    """The guarantee. The first sentence is the one to read if only one is read."""
    guarantee, plans, texts = content["guarantee"], content["plans"], content.get("texts")
    unit = guarantee["unit"]
    beside = [in_words_of_texts(texts["draws"])] if texts is not None and texts["in_all_runs"] else []
    if not guarantee["private"]:
        return [
            "NOT PRIVATE: steps without noise were taken. Nothing is promised, and the adapter may reveal training"
            " reports.",
            *beside,
        ]
    figure = f"(epsilon {rounded_up(guarantee['epsilon'])}, delta {rounded_up(guarantee['delta'])})"
    said = [] if guarantee["noise"]["source"] == "system" else [_SEEDED]
    said.append(
        f"{unit.capitalize()}-level {figure}-differential privacy, adding or removing {_UNIT[unit]}: whoever sees"
        f" {_seen(content)} and knows everything else can hardly tell whether it was there."
    )
    said.append(
        f"In odds: what they see changes their odds of that by a factor of {_factor(guarantee['epsilon'])} at most, but"
        f" for a chance of about {rounded_up(guarantee['delta'])}. A factor below 3"
        " (epsilon 1) is strong protection; one above 1,000 (epsilon 7) is weak on paper, though the attacks that are"
        " known today learn far less than it allows."
    )
    steps = sum(plan["charged_steps"] for plan in plans)
    said.append(
        f"It covers all {steps:,} noisy steps ({_many(content['ledger']['charges'], 'charge')},"
        f" {_many(content['ledger']['trials'], 'run')}, {_many(len(plans), 'plan')}) in the ledger of"
        f" {content['site']}, counted by the rule '{guarantee['rule']}'."
    )
    return [*said, *beside]


def not_promised(content: Mapping[str, Any]) -> list[str]:
    """What the figure does not cover."""
    guarantee, kind = content["guarantee"], content["kind"]
    if not guarantee["private"]:
        return ["Everything."]
    unit, found = guarantee["unit"], []
    if kind == "simulation":
        found.append("Real hospitals: this is a simulation, and the key was made for this one run.")
    if not content["size_stated"]:
        found.append("The number of reports: the declared size was rounded from the actual one, not stated in public.")
    if unit == "hospital":
        found.append("Anything against the server: it received every update without noise, and is trusted.")
    if guarantee["only_in_sums_of"] is not None:
        found.append(
            "A single hospital's adapter: hospitals share their noise, so the figure holds for sums over"
            f" {guarantee['only_in_sums_of']} hospitals or more, if the others added their share."
        )
    if unit == "report":
        found.append("A patient with several reports: their protection is weaker with each report.")
    if unit != "hospital":
        found.append("A patient at two hospitals: each hospital's figure speaks of its own reports only.")
    if content.get("texts") is not None and not content["texts"]["in_all_runs"]:
        found.append(
            "The texts themselves: not all of the runs are known to have trained on privatised ones, so those protect"
            " nothing."
        )
    found.append(
        "What other ledgers hold for the same reports, as those of another site name or of another run in one place:"
        " their figures add up with these."
    )
    if content["ledger"]["trials"] > 1:
        found.append(
            f"The choice among {content['ledger']['trials']} runs, if results on private reports decided it; their"
            " steps are all counted."
        )
    found += [
        "What the base model had learnt before, from whatever texts.",
        "A text that occurs in several reports (templates, copies), and what can be inferred about somebody without"
        " their report.",
        "Settings, scores or thresholds that were chosen by looking at private reports.",
        "The limits of floating point: the noise is Gaussian in floating point, from a cryptographic generator.",
    ]
    return found


def in_words(content: Mapping[str, Any], key: str) -> str:
    """All of a certificate for a reader without a computer: who, what is promised, what is not, and what it rests on.

    Args:
        key: the public key that signed it.
    """
    guarantee, ledger, code = content["guarantee"], content["ledger"], content["code"]
    account = account_in(content)
    promise = list(content["statement"]["promised"])
    if guarantee["private"] and guarantee["only_in_sums_of"] is None:
        promise.append(patients_in_words(guarantee["unit"], [account], guarantee["delta"], pairs=False))
    curve = ", ".join(f"{_epsilon(point['epsilon'])} at {point['delta']:g}" for point in guarantee["curve"])
    plan = content["plans"][-1]["fields"]
    audits = [
        f"An audit ({audit['kind']}, {audit['view']}) with {audit['canaries']} canaries found that epsilon is at least"
        f" {audit['bound']:.3g}, with {100 * audit['confidence']:g}% confidence."
        for audit in content["audits"]
    ]
    parts = {
        f"Privacy certificate of {content['site']} ({_KINDS[content['kind']]})": [f"Signed with the key {key}."],
        "What is promised": promise,
        "What is not": content["statement"]["not_promised"],
        "Figures": [
            f"epsilon at other deltas: {curve}",
            f"declared size: {plan['declared_size']:,} {plan['unit']}s"
            + ("" if content["size_stated"] else ", rounded from the actual number"),
            *(
                f"charged: {event['steps']:,} steps, sampling rate {event['sampling_rate']:.4g}, noise multiplier"
                f" {event['noise_multiplier']:.5g}"
                for event in content["events"]
            ),
            f"ledger: {ledger['charges']} charges, head {ledger['head']}",
            f"trials on these reports: {_many(ledger['trials'], 'run')}",
            f"configuration: {content['configuration']}",
            f"code: fedrad {code['version']}, sources {code['sources']}",
            *(audits or ["No audit is named: what attacks reach was not measured."]),
        ],
    }
    return "\n\n".join("\n".join([head, *(f"- {line}" for line in lines)]) for head, lines in parts.items())


_KINDS = {
    "hospital": "a hospital",
    "centralized": "training in one place, with a key made for this run",
    "simulation": "SIMULATION, with a key made for this run",
}
_SEEDED = (
    "SIMULATION ONLY: the noise came from a seed, so this protects nobody: whoever knows the seed can remove it. The"
    " figures below are those that the same run would have with noise from the operating system."
)


def account_in(content: Mapping[str, Any]) -> Account:
    """What a certificate's epsilon is computed from: its events, and the rule that it names."""
    guarantee = content["guarantee"]
    events = (Event(float(e["sampling_rate"]), float(e["noise_multiplier"]), e["steps"]) for e in content["events"])
    return Account(tuple(events), guarantee["rule"], guarantee["order"])


def _seen(content: Mapping[str, Any]) -> str:
    if content["guarantee"]["unit"] == "hospital":
        return "what the server published"
    quorum = content["guarantee"]["only_in_sums_of"]
    return "everything that left the hospital" if quorum is None else f"only sums over {quorum} hospitals or more"


def _epsilon(value: float | None) -> str:
    return "none" if value is None else rounded_up(value)


def _factor(epsilon: float) -> str:
    if epsilon >= 10:
        return f"e to the {rounded_up(epsilon, 3)}"
    return f"{float(rounded_up(math.exp(epsilon), 3)):,.3g}" if epsilon < 4 else f"{math.ceil(math.exp(epsilon)):,}"


def _many(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
