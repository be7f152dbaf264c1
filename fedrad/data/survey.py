"""What a user's own data is like, before it is trained on: counts, and every problem at once.

The reports are read by the code that training reads them with; only that a problem is noted where training would stop.
Everything here is computed from the reports, so it is as private as they are and must stay where they are. No text is
kept.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedrad.corpora import corpus_named
from fedrad.data.report import Source, is_single_label, label_names
from fedrad.data.table import TableColumns
from fedrad.data.tabular import rows_of
from fedrad.errors import DataError, Refuse

Lengths = Callable[[list[str]], Sequence[int]]
_AT_ONCE: Final = 256
_PLACES: Final = 10
_HOLE: Final = re.compile(r"_{3,}|\bX{3,}\b")
_LONGEST_CLASS, _MOST_CLASSES = 60, 100


@dataclass(frozen=True)
class Problem:
    """Something that a run would refuse.

    Attributes:
        says: what is wrong; names the column where there is one.
        file: where; "" if it is about the configuration.
        rows: the first of the rows, from 1 behind the header.
        count: how many rows there are.
        remedy: what to do.
    """

    says: str
    file: str = ""
    rows: tuple[int, ...] = ()
    count: int = 0
    remedy: str = ""


@dataclass(frozen=True)
class LabelCount:
    """Reports by what one label says of them; ``uncertain`` and ``missing`` are None where the corpus does not say."""

    name: str
    positive: int
    uncertain: int | None = None
    missing: int | None = None


@dataclass(frozen=True)
class Survey:
    """What the reports are like.

    Attributes:
        rows: of the file of a table; None for other corpora.
        reports: those that can be used.
        single: whether a report has one class.
        labels: of each label or class, the number of reports.
        patients: how many; ``per_patient``: the reports of each, ascending.
        copies: reports with the same text as another of the same patient.
        shared: reports with the same text as one of another patient.
        holes: reports in which something was removed (``___`` or XXXX).
        lengths: tokens of each report, if they were asked for.
        notes: what the reader warns of.
        problems: what it would refuse.
    """

    rows: int | None = None
    reports: int = 0
    single: bool = False
    labels: tuple[LabelCount, ...] = ()
    per_patient: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    copies: int = 0
    shared: int = 0
    holes: int = 0
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def patients(self) -> int:
        return len(self.per_patient)


class Found:
    """Collects problems; those of many rows that say the same become one."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str], list[int]] = {}
        self._counts = Counter[tuple[str, str, str]]()

    def add(self, error: DataError) -> None:
        key = (error.problem, str(error.file or ""), error.remedy)
        rows = self._rows.setdefault(key, [])
        self._counts[key] += error.row is not None
        if error.row is not None and len(rows) < _PLACES:
            rows.append(error.row)

    def problems(self) -> tuple[Problem, ...]:
        return tuple(
            Problem(key[0], key[1], tuple(rows), self._counts[key], key[2]) for key, rows in self._rows.items()
        )


def survey(
    name: str, path: Path, columns: TableColumns | None, lengths: Lengths | None = None, uncertain: str = "negative"
) -> Survey:
    """Reads a corpus to its end, whatever is wrong with it.

    Args:
        name, path, columns, uncertain: as for ``load_corpus``.
        lengths: the tokens of some texts.
    """
    found, notes = Found(), list[str]()
    table = columns if corpus_named(name)[1].columns else None
    try:
        features, rows = _source(name, path, table, uncertain, found.add).read(notes.append)
    except DataError as error:
        found.add(error)
        return Survey(problems=found.problems())
    names, single = label_names(features), is_single_label(features)
    positive, patients, tokens = Counter[str](), Counter[str](), list[int]()
    texts, owners, holes = Counter[bytes](), dict[bytes, set[bytes]](), 0
    try:
        while chunk := list(islice(rows, _AT_ONCE)):
            for row in chunk:
                labels = row["labels"]
                positive.update([names[labels]] if single else [n for n, value in labels.items() if value == 1])
                patients[row["patient"]] += 1
                text, owner = (blake2b(row[key].encode(), digest_size=8).digest() for key in ("text", "patient"))
                texts[text + owner] += 1
                owners.setdefault(text, set()).add(owner)
                holes += _HOLE.search(row["text"]) is not None
            if lengths is not None:
                tokens += lengths([row["text"] for row in chunk])
    except DataError as error:
        found.add(error)
    several = [text for text, whose in owners.items() if len(whose) > 1]
    reports = sum(patients.values())
    if not reports and not found.problems():
        found.add(DataError("no report is left to use.", file=path, remedy="See the notes on what was left out."))
    doubtful = {} if single else _masked(name, path, table, "uncertain")
    absent = {} if single or table is None else _masked(name, path, table, "missing")
    shown = _classes(names, positive, reports) if single else {label: label for label in names}
    return Survey(
        rows=None if table is None else _count(path, table),
        reports=reports,
        single=single,
        labels=tuple(
            LabelCount(shown[label], positive[label], doubtful.get(label), absent.get(label)) for label in names
        ),
        per_patient=np.sort(np.array(list(patients.values()), dtype=np.int64)),
        copies=sum(count - 1 for count in texts.values()),
        shared=sum(texts[text + owner] for text in several for owner in owners[text]),
        holes=holes,
        lengths=np.array(tokens, dtype=np.int64),
        notes=tuple(notes),
        problems=found.problems(),
    )


def _source(name: str, path: Path, table: TableColumns | None, uncertain: str, refuse: Refuse) -> Source:
    name, corpus = corpus_named(name)
    given: dict[str, object] = {"columns": table, "uncertain": uncertain}
    options = {option: given[option] for option in corpus.options}
    if table is not None:
        options["refuse"] = refuse
    source: Source = import_module(f"fedrad.data.{corpus.reader}").source(path, **options)
    return source


def _masked(name: str, path: Path, table: TableColumns | None, what: str) -> dict[str, int]:
    """For each label the reports that are masked where those in doubt, or those without a value, are."""
    if "uncertain" not in corpus_named(name)[1].options:
        return {}
    missing = what == "missing"
    columns = None if table is None else replace(table, missing="ignore" if missing else "negative")
    masked, wrong = Counter[str](), Counter[str]()

    def refuse(error: DataError) -> None:
        wrong[error.problem] += 1

    try:
        source = _source(name, path, columns, "negative" if missing else "ignore", refuse)
        features, rows = source.read(lambda note: None)
        for row in rows:
            masked.update([label for label, value in row["labels"].items() if value == -1])
    except DataError:
        return {}
    return {label: masked[label] - _refused(wrong, label) for label in label_names(features)}


def _refused(wrong: Counter[str], label: str) -> int:
    """What is no label value comes masked as well."""
    return sum(count for problem, count in wrong.items() if f"label {label!r}" in problem)


def _count(path: Path, table: TableColumns) -> int | None:
    try:
        rows = rows_of(path, [(table.text, "any")], table.form, lambda error: None)
        return sum(1 for _ in rows)
    except DataError:
        return None


def _classes(names: Sequence[str], counts: Counter[str], reports: int) -> dict[str, str]:
    """What each class is called in a message: itself, unless it may be a text, because a wrong column was named."""
    many = len(names) > min(_MOST_CLASSES, max(1, reports // 2))
    return {name: f"(class {k})" if many or len(name) > _LONGEST_CLASS else name for k, name in enumerate(names, 1)}
