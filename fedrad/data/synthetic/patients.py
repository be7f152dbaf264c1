"""Patients: which findings come together, and how they change from one report to the next."""

from __future__ import annotations

import datetime
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from fedrad.data.synthetic.bank import Bank, Patients


@dataclass(frozen=True)
class Problem:
    """A finding in one patient. ``change`` since the last report: new, stable, better, worse, gone, or "" (unknown)."""

    kind: str
    side: str  # left | right
    change: str


def histories(bank: Bank, seed: int, patient: int) -> Iterator[tuple[str, tuple[Problem, ...]]]:
    """The dates and problems of one patient's reports, oldest first; a pure function of the seed and the number."""
    rng = random.Random(f"{seed}|patient|{patient}")
    day = datetime.date(2012, 1, 1) + datetime.timedelta(days=rng.randrange(2900))
    problems = _first_visit(bank, rng)
    while True:
        yield day.isoformat(), problems
        if rng.random() > (0.26 if not problems else 0.42):
            return
        day += datetime.timedelta(days=1 + int(rng.expovariate(1 / 90)))
        problems = _next_visit(bank, problems, rng)


def _by_scenario(patients: Patients, rng: random.Random) -> list[str]:
    kinds, kind = list[str](), rng.random()
    if kind > 0.62:  # a labelled finding, sometimes two, sometimes with others
        kinds += rng.choices(patients.scenarios, patients.weights)[0]
        if rng.random() < 0.22:
            kinds.append(rng.choice(patients.second))
        if rng.random() < 0.14:  # the sick: several things at once
            for more in rng.choices(patients.scenarios, patients.weights, k=rng.choice((2, 2, 3))):
                kinds += more
        if rng.random() < 0.35:
            kinds += rng.choices(patients.unlabelled, patients.unlabelled_weights, k=rng.choice((1, 1, 2)))
    elif kind > 0.4:  # something, but none of the fourteen
        kinds += rng.choices(patients.unlabelled, patients.unlabelled_weights, k=rng.choice((1, 1, 1, 2, 2, 3)))
    return kinds


def _by_share(patients: Patients, rng: random.Random) -> list[str]:
    kinds = []
    for group in patients.groups:
        burden = math.exp(rng.gauss(-(group.spread**2) / 2, group.spread))
        kinds += [
            name for name, share in zip(group.findings, group.shares, strict=True) if rng.random() < share * burden
        ]
    rng.shuffle(kinds)
    return kinds


def _first_visit(bank: Bank, rng: random.Random) -> tuple[Problem, ...]:
    kinds = _by_share(bank.patients, rng) if bank.patients.groups else _by_scenario(bank.patients, rng)
    problems: list[Problem] = []
    for name in kinds:
        change = rng.choices(("", "new", "stable", "worse", "better"), (72, 4, 20, 2, 2))[0]
        if bank.findings[name].chronic and change != "stable":
            change = ""
        _add(bank, problems, Problem(name, rng.choice(("left", "right")), change))
    return tuple(problems)


def _next_visit(bank: Bank, problems: tuple[Problem, ...], rng: random.Random) -> tuple[Problem, ...]:
    """Chronic findings stay; others heal, improve, stay or get worse; sometimes a new one appears."""
    later: list[Problem] = []
    for problem in problems:
        if problem.change == "gone":
            continue
        if bank.findings[problem.kind].chronic:
            change = "stable" if rng.random() < 0.6 else ""
        else:
            change = rng.choices(("gone", "better", "stable", "worse"), (40, 25, 22, 13))[0]
        _add(bank, later, replace(problem, change=change))
    if rng.random() < (0.2 if later else 0.35):
        for name in _something_new(bank.patients, rng):
            change = "" if bank.findings[name].chronic or rng.random() < 0.4 else "new"
            _add(bank, later, Problem(name, rng.choice(("left", "right")), change))
    return tuple(later)


def _something_new(patients: Patients, rng: random.Random) -> tuple[str, ...]:
    if not patients.groups:
        return rng.choices(patients.scenarios, patients.weights)[0]
    names = [name for group in patients.groups for name in group.findings]
    return (rng.choices(names, [share for group in patients.groups for share in group.shares])[0],)


def _add(bank: Bank, problems: list[Problem], problem: Problem) -> None:
    """Appends the problem unless an existing one is of the same kind or excludes it."""
    for other in problems:
        if other.kind == problem.kind or any({other.kind, problem.kind} <= group for group in bank.patients.exclusive):
            return
    problems.append(problem)
