"""Training on privatised texts: a hospital draws them once, keeps them beside its ledger, and trains on nothing else.

Guarantee:
    What leaves the hospital depends on the texts of its reports only through the privatised ones: the guarantee of
    ``privatise`` holds for them, whoever sees the adapter and whatever its noise. It is a guarantee of another kind
    than epsilon and never added to it. (Epsilon is not touched: every report is perturbed by itself, so a mechanism on
    the results is as private as on the reports.) Labels, patients and how many reports there are are not perturbed.
    Every draw of the same texts adds up. So a draw is kept, under a digest of the texts and of all that decides it: a
    resumed run, a retried round and any later run with the same reports and settings train on the same draw. Changed
    reports, settings or another version of fedrad draw anew, for all reports; the draws are counted, and the
    certificate adds them up. A run that trained on the texts themselves is noted as well: then nothing holds.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import datasets
import numpy as np
from numpy.typing import NDArray

import fedrad
from fedrad.config import Experiment
from fedrad.data.report import Row, write_reports
from fedrad.files import private_folder, write_whole
from fedrad.privatise.budgets import Choice, choice_of
from fedrad.privatise.local import figures_of
from fedrad.training.corpus import Corpus

FOLDER: Final = "privatised"
_NOTES, _LOCK = "draws.json", "lock"
_TEXTS_AT_ONCE = 256
_TEXT: Final = datasets.Features({"text": datasets.Value("string")})


def trained_on(
    experiment: Experiment, corpus: Corpus, rows: NDArray[np.int64], directory: Path, *, site: str, run: str
) -> tuple[Corpus, NDArray[np.int64]]:
    """These reports as a hospital trains on them: as they are, or with texts that are drawn once.

    Args:
        rows: the hospital's, of the corpus.
        directory: the hospital's own, with its ledger.
        site, run: the hospital's name, and the run's in its ledger.

    Returns:
        A corpus, and the rows of it that are the hospital's, in the same order.

    Raises:
        DataError, OSError: the texts can't be written.
    """
    choice, folder = choice_of(experiment.data), directory / FOLDER
    if choice is None and not folder.exists():
        return corpus, rows
    private_folder(directory)
    private_folder(folder)
    with _locked(folder):
        if choice is None:
            _note(folder, run, "")
            return corpus, rows
        reports = corpus.reports.select(rows)
        key = _key(experiment, choice, reports, site)
        file = folder / f"{key}.arrow"
        if file.exists():
            texts = datasets.Dataset.from_file(str(file))
        else:
            texts = write_reports(_drawn(experiment, choice, reports, site), _TEXT, file)
        _note(folder, run, key, figures_of(experiment))
    # By Arrow: datasets itself would copy the rows with a progress bar.
    rest, column = reports.remove_columns("text").with_format("arrow")[:], texts.with_format("arrow")[:]["text"]
    table = datasets.table.InMemoryTable(rest.add_column(0, "text", column))
    found = datasets.Dataset(table, info=datasets.DatasetInfo(features=corpus.reports.features))
    return replace(corpus, reports=found), np.arange(len(rows))


def draws_in(directory: Path, runs: tuple[str, ...]) -> dict[str, Any] | None:
    """What a ledger's certificate says of privatised texts; None: nothing was ever privatised there.

    Args:
        directory: the hospital's own.
        runs: all runs of its ledger.
    """
    if not (directory / FOLDER / _NOTES).exists():
        return None
    notes = json.loads((directory / FOLDER / _NOTES).read_text("utf-8"))
    if not notes["draws"]:
        return None
    whole = all(notes["runs"].get(run) and "" not in notes["runs"][run] for run in runs)
    return {"in_all_runs": whole, "draws": list(notes["draws"].values())}


def _drawn(experiment: Experiment, choice: Choice, reports: datasets.Dataset, site: str) -> Iterator[Row]:
    # Both take seconds to import or load, and most calls find the texts drawn.
    from fedrad.privatise.embeddings import load_table
    from fedrad.privatise.privatiser import Privatiser

    seed = experiment.train.seed if experiment.privacy.noise == "seeded" else None
    privatiser = Privatiser(load_table(), choice, experiment.data.privatise_task, seed=seed)
    for part, rows in enumerate(reports.select_columns(["text"]).iter(batch_size=_TEXTS_AT_ONCE)):
        for text in privatiser.texts(rows["text"], f"{site}/{part}"):
            yield {"text": text}


def _key(experiment: Experiment, choice: Choice, reports: datasets.Dataset, site: str) -> str:
    """SHA-256 (hex) of the texts, in order, and of all that decides what is drawn."""
    seeded = experiment.privacy.noise == "seeded"
    settings = [asdict(choice), experiment.data.privatise_task, fedrad.__version__, site]
    digest = hashlib.sha256(json.dumps([*settings, experiment.train.seed if seeded else None]).encode())
    for rows in reports.select_columns(["text"]).iter(batch_size=_TEXTS_AT_ONCE):
        for text in rows["text"]:
            digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()


def _note(folder: Path, run: str, key: str, drawn: dict[str, Any] | None = None) -> None:
    """That a run trained on this draw, or (an empty key) on the texts themselves; on the disk before it does."""
    file = folder / _NOTES
    notes = json.loads(file.read_text("utf-8")) if file.exists() else {"draws": {}, "runs": {}}
    keys = notes["runs"].get(run, [])
    if key in keys:
        return
    notes["runs"][run] = [*keys, key]
    if drawn is not None:
        notes["draws"][key] = drawn
    write_whole(file, json.dumps(notes, indent=1).encode(), durable=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lets in one process at a time, so that nothing is drawn twice."""
    descriptor = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
