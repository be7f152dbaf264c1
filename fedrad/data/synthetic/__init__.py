"""Generates chest x-ray and CT reports with known labels: the default corpus, and the text of the public bases.

The generator is a grammar and reads no data, so training on its reports costs no privacy. Patients have problems that
evolve over follow-ups. Each report is written sentence by sentence in its hospital's style, and every sentence carries
the labels that it asserts or suspects. The labels of a report are the union of these, so they are exact.

    banks/         what reports can say, and the labels of each phrase, in TOML; ``bank.toml`` has the rules
    bank.py        a bank in memory
    read_bank.py   reads and checks the files (with ``toml_table.py`` and ``read_patients.py``)
    halves.py      a bank in two halves that share no phrase
    grammar.py     templates: choices and names
    patients.py    which problems a patient has, and how they change
    draft.py       a report as sentences, and the voice that makes them
    write.py       from problems to sentences; ``normal.py`` describes normal anatomy
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
    """Yields ``reports`` rows {text, labels {name: 0|1|-1}, patient, site, time, split ""}, patient by patient.

    A pure function of its arguments; a smaller count gives a prefix of a larger one. A patient's reports are
    consecutive and in order of time.

    Args:
        bank: one of ``fedrad.corpora.BANKS``; it decides the labels.
        half: 0 or 1, to use one half of the phrases only (``halves.py``).
        uncertain: the value of a label that the report suspects but does not assert: "negative", "positive" or
            "ignore" (-1). Texts do not depend on it, and No Finding is 0 in such a report.
    Raises:
        ValueError: ``reports``, ``sites`` or ``half`` is out of range.
        ConfigError: the bank or the policy is unknown.
    """
    doubt = value_of_doubt(uncertain)
    for row, draft in drafts(reports, seed, sites, bank=bank, half=half):
        row["labels"].update(dict.fromkeys(draft.hedged, doubt))
        yield row


def drafts(
    reports: int, seed: int, sites: int = 4, *, bank: str = "chest-xray", half: int | None = None
) -> Iterator[tuple[Row, Draft]]:
    """As `generate` with ``uncertain="negative"``, each row with its sentences and what they assert, deny and hedge."""
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
