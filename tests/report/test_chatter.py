"""What of Flower's output is shown: our lines, warnings and errors, once each."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fedrad.report.chatter import is_chatter


def console(level: str, text: str) -> str:
    """As Flower's console handler writes it."""
    return f"\x1b[92m{level} \x1b[0m:{' ' * (10 - len(level))}{text}\n"


def actor(line: str) -> str:
    """As Ray forwards a worker's line."""
    return f"\x1b[36m(ClientAppActor pid=13633)\x1b[0m {line}"


def shown(*lines: str) -> list[str]:
    return [line for line in lines if not is_chatter(line)]


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
        "\n",
        "Using SuperLink: local (127.0.0.1:36705)\n",
        "Successfully started run 10892140545336307291\n",
        console("WARNING", "Since flwr 1.32, default simulated SuperNodes changed from 10 to 2."),
        actor(console("WARNING", "Manually terminating ClientAppActor")),
        "/x/ray/_private/worker.py:2051: FutureWarning: Tip: In future versions of Ray, Ray will no longer\n",
        "  warnings.warn(\n",
    ],
)
def test_progress_notes_and_known_noise_are_not(line: str) -> None:
    assert shown(OURS[0], line, OURS[1]) == OURS[:2]


@pytest.mark.parametrize("level", ["WARNING", "ERROR", "CRITICAL"])
@pytest.mark.parametrize("through", [str, actor])
def test_warnings_and_errors_are_shown(level: str, through: type[str]) -> None:
    lines = [through(console(level, "round 1: site-001 does not count")), console(level, "another")]

    assert shown(*lines) == lines


def test_an_error_of_several_lines_is_shown_to_its_end() -> None:
    traceback = ["Traceback (most recent call last):\n", "fedrad.errors.ConfigError: strategy.name\n", "\n"]
    first = [console("ERROR", "Simulation raised an exception"), *traceback]

    assert shown(*first, *OURS) == [*first[:3], *OURS]


def test_flowers_lines_come_once_because_opacus_leaves_the_root_logger_alone() -> None:
    """A handler on the root logger would print again what Flower's own handler has printed."""
    script = "import logging; {} ; print(len(logging.root.handlers))"
    handlers = [
        subprocess.run(
            [sys.executable, "-c", script.format(f"import {module}")], capture_output=True, text=True, check=True
        ).stdout
        for module in ("fedrad.federation.client, fedrad.federation.server", "opacus.optimizers")
    ]
    assert handlers == ["0\n", "1\n"]  # the second is the control: once it is 0, the mend can go
