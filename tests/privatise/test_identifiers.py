"""The detectors find the identifiers of invented sentences, and little else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedrad.data.synthetic import generate
from fedrad.privatise.identifiers import Span, identifiers, merged

SENTENCES = Path(__file__).with_name("identifiers.txt")
_MARK = re.compile(r"\{[A-Z]+:([^{}]*)\}")
MISSED = {"Whitfield"}  # a bare surname, which no rule can know


def labelled() -> list[tuple[str, list[Span]]]:
    """The sentences without their marks, and where the identifiers are."""
    found = []
    for line in SENTENCES.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        text, spans, last = "", list[Span](), 0
        for mark in _MARK.finditer(line):
            text += line[last : mark.start()]
            spans.append(Span(len(text), len(text) + len(mark[1])))
            text, last = text + mark[1], mark.end()
        found.append((text + line[last:], spans))
    return found


def letters(text: str, spans: list[Span]) -> set[int]:
    """Places of letters and digits in spans."""
    return {place for span in spans for place in range(span.start, span.end) if text[place].isalnum()}


def test_every_identifier_is_found_whole_but_the_known_one() -> None:
    missed = {
        text[span.start : span.end]
        for text, spans in labelled()
        for span in spans
        if not letters(text, [span]) <= letters(text, identifiers(text))
    }

    assert missed == MISSED
    assert sum(len(spans) for _, spans in labelled()) >= 80


def test_little_else_is_found() -> None:
    found = [len(letters(text, identifiers(text))) for text, _ in labelled()]
    right = [len(letters(text, spans) & letters(text, identifiers(text))) for text, spans in labelled()]

    assert sum(right) / sum(found) > 0.97


def test_reports_without_identifiers_stay_as_they_are() -> None:
    texts = [row["text"] for row in generate(200, 0)]
    found = sum(len(letters(text, identifiers(text))) for text in texts)

    assert found / sum(map(len, texts)) < 0.002


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("89-year-old man", []),
        ("90-year-old man", ["90"]),
        ("2.5 x 3.1 cm mass at T12, grade 3/6, 1500 ml", []),
        ("seen on 3/6 at 0915", ["3/6", "0915"]),
        ("discussed with the emergency team", []),
        ("discussed with Jane Doe", ["Jane Doe"]),
        ("", []),
    ],
)
def test_what_is_near_a_rule(text: str, found: list[str]) -> None:
    assert [text[span.start : span.end] for span in identifiers(text)] == found


def test_spans_that_overlap_or_touch_are_one() -> None:
    assert merged([Span(5, 8), Span(0, 3), Span(2, 4), Span(8, 9)]) == [Span(0, 4), Span(5, 9)]
