"""Chest x-ray and CT reports of our own, with known labels: the embedded default corpus and the public warm start.

A grammar, not a model, and it reads no data: whatever is trained on it has cost no privacy. Patients have problems that
evolve over follow-ups; each report is written sentence by sentence in its hospital's style, and every sentence carries
the labels that it asserts and those that it only suspects. The labels of a report are the union, so they are exact by
construction.

    banks/         what reports can say, and the labels of each phrase, in TOML; ``bank.toml`` has the rules
    bank.py        a bank in memory
    read_bank.py   from the files, checked (``toml_table.py``, ``read_patients.py``)
    halves.py      a bank in two halves that share no phrase
    grammar.py     templates: choices and names
    patients.py    which problems a patient has, and what becomes of them
    write.py       from problems to sentences (``draft.py``); ``normal.py`` says what is not wrong
    style.py       from sentences to a hospital's text
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

from fedrad.data.report import FEATURES, Row, Source, row_of, value_of_doubt
from fedrad.data.synthetic.bank import Bank
from fedrad.data.synthetic.draft import Draft
from fedrad.data.synthetic.halves import half as half_of
from fedrad.data.synthetic.patients import histories
from fedrad.data.synthetic.read_bank import labels_of, load_bank
from fedrad.data.synthetic.style import house_style
from fedrad.data.synthetic.write import write


def source(path: str | Path | None, reports: int, seed: int, bank: str, uncertain: str) -> Source:
    """Generated reports as a corpus; ``path`` is not used. The arguments are those of ``generate``."""
    value_of_doubt(uncertain)
    features = FEATURES(labels_of(bank))
    return Source([], lambda warn: (features, generate(reports, seed, bank=bank, uncertain=uncertain)))


def generate(
    reports: int,
    seed: int,
    sites: int = 4,
    *,
    bank: str = "chest-xray",
    half: int | None = None,
    uncertain: str = "negative",
) -> Iterator[Row]:
    """Yield ``reports`` rows {text, labels {name: 0|1|-1}, patient, site, time, split ""}, patient by patient.

    A pure function of its arguments, made one row at a time; a smaller count is a prefix of a larger one. A patient's
    reports are consecutive and in the order of time.

    Args:
        bank: one of ``fedrad.corpora.BANKS``; it decides the labels.
        half: 0 or 1, to say it with one half of the phrases only (``halves.py``).
        uncertain: what a label is that the report suspects and nowhere asserts: "negative", "positive", or "ignore"
            (-1). No Finding is 0 then in any case, since something is mentioned. Texts do not depend on it.
    Raises:
        ValueError: ``reports``, ``sites`` or ``half`` is out of range.
        ConfigError: another bank or policy.
    """
    doubt = value_of_doubt(uncertain)
    for row, draft in drafts(reports, seed, sites, bank=bank, half=half):
        row["labels"].update(dict.fromkeys(draft.hedged, doubt))
        yield row


def drafts(
    reports: int, seed: int, sites: int = 4, *, bank: str = "chest-xray", half: int | None = None
) -> Iterator[tuple[Row, Draft]]:
    """As `generate`, each row with its sentences and what they assert, deny and hedge: for tests and for study.

    The labels of the rows are those of ``uncertain="negative"``.
    """
    if reports < 0 or sites < 1:
        raise ValueError("synthetic reports need a count of at least 0 and at least one site")
    phrases = load_bank(bank)
    return itertools.islice(_endless(phrases if half is None else half_of(phrases, half), seed, sites), reports)


def _endless(bank: Bank, seed: int, sites: int) -> Iterator[tuple[Row, Draft]]:
    styles = [house_style(bank, site, seed) for site in range(sites)]
    for patient in itertools.count():
        site = random.Random(f"{seed}|site|{patient}").randrange(sites)
        for visit, (day, problems) in enumerate(histories(bank, seed, patient)):
            rng = random.Random(f"{seed}|report|{patient}|{visit}")
            text, draft = write(bank, problems, styles[site], seed, site, rng)
            labels = {name: int(name in draft.positives) for name in bank.labels}
            yield row_of(text, labels, f"synthetic-{patient:06d}", site=f"site-{site}", time=day), draft
