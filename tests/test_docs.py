"""The documents say what is there: links resolve, examples run, and the sharp edges name files that exist."""

from __future__ import annotations

import doctest
import re
import runpy
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fedrad

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
STATUSES = ("handled", "partly", "avoided", "stated", "not yet")


def edges(text: str) -> list[dict[str, str]]:
    """The rows of the table in sharp-edges.md."""
    names = ("id", "severity", "pitfall", "status", "where", "test")
    rows = [line.strip().strip("|").split("|") for line in text.splitlines() if re.match(r"\| P\d+ \|", line)]
    return [dict(zip(names, (cell.strip() for cell in row), strict=True)) for row in rows]


def troubles(rows: list[dict[str, str]]) -> list[str]:
    """What is wrong with the table: gaps, unknown words, files that are not there, claims without a test."""
    found = [] if [row["id"] for row in rows] == [f"P{n}" for n in range(1, 45)] else ["not P1 to P44 in order"]
    for row in rows:
        files = re.findall(r"`([^`]+)`", row["where"] + row["test"])
        found += [f"{row['id']}: {file} is not there" for file in files if not (ROOT / file).is_file()]
        if row["severity"] not in ("C", "T", "G"):
            found.append(f"{row['id']}: severity {row['severity']}")
        if not row["status"].startswith(STATUSES):
            found.append(f"{row['id']}: status {row['status']}")
        if row["status"].startswith(("handled", "partly")) and not (row["where"] and row["test"].startswith("`tests/")):
            found.append(f"{row['id']}: a claim without a place and a test")
    return found


def test_every_sharp_edge_has_a_place_that_exists() -> None:
    assert troubles(edges((ROOT / "docs/sharp-edges.md").read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "row",
    [
        "| P1 | C | x | handled | `fedrad/nowhere.py` | `tests/test_docs.py` |",
        "| P1 | C | x | handled | `fedrad/config.py` | |",
        "| P1 | C | x | done | `fedrad/config.py` | `tests/test_docs.py` |",
        "| P1 | X | x | not yet | `fedrad/config.py` | |",
    ],
)
def test_a_false_row_is_caught(row: str) -> None:
    text = (ROOT / "docs/sharp-edges.md").read_text(encoding="utf-8")
    broken = "\n".join(row if line.startswith("| P1 |") else line for line in text.splitlines())

    assert [trouble for trouble in troubles(edges(broken)) if trouble.startswith("P1:")] != []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))

    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_examples_of_the_privacy_page_run() -> None:
    failures, tried = doctest.testfile(str(ROOT / "docs/privacy.md"), module_relative=False)

    assert (failures, tried > 0) == (0, True)


@pytest.mark.slow
def test_the_examples_of_the_api_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failures, tried = doctest.testfile(str(ROOT / "docs/api.md"), module_relative=False)

    assert (failures, tried > 0) == (0, True)


def test_the_api_page_is_what_its_script_makes() -> None:
    made = runpy.run_path(str(ROOT / "docs/make_api.py"))

    assert (ROOT / "docs/api.md").read_text(encoding="utf-8") == made["page"]()
    assert made["EXAMPLES"].keys() == set(fedrad.__all__) - {"__version__"}


def test_every_requirement_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = [Requirement(line) for lines in [project["dependencies"], *extras.values()] for line in lines]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}

    others = [need for need in needed if need.name != "fedrad"]  # an extra may take in others of ours
    assert [need.name for need in others if pins.get(canonicalize_name(need.name)) not in need.specifier] == []
    assert [line for line in pins.values() if "+" in line] == []  # a local version fits one index only


def test_real_hospitals_are_sent_their_own_app() -> None:
    """Their SuperNodes refuse the ClientApp of a simulation."""
    commands = re.findall(r"^flwr run (\S+)", (ROOT / "docs" / "deployment.md").read_text("utf-8"), re.MULTILINE)
    assert len(commands) >= 4
    assert set(commands) == {"deployment"}
