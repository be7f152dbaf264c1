"""Patients: which findings come together, and how they change from one report to the next."""

from __future__ import annotations

import datetime
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from fedrad.data.synthetic.findings import FINDINGS
from fedrad.data.synthetic.unlabelled import OTHERS


@dataclass(frozen=True)
class Problem:
    """A finding in one patient. ``change`` since the last report: "" (none known), new, stable, better, worse, gone."""

    kind: str
    side: str  # left | right
    change: str


# Kinds that come together, and how often. Weights are per labelled report; see the prevalence test.
SCENARIOS: tuple[tuple[float, tuple[str, ...]], ...] = (
    (17, ("granuloma",)),
    (3, ("granuloma", "calcified nodes")),
    (5, ("nodule",)),
    (2, ("mass",)),
    (13, ("cardiomegaly",)),
    (2, ("cardiomegaly", "aorta")),
    (3, ("silhouette",)),
    (5, ("mediastinum",)),
    (6, ("cardiomegaly", "edema")),
    (3, ("edema", "effusion", "cardiomegaly")),
    (2, ("edema", "silhouette", "effusion")),
    (5, ("edema",)),
    (13, ("opacity",)),
    (3, ("interstitial",)),
    (3, ("scar opacity",)),
    (7, ("atelectasis",)),
    (12, ("atelectatic opacity",)),
    (5, ("atelectasis", "effusion")),
    (4, ("opacity", "effusion")),
    (6, ("effusion",)),
    (5, ("consolidation",)),
    (1, ("consolidation", "effusion")),
    (9, ("pneumonia",)),
    (3, ("pneumothorax",)),
    (2, ("pneumothorax", "fracture")),
    (6, ("pleural thickening",)),
    (6, ("fracture",)),
    (4, ("sternotomy",)),
    (3, ("sternotomy", "cardiomegaly")),
    (7, ("clips",)),
    (5, ("pacemaker",)),
    (2, ("pacemaker", "cardiomegaly")),
    (9, ("line",)),
    (2, ("line", "tube", "opacity")),
    (2, ("tube", "atelectatic opacity", "effusion")),
    (2, ("tube",)),
)
_KINDS = [kinds for _, kinds in SCENARIOS]
_WEIGHTS = [weight for weight, _ in SCENARIOS]
_OTHERS = tuple(OTHERS)
_OTHER_WEIGHTS = (26, 9, 12, 5, 11, 9, 8, 8, 8, 7, 3)  # in the order of OTHERS
_SECOND = ("granuloma", "cardiomegaly", "clips", "fracture", "opacity", "atelectatic opacity", "effusion", "line")
# Two ways of saying one thing never stand in one report.
_EXCLUSIVE = (
    {"cardiomegaly", "silhouette", "upper normal heart"},
    {"atelectasis", "atelectatic opacity"},
    {"opacity", "pneumonia", "consolidation", "interstitial"},
    {"low volumes", "hyperinflation"},
    {"granuloma", "calcified nodes"},
)


def histories(seed: int, patient: int) -> Iterator[tuple[str, tuple[Problem, ...]]]:
    """The dates and problems of one patient's reports, oldest first; a pure function of the seed and the number."""
    rng = random.Random(f"{seed}|patient|{patient}")
    day = datetime.date(2012, 1, 1) + datetime.timedelta(days=rng.randrange(2900))
    problems = _first_visit(rng)
    while True:
        yield day.isoformat(), problems
        if rng.random() > (0.26 if not problems else 0.42):
            return
        day += datetime.timedelta(days=1 + int(rng.expovariate(1 / 90)))
        problems = _next_visit(problems, rng)


def _first_visit(rng: random.Random) -> tuple[Problem, ...]:
    kind = rng.random()
    kinds: list[str] = []
    if kind > 0.62:  # a labelled finding, sometimes two, sometimes with others
        kinds += rng.choices(_KINDS, _WEIGHTS)[0]
        if rng.random() < 0.22:
            kinds.append(rng.choice(_SECOND))
        if rng.random() < 0.14:  # the sick: several things at once
            for more in rng.choices(_KINDS, _WEIGHTS, k=rng.choice((2, 2, 3))):
                kinds += more
        if rng.random() < 0.35:
            kinds += rng.choices(_OTHERS, _OTHER_WEIGHTS, k=rng.choice((1, 1, 2)))
    elif kind > 0.4:  # something, but none of the fourteen
        kinds += rng.choices(_OTHERS, _OTHER_WEIGHTS, k=rng.choice((1, 1, 1, 2, 2, 3)))
    problems: list[Problem] = []
    for name in kinds:
        change = rng.choices(("", "new", "stable", "worse", "better"), (72, 4, 20, 2, 2))[0]
        if FINDINGS[name].chronic and change != "stable":
            change = ""
        _add(problems, Problem(name, rng.choice(("left", "right")), change))
    return tuple(problems)


def _next_visit(problems: tuple[Problem, ...], rng: random.Random) -> tuple[Problem, ...]:
    """Chronic findings stay; the others heal, improve, stay or get worse; now and then something new comes."""
    later: list[Problem] = []
    for problem in problems:
        if problem.change == "gone":
            continue
        if FINDINGS[problem.kind].chronic:
            change = "stable" if rng.random() < 0.6 else ""
        else:
            change = rng.choices(("gone", "better", "stable", "worse"), (40, 25, 22, 13))[0]
        _add(later, replace(problem, change=change))
    if rng.random() < (0.2 if later else 0.35):
        for name in rng.choices(_KINDS, _WEIGHTS)[0]:
            change = "" if FINDINGS[name].chronic or rng.random() < 0.4 else "new"
            _add(later, Problem(name, rng.choice(("left", "right")), change))
    return tuple(later)


def _add(problems: list[Problem], problem: Problem) -> None:
    """Append unless a problem that is there already says the same."""
    for other in problems:
        if other.kind == problem.kind or any({other.kind, problem.kind} <= group for group in _EXCLUSIVE):
            return
    problems.append(problem)
