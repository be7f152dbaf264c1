"""What of Flower's output is shown: our lines, warnings and errors, once each."""

from __future__ import annotations

import logging
from io import StringIO

import pytest

from fedrad.report.chatter import Chatter, flower_says_once


def console(level: str, text: str) -> str:
    """As Flower's console handler writes it."""
    return f"\x1b[92m{level} \x1b[0m:{' ' * (10 - len(level))}{text}\n"


def dated(level: str, text: str) -> str:
    """As the root logger repeats it."""
    return f"11/22/2026 11:14:43:{level}:{text}\n"


def actor(line: str) -> str:
    """As Ray forwards a worker's line."""
    return f"\x1b[36m(ClientAppActor pid=13633)\x1b[0m {line}"


def shown(*lines: str) -> list[str]:
    chatter = Chatter()
    return [line for line in lines if not chatter.drops(line)]


OURS = [
    "round 1/2  test weighted F1 0.0536\n",
    "  site-000     epsilon 6.001\n",
    "  site-001     did not count: policy (INFO : its policy refuses)\n",
    "run directory: /runs/x\n",
    "│ weighted F1 │ 0.0536 │\n",
    actor("fedrad: site-000 round 1: BudgetExhausted: Site 'site-000' has spent epsilon 8 of 8\n"),
]


def test_our_lines_are_all_shown() -> None:
    assert shown(*OURS) == OURS
    assert shown(*OURS, *OURS) == [*OURS, *OURS]


@pytest.mark.parametrize(
    "line",
    [
        console("INFO", "[ROUND 1/2]"),
        console("INFO", ""),
        console("INFO", "\t├── Number of rounds: 2"),
        console("DEBUG", "Constructed ActorPool"),
        dated("INFO", "[ROUND 1/2]"),
        dated("DEBUG", "Backend config: {'num_cpus': 1}"),
        actor(dated("INFO", "x")),
        "\n",
        "Flower configuration not found. Created default configuration at /tmp/fedrad-x/config.toml\n",
        "Starting local SuperLink on 127.0.0.1:47733...\n",
        "Successfully started run 10892140545336307291\n",
        console("WARNING", "Since flwr 1.32, default simulated SuperNodes changed from 10 to 2."),
        actor(console("WARNING", "Manually terminating ClientAppActor")),
        actor(dated("WARNING", "Manually terminating ClientAppActor")),
        "/x/ray/_private/worker.py:2051: FutureWarning: Tip: In future versions of Ray, Ray will no longer\n",
        "  warnings.warn(\n",
    ],
)
def test_progress_notes_and_known_noise_are_not(line: str) -> None:
    assert shown(OURS[0], line, OURS[1]) == OURS[:2]


@pytest.mark.parametrize("level", ["WARNING", "ERROR", "CRITICAL"])
@pytest.mark.parametrize("through", [str, actor])
def test_warnings_and_errors_are_shown_once(level: str, through: type[str]) -> None:
    first, second = through(console(level, "round 1: site-001 does not count")), console(level, "another")

    lines = [first, through(dated(level, "round 1: site-001 does not count")), second, dated(level, "another")]

    assert shown(*lines) == [first, second]
    assert shown(lines[1]) == [lines[1]]  # not a repetition: shown


def test_the_root_logger_s_handler_leaves_flower_s_records_to_flower() -> None:
    root, ours = logging.getLogger(), logging.StreamHandler(StringIO())
    record = {
        name: logging.LogRecord(name, logging.WARNING, "", 0, "", (), None) for name in ("flwr.x", "flwr", "flower")
    }
    root.addHandler(ours)
    try:
        assert all(ours.filter(each) for each in record.values())  # as Opacus leaves it
        flower_says_once()
        flower_says_once()
        assert [name for name, each in record.items() if ours.filter(each)] == ["flower"]
        assert len(ours.filters) == 1
    finally:
        root.removeHandler(ours)


def test_an_error_of_several_lines_is_shown_once_and_what_follows_is_not_lost() -> None:
    traceback = ["Traceback (most recent call last):\n", "fedrad.errors.ConfigError: strategy.name\n", "\n"]
    first = [console("ERROR", "Simulation raised an exception"), *traceback]
    again = [dated("ERROR", "Simulation raised an exception"), *traceback]

    assert shown(*first, *again, *OURS) == [*first[:3], *OURS]
    # What only looks like a repetition, because a line of ours came in between, is shown.
    assert shown(*first, again[0], OURS[0], traceback[1]) == [*first[:3], OURS[0], traceback[1]]
