"""No mechanism gives away more than its guarantee says, measured on its answers; broken ones are caught."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from fedrad.privacy.randomness import Stream
from fedrad.privatise.budgets import MECHANISMS
from fedrad.privatise.embeddings import Ids
from fedrad.privatise.guarantees import guarantee_of
from fedrad.privatise.mechanisms import Laplace, Mechanism, Polar
from fedrad.privatise.rivals import SanText, TruncatedExponential, mechanism_named
from tests.privatise.tables import random_table, small_table

# On the plane, at angles of 0, 30, 90, 180 and 250 degrees, of different lengths.
ROWS = [
    [length * math.cos(math.radians(angle)), length * math.sin(math.radians(angle))]
    for angle, length in ((0, 1.0), (30, 2.0), (90, 1.5), (180, 1.0), (250, 0.5))
]
TABLE = small_table(ROWS)
DRAWS = 20_000
Draw = Callable[[Ids, np.ndarray, Stream], Ids]


def distance(mechanism: Mechanism, one: int, other: int) -> float:
    """The distance that the mechanism's guarantee is about, times the rate, over that at epsilon 1."""
    rows, lengths = TABLE.unit.numpy().astype(float), TABLE.norms.numpy().astype(float)
    chord = float(np.linalg.norm(rows[one] - rows[other]))
    raw = rows * lengths[:, None]
    match mechanism.name:
        case "full-polar":
            return 0.9 * chord + 0.1 * abs(lengths[one] - lengths[other]) / (lengths.max() - lengths.min())
        case "coordinate-laplace":
            return float(np.abs(raw[one] - raw[other]).sum() / np.ptp(raw, axis=0).sum())
    return chord


def refuted(draw: Draw, one: int, other: int, epsilon: float) -> float:
    """A log-ratio that is exceeded by some answer's probabilities under two tokens, at 99.9 % confidence."""
    answers = []
    for k, token in enumerate((one, other)):
        tokens = np.full(DRAWS, token)
        answers.append(np.bincount(draw(tokens, np.full(DRAWS, epsilon), Stream.seeded(k, "t")), minlength=len(ROWS)))
    level = 0.001 / (2 * len(ROWS))
    low = stats.beta.ppf(level, answers[0], DRAWS - answers[0] + 1)  # Clopper-Pearson
    high = stats.beta.ppf(1 - level, answers[1] + 1, DRAWS - answers[1])
    return float(np.log(np.nan_to_num(low).clip(1e-300) / np.nan_to_num(high, nan=1.0)).max())


@pytest.mark.parametrize("name", sorted(MECHANISMS))
@pytest.mark.parametrize(("one", "other"), [(0, 1), (0, 3), (2, 4)])
def test_answers_stay_within_the_guarantee(name: str, one: int, other: int) -> None:
    mechanism, epsilon = mechanism_named(name, TABLE, "paper"), 2.0

    claimed = epsilon * distance(mechanism, one, other)

    assert refuted(mechanism.draw, one, other, epsilon) <= claimed
    assert claimed <= guarantee_of(name, epsilon).worst + 1e-9


@pytest.mark.parametrize(
    ("name", "factor"),
    [("polar", 4), ("laplace", 4), *((name, 64) for name in sorted(MECHANISMS))],
)
def test_more_budget_than_claimed_is_caught(name: str, factor: float) -> None:
    mechanism, epsilon = mechanism_named(name, TABLE, "paper"), 1.0

    assert refuted(mechanism.draw, 0, 3, factor * epsilon) > epsilon * distance(mechanism, 0, 3)


def test_a_leaked_direction_is_caught() -> None:
    def leaking(tokens: Ids, budgets: np.ndarray, stream: Stream) -> Ids:
        answers = Polar(TABLE).draw(tokens, budgets, stream)
        return np.where(stream.uniform(len(tokens)) < 0.9, tokens, answers)

    assert refuted(leaking, 0, 3, 1.0) > 1.0 * 2


def test_the_readings_of_kappa_are_those_of_paper_and_code() -> None:
    assert guarantee_of("polar", 100.0, "paper").rate == 100
    assert guarantee_of("polar", 100.0, "code").rate == pytest.approx(100 / math.pi)
    assert guarantee_of("polar", 100.0, "code").worst == pytest.approx(2 * 100 / math.pi)
    tokens, stream = np.zeros(3000, dtype=np.int64), (Stream.seeded(0, "k"), Stream.seeded(0, "k"))
    same = Polar(TABLE, "code").draw(tokens, np.full(3000, math.pi), stream[0])
    assert (same == Polar(TABLE, "paper").draw(tokens, np.ones(3000), stream[1])).all()


@pytest.mark.parametrize("radius", [0.0, 1.0, 2.0])
def test_exponential_mechanisms_have_their_distribution(radius: float) -> None:
    mechanism = TruncatedExponential(TABLE, radius) if radius < 2 else SanText(TABLE)
    epsilons = np.tile([1.0, 3.0], DRAWS)
    answers = mechanism.draw(np.full(2 * DRAWS, 1), epsilons, Stream.seeded(3, "e"))
    rows = TABLE.unit.numpy().astype(float)
    chords = np.minimum(np.linalg.norm(rows - rows[1], axis=1), radius)
    for k, epsilon in enumerate((1.0, 3.0)):
        weights = np.exp(-epsilon * chords / 2)
        counts = np.bincount(answers[k::2], minlength=len(rows))
        assert stats.chisquare(counts, DRAWS * weights / weights.sum()).pvalue > 1e-4


@pytest.mark.parametrize("dimension", [7, 48])
def test_the_coarse_search_finds_outputs_as_close_as_the_exact_one(dimension: int) -> None:
    exact, coarse = random_table(3000, dimension), random_table(3000, dimension, coarse=True)
    points = np.random.default_rng(0).standard_normal((500, dimension))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    cosines = exact.cosines(points)

    best = exact.nearest(points)
    found = coarse.nearest(points * np.geomspace(1e-3, 1e3, 500)[:, None])  # lengths don't matter
    assert coarse.nearest(points[:1]) == found[:1]

    assert (best == cosines.argmax(1)).mean() > 0.99
    assert (cosines[np.arange(500), found] >= cosines.max(1) - 0.01).all()
    assert (found == best).mean() > 0.98


def test_special_unused_and_empty_tokens_are_never_answers() -> None:
    table = small_table([*ROWS, [0.0, 0.0]])
    assert 5 not in table.outputs
    answers = Laplace(table).draw(np.full(2000, 5), np.full(2000, 0.1), Stream.seeded(0, "z"))
    assert set(answers.tolist()) == {0, 1, 2, 3, 4}
