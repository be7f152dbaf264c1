"""Generated order notes: repeatable, of every protocol, and of hospitals that differ."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from fedrad.config import Experiment
from fedrad.corpora import PROTOCOLS
from fedrad.data.load import load_corpus
from fedrad.data.protocol import generate
from fedrad.data.protocol.phrases import load_phrases


def test_phrases_and_registry_have_the_same_protocols() -> None:
    phrases = load_phrases()
    names = [protocol.name for protocol in phrases.protocols]
    assert tuple(names) == PROTOCOLS
    assert len(set(PROTOCOLS)) == 34
    assert {protocol.fallback for protocol in phrases.protocols} - {""} <= set(names)
    assert all(set(each.protocols) <= set(names) for each in phrases.ambiguous)


def test_public_phrases_have_the_same_protocols_and_share_no_reason_history_or_style() -> None:
    own, public = load_phrases(), load_phrases("public")
    assert tuple(protocol.name for protocol in public.protocols) == PROTOCOLS
    assert [each.fallback for each in public.protocols] == [each.fallback for each in own.protocols]
    reasons = [
        {reason.lower() for each in phrases.protocols for reason in each.reasons}
        | {each.reason.lower() for each in phrases.ambiguous}
        for phrases in (own, public)
    ]
    assert not reasons[0] & reasons[1]
    assert min(map(len, reasons)) > 100
    histories = [{one.lower() for each in phrases.protocols for one in each.history} for phrases in (own, public)]
    assert not histories[0] & histories[1]
    assert not {style.lines for style in own.styles} & {style.lines for style in public.styles}
    rows = list(generate(300, seed=0, bank="public"))
    assert not any(mark in row["text"] for row in rows for mark in "{}")
    assert not {row["text"] for row in rows} & {row["text"] for row in generate(300, seed=0)}


def test_notes_are_a_function_of_the_seed_and_hold_no_unmade_choice() -> None:
    rows = list(generate(1500, seed=0))
    assert rows[:700] == list(generate(700, seed=0))
    assert rows[:700] != list(generate(700, seed=1))
    assert not any(mark in row["text"] for row in rows for mark in "{}|")
    assert len({row["labels"] for row in rows}) > 30
    assert max(Counter(row["patient"] for row in rows).values()) == 3


def test_where_contrast_is_ruled_out_the_note_says_so() -> None:
    unsafe = ("14", "19", "24", "3.1", "4.2", "STAGE 4", "17", "22", "CONTRAST")
    fallback = {protocol.name: protocol for protocol in load_phrases().protocols}["CT Urography"]
    reasons = [reason.split("{")[0].upper() for reason in fallback.reasons if reason.split("{")[0]]
    swapped = [
        row["text"].upper()
        for row in islice(generate(6000, seed=0), 6000)
        if PROTOCOLS[row["labels"]] == fallback.fallback
        and any(row["text"].upper().find(reason) >= 0 for reason in reasons)
    ]
    assert swapped
    assert all(any(mark in text for mark in unsafe) for text in swapped)


def test_hospitals_ask_for_different_protocols() -> None:
    by_site = {f"site-{k}": Counter[int]() for k in range(4)}
    for row in generate(2000, seed=0):
        by_site[row["site"]][row["labels"]] += 1
    assert len({counts.most_common(3)[1][0] for counts in by_site.values()}) > 1


def test_it_is_a_corpus_of_classes() -> None:
    reports = load_corpus("protocol", reports=20, seed=3)
    assert tuple(reports.features["labels"].names) == PROTOCOLS
    assert Experiment.from_flat({"data.name": "protocol"}).stated_labels == (PROTOCOLS, True)


@pytest.mark.parametrize("wrong", [(-1, 4), (1, 0)])
def test_counts_out_of_range_are_refused(wrong: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="count of at least 0"):
        list(generate(wrong[0], seed=0, sites=wrong[1]))
