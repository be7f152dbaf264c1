"""What is shown: epsilon never rounded down, a live view in terminals and plain lines elsewhere."""

from __future__ import annotations

from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fedrad.report.terminal import (
    StepView,
    final_table,
    plan_lines,
    progress_lines,
    round_line,
    show_bytes,
    show_epsilon,
    show_notes,
)
from tests import small


def console(terminal: bool = False) -> Console:
    return Console(file=StringIO(), force_terminal=terminal, width=120, color_system=None)


def shown(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


# Epsilon


@given(value=st.floats(0, 1e9))
def test_epsilon_is_never_rounded_down(value: float) -> None:
    assert value <= float(show_epsilon(value)) <= value * 1.0011 + 1e-320


@given(value=st.decimals("0.001", "999", places=3))
def test_an_epsilon_of_few_digits_is_shown_as_it_is(value: object) -> None:
    number = float(str(value))
    if len(str(value).replace(".", "").strip("0")) <= 4:
        assert float(show_epsilon(number)) in (number, pytest.approx(number, rel=1.1e-3))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (8.0, "8"),
        (10.0, "10"),
        (7.9999, "8"),
        (1.2341, "1.235"),
        (0.00123401, "0.001235"),
        (123.41, "123.5"),
        (10.00001, "10.01"),
        (5e-324, None),
        (float("inf"), "not private"),
    ],
)
def test_some_epsilons(value: float, text: str | None) -> None:
    assert text is None or show_epsilon(value) == text
    assert value == float("inf") or float(show_epsilon(value)) >= value


def test_ordinary_rounding_would_understate() -> None:
    """Control of the tests above."""
    assert float(f"{1.2341:.4g}") < 1.2341 < float(show_epsilon(1.2341))


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB")]
)
def test_bytes(count: int, text: str) -> None:
    assert show_bytes(count) == text


# The plan, the rounds and the end


def plan(declared: dict[str, int] | None = None, **changes: object) -> str:
    return plan_lines(
        small.experiment(**changes),
        declared={"site-000": 40} if declared is None else declared,
        trainable=1234,
        noise={"site-000": 0.75},
    )


def test_the_plan_says_what_is_promised() -> None:
    text = plan(privacy__noise="system", privacy__epsilon=3.0)

    assert "epsilon <= 3 per hospital at delta 0.001, unit: report" in text
    assert "simulation" not in text
    assert "2 rounds x 3 local steps, expected batch 16, clip 1, noise multiplier 0.75" in text
    assert "1,234 trainable numbers; declared reports: site-000 40" in text


def test_the_plan_says_what_is_not_promised() -> None:
    assert "NOT PRIVATE" in plan(privacy__epsilon=0.0)
    assert "epsilon <=" not in plan(privacy__epsilon=0.0)
    assert "noise seeded: simulation only" in plan(privacy__noise="seeded")
    assert "epsilon <= 3.00001 " in plan(privacy__epsilon=3.000001)


def test_a_long_list_of_hospitals_is_cut() -> None:
    text = plan({f"site-{k:03d}": 40 for k in range(9)})

    assert "site-007 40 ..." in text
    assert "site-008" not in text


def test_a_round_has_a_row_for_each_hospital() -> None:
    scores = small.result({}).scores
    text = round_line(2, 5, scores, {"b": 1.2341, "a": 0.5, "c": 3.0}, {"c": "budget-exhausted"})

    assert text.splitlines() == [
        "round 2/5  test weighted F1 0.7500",
        "  a            epsilon 0.5",
        "  b            epsilon 1.235",
        "  c            did not count: budget-exhausted",
    ]


def test_many_hospitals_are_one_line_of_a_round() -> None:
    booked = {f"site-{k:03d}": 1 + k / 100 for k in range(100)}
    absent = dict.fromkeys(list(booked)[:20], "policy")
    lines = round_line(2, 5, None, booked, absent, left=61.0).splitlines()

    assert lines[:2] == ["round 2/5  about 61 s left", "  80 hospitals, epsilon 1.2 to 1.99"]
    assert len(lines) == 2 + 12 + 1
    assert lines[-1] == "  ... and 8 more did not count"
    assert "left" not in round_line(5, 5, None, booked, {}, left=0.0)


def test_notes_are_a_line_each_whatever_is_in_them() -> None:
    out = console()
    show_notes(out, ["take [bold]more[/]" + " reports" * 30, "second"])

    assert shown(out).splitlines() == ["note: take [bold]more[/]" + " reports" * 30, "note: second"]


def table(epsilon: dict[str, float], directory: str = "/runs/1", **changes: object) -> str:
    out = console()
    out.print(final_table(small.experiment(**changes), small.result(epsilon), directory))
    return shown(out)


def test_the_table_at_the_end() -> None:
    text = table({"site-000": 7.3456712, "site-001": 2.0}, privacy__noise="system")

    for expected in ("0.7500", "7.346", "0.001", "report", "site-001", "/runs/1"):
        assert expected in text
    assert "simulation" not in text
    assert "adapter bytes" not in text  # a centralized run sends nothing
    assert "seeded: simulation only" in table({"site-000": 1.0}, privacy__noise="seeded")
    assert "not private" in table({"site-000": float("inf")}, privacy__epsilon=0.0)


def test_the_table_shows_paths_as_they_are() -> None:
    assert "/runs/[bold]x[/]" in table({"site-000": 1.0}, "/runs/[bold]x[/]")


def test_many_hospitals_are_counted() -> None:
    text = table({f"site-{k:03d}": float(k) for k in range(15)})

    assert "... 3 more in result.json" in text
    assert "14" in text  # the maximum is of all


# Steps


def walk(view: StepView, steps: int) -> None:
    with view.showing():
        for step in range(1, steps + 1):
            if step == steps // 2:
                view.evaluated(small.result({}).scores)
            view.step(step, epsilon=0.1 * step, noise_to_signal=0.5, reports=10)


def test_plain_lines_where_there_is_no_terminal() -> None:
    out = console()
    walk(StepView(out, 40, 8.0, private=True), 40)
    lines = shown(out).splitlines()

    assert "\x1b" not in shown(out)
    assert len(lines) == 10
    assert lines[0].startswith("step 4/40  epsilon 0.4 of 8  noise / signal 0.50  ")
    assert "test weighted F1" not in lines[0]
    assert "test weighted F1 0.750" in lines[-1]
    assert lines[-1].startswith("step 40/40  ")


def test_a_live_view_in_a_terminal() -> None:
    out = console(terminal=True)
    walk(StepView(out, 40, 8.0, private=True), 40)
    text = shown(out)

    assert "\x1b[" in text  # it moves the cursor
    assert "step 40/40" in text
    assert "epsilon 4 of 8" in text
    assert "test weighted F1 0.750" in text
    assert "left\n" not in text


def test_the_last_step_is_always_shown() -> None:
    out = console()
    walk(StepView(out, 23, 8.0, private=True), 23)

    assert shown(out).splitlines()[-1].startswith("step 23/23")


@pytest.mark.parametrize("terminal", [False, True])
def test_without_privacy_no_budget_is_shown(terminal: bool) -> None:
    out = console(terminal)
    walk(StepView(out, 4, 0.0, private=False), 4)

    assert "not private" in shown(out)
    assert "noise / signal" not in shown(out)


def test_progress_says_what_it_is_and_how_long_it_will_take() -> None:
    out, now = console(), [0.0]
    progress = progress_lines(out, clock=lambda: now[0])
    for done in range(1, 101):
        now[0] = 2.0 * done
        progress("reading", done, 100)
    progress("centring", 1, 1)

    assert shown(out).splitlines() == [
        "reading: 1/100",
        "reading: 5/100, about 3 min left",
        "reading: 25/100, about 2 min left",
        "reading: 50/100, about 98 s left",
        "reading: 75/100, about 49 s left",
        "reading: 100/100",
        "centring: 1/1",
    ]


def test_a_step_whose_signal_is_lost_in_noise_says_no_more_than_that() -> None:
    out = console()
    StepView(out, 1, 8.0, private=True).step(1, epsilon=1.0, noise_to_signal=float("inf"), reports=10)

    assert "noise / signal over 10" in shown(out)
