"""What the tests of the phrase banks share."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np

from fedrad.data.synthetic import Draft
from fedrad.data.synthetic.bank import Bank
from fedrad.data.synthetic.draft import Voice
from fedrad.data.synthetic.grammar import Taste
from fedrad.data.synthetic.style import house_style

Corpus = list[tuple[dict[str, object], Draft]]


def templates(bank: Bank) -> set[str]:
    """Every template of a bank."""
    phrases = {phrase.template for finding in bank.findings.values() for phrase in finding.body + finding.impression}
    phrases |= {phrase.template for part in bank.anatomy for phrase in part.sentences}
    return phrases | {template for group in bank.sentences.values() for template in group}


def said(bank: Bank, template: str, times: int = 12) -> set[str]:
    """Several expansions of a template, with equal odds for every option."""
    rng, style = random.Random(template), house_style(bank, 0, 0)
    words = [Voice(bank, style, rng).bind(side, change) for side in ("left", "right") for change in bank.changes]
    voice = Voice(bank, replace(style, taste=Taste("", 0.0)), rng)
    return {voice.expand(template, rng.choice(words)) for _ in range(times)}


def label_matrix(corpus: Corpus) -> np.ndarray:
    """The labels of generated rows, [n, L]."""
    return np.array([list(row["labels"].values()) for row, _ in corpus])  # type: ignore[attr-defined]
