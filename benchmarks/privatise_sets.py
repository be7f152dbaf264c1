"""Sets of texts for the benchmarks of privatisation: what is learnt from, what is privatised, what an attacker has.

Movies are sentences of reviews with a human rating, from the package vaderSentiment (MIT; Hutto and Gilbert, ICWSM
2014, after Pang and Lee 2005), which has them in its source archive:

    pip download --no-deps --no-binary :all: vaderSentiment==0.5
    unzip -p vaderSentiment-0.5.zip '*/hutto_ICWSM_2014.tar.gz' | tar xz    # -> movieReviewSnippets_GroundTruth.txt

AG News, Yelp and SQuAD are read from a hub id or from a folder or file in the form in which they are published.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedrad.corpora import CHEXPERT, UNSEEN
from fedrad.data.openi import source as openi
from fedrad.data.synthetic import generate

PUBLIC_BANKS = ("chest-xray", "chest-xray-icu", "chest-xray-british", "chest-xray-indian")
Split = Literal["train", "test"]


@dataclass(frozen=True)
class TextSet:
    """Texts with labels.

    Attributes:
        task: what privatisation is told that the texts are for.
        learnt, learnt_labels: clean texts that a classifier learns from, and an attacker knows; labels [n, L].
        texts, labels: those that are privatised, [m, L].
        single: each text has one class, and the score is the accuracy; else it is the weighted F1.
    """

    name: str
    task: str
    learnt: Sequence[str]
    learnt_labels: NDArray[np.bool_]
    texts: Sequence[str]
    labels: NDArray[np.bool_]
    single: bool


def reports(name: str, rows: Sequence[Any]) -> TextSet:
    """Reports with the labels of CheXpert, beside 2,500 generated ones of all banks."""
    public = [row for bank in (*PUBLIC_BANKS, UNSEEN) for row in generate(500, 0, bank=bank)]
    return TextSet(
        name,
        "chest x-ray findings",
        [row["text"] for row in public],
        _findings(public),
        [row["text"] for row in rows],
        _findings(rows),
        single=False,
    )


def generated(count: int) -> TextSet:
    """Reports of a bank of phrases, others of which are among what a classifier and an attacker know."""
    return reports("generated reports", list(generate(count, 1, bank=UNSEEN)))


def openi_reports(path: Path, count: int) -> TextSet:
    """The first reports of Open-i."""
    _, found = openi(path).read(lambda _: None)
    return reports("Open-i", list(islice(found, count)))


def movies(file: Path, count: int) -> TextSet:
    """Sentences of movie reviews, for or against: those with a mean rating of at least 1/2 either way."""
    rows = [line.split("\t", 2) for line in file.read_text("latin-1").splitlines()]
    rated = [(float(rating), text.strip()) for _, rating, text in rows if abs(float(rating)) >= 0.5]
    order = np.random.default_rng(0).permutation(len(rated))
    classes = one_hot([int(rating > 0) for rating, _ in rated], 2)
    tested, learnt = order[:count], order[count:]
    texts = [text for _, text in rated]
    return TextSet(
        "movie reviews",
        "movie review, good or bad",
        [texts[k] for k in learnt],
        classes[learnt],
        [texts[k] for k in tested],
        classes[tested],
        single=True,
    )


def classified(name: str, source: str, task: str, classes: int, count: int) -> TextSet:
    """AG News (4 classes) or Yelp (5): the first ``count`` texts of the test split, beside 20,000 of training."""
    learnt, known = read_classes(source, "train", 20_000)
    texts, given = read_classes(source, "test", count)
    return TextSet(name, task, learnt, one_hot(known, classes), texts, one_hot(given, classes), single=True)


def read_classes(source: str, split: Split, count: int) -> tuple[list[str], list[int]]:
    """Texts and classes from 0.

    Args:
        source: a folder with ``train.csv`` and ``test.csv`` as first published (no header, the class from 1, then the
            parts of the text), or with Parquet files whose names begin with the split (``text``, ``label`` from 0);
            otherwise a hub id.
    """
    folder = Path(source)
    if (file := folder / f"{split}.csv").is_file():
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(islice(csv.reader(lines), count))
        return [" ".join(row[1:]).replace("\\n", " ").strip() for row in rows], [int(row[0]) - 1 for row in rows]
    from datasets import load_dataset

    if folder.is_dir():
        files = sorted(str(file) for file in folder.rglob(f"{split}*.parquet"))
        if not files:
            raise SystemExit(f"{folder} has neither {split}.csv nor {split}*.parquet")
        found = load_dataset("parquet", data_files=files, split=f"train[:{count}]")
    else:
        found = load_dataset(source, split=f"{split}[:{count}]")
    return list(found["text"]), list(found["label"])


class Question(NamedTuple):
    """A question of SQuAD: the answers are phrases of the context."""

    context: str
    question: str
    answers: tuple[str, ...]


def read_squad(source: str, count: int) -> list[Question]:
    """The first questions of a SQuAD file (JSON, version 1.1 or 2.0), or of a hub id's validation split; questions
    without an answer are left out."""
    if Path(source).is_file():
        articles = json.loads(Path(source).read_text("utf-8"))["data"]
        found = [
            Question(part["context"], asked["question"], tuple(answer["text"] for answer in asked["answers"]))
            for article in articles
            for part in article["paragraphs"]
            for asked in part["qas"]
        ]
    else:
        from datasets import load_dataset

        rows = load_dataset(source, split="validation")
        found = [Question(row["context"], row["question"], tuple(row["answers"]["text"])) for row in rows]
    return [question for question in found if question.answers][:count]


def one_hot(classes: Sequence[int], count: int) -> NDArray[np.bool_]:
    """Classes from 0 as rows with one true value, [n, count]."""
    return np.asarray(classes)[:, None] == np.arange(count)


def _findings(rows: Sequence[Any]) -> NDArray[np.bool_]:
    return np.array([[row["labels"][name] == 1 for name in CHEXPERT] for row in rows])
