"""The words of a report: what is promised, what the model is worth to a radiologist, and what to be loud about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedrad.planning.noise_to_signal import noise_to_signal_of_steps, verdict
from fedrad.report.page.files import RunFiles, shown
from fedrad.training.result import rounded_up


@dataclass(frozen=True)
class Guarantee:
    """What a run promises.

    Attributes:
        whose: the run, and the hospital whose certificate it is.
        promised, not_promised: sentences.
    """

    whose: str
    promised: list[str]
    not_promised: list[str]


def alarms(runs: Sequence[RunFiles]) -> list[str]:
    """What has to be read before anything else; empty where every run protects somebody."""
    found = []
    if free := [run.name for run in runs if not run.result["private"]]:
        found.append(
            f"PROTECTS NOBODY: {_these(free, runs)} trained without differential privacy. The adapter may reveal"
            " training reports."
        )
    if seeded := [run.name for run in runs if run.seeded and run.result["private"]]:
        found.append(
            f"PROTECTS NOBODY: the noise of {_these(seeded, runs)} came from a seed, for simulation only. Whoever knows"
            " the seed can remove it. The figures are those that the same run would have with real noise."
        )
    unsure = [f"{run.name} ({', '.join(run.result['unconfirmed'])})" for run in runs if run.result.get("unconfirmed")]
    if unsure:
        found.append(f"NOT CONFIRMED: an answer was lost in {'; '.join(unsure)}: epsilon may be larger than shown.")
    return found


def guarantee(runs: Sequence[RunFiles]) -> Guarantee:
    """That of the weakest run: its certificate with the largest epsilon, or its own statement where it has none."""
    run = max(runs, key=lambda each: _epsilon(each.result["epsilon_max"]))
    contents = sorted(run.certificates.values(), key=lambda content: _epsilon(content["guarantee"]["epsilon"]))
    if not contents:
        return Guarantee(
            run.name, [run.result["statement"]], ["What the statement leaves out; docs/privacy.md has it."]
        )
    said = contents[-1]["statement"]
    return Guarantee(f"{run.name}, {contents[-1]['site']}", said["promised"], said["not_promised"])


def together(runs: Sequence[RunFiles]) -> str:
    """What several runs come to for a report that was in all of them; empty for one run."""
    total = sum(_epsilon(run.result["epsilon_max"]) for run in runs)
    if len(runs) < 2:
        return ""
    deltas = sum(run.result["delta"] for run in runs)
    figure = f"({rounded_up(total)}, {rounded_up(deltas)})" if total < float("inf") else "no finite epsilon"
    return (
        f"Each of these {len(runs)} runs counts itself alone. If they were trained on the same reports, whoever sees"
        f" all of them learns more: together they have {figure} by basic composition. Choosing the best of them by its"
        " score on private reports is not covered either."
    )


def for_radiologists(runs: Sequence[RunFiles]) -> list[str]:
    """What the scores mean, for somebody who reads reports."""
    found = []
    scored = [run for run in runs if run.figures]
    if not scored:
        return ["Nothing was evaluated: the server had no test reports, so nothing is known of the model's quality."]
    best = max(scored, key=lambda run: next(iter(run.figures.values())))
    name, value = next(iter(best.figures.items()))
    words = shown(name)
    tests = best.result["reports"]["test"]
    compared = [
        f"{when} {best.result[key][name]:.3f}"
        for key, when in (("label_prior", "a guess that reads no text scores"), ("before", "before training it was"))
        if best.result.get(key)
    ]
    found.append(
        f"{'The best of these runs' if len(runs) > 1 else 'The model'} reaches {words} {value:.3f} on {tests:,} test"
        f" reports (1 is perfect); {' and '.join(compared)}."
    )
    weak = [label for label, f1 in best.result["per_label"].items() if f1 < 0.5]
    if weak:
        found.append(f"Don't rely on it for {', '.join(weak)}: F1 is below 0.5 there.")
    found.append(
        "Noise that hides single reports also blurs rare findings: a label with few positive reports is learnt last."
    )
    found.append("It is a research model and no medical device: a radiologist has to read what it marks.")
    return found


def noise_rows(runs: Sequence[RunFiles]) -> list[tuple[str, ...]]:
    """Of each run with certificates: how loud its noise is beside its signal, from public figures only."""
    rows: list[tuple[str, ...]] = []
    for run in runs:
        contents = [content for content in run.certificates.values() if content["guarantee"]["private"]]
        if not contents or not run.numbers:
            continue
        plan = max((content["plans"][-1]["fields"] for content in contents), key=lambda each: each["noise_multiplier"])
        rho = noise_to_signal_of_steps(
            run.numbers,
            noise_multiplier=plan["noise_multiplier"],
            batch=plan["expected_batch"],
            steps=plan["steps"],
            hospitals=len(contents),
        )
        rows.append(
            (
                run.name,
                f"{plan['noise_multiplier']:.4g}",
                str(plan["expected_batch"]),
                str(plan["steps"]),
                f"{run.numbers:,}",
                f"{rho:.2f}",
                verdict(rho),
            )
        )
    return rows


def _these(names: Sequence[str], runs: Sequence[RunFiles]) -> str:
    if len(names) == len(runs):
        return "this run" if len(runs) == 1 else f"all {len(runs)} runs"
    return f"{len(names)} of {len(runs)} runs ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})"


def _epsilon(value: float | None) -> float:
    return float("inf") if value is None else value
