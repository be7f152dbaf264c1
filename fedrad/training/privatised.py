"""Training on privatised texts: a hospital draws them once, keeps them beside its ledger, and trains on nothing else.

Guarantee:
    What leaves the hospital depends on the texts of its reports only through the privatised ones: the guarantee of
    ``privatise`` holds for them, whoever sees the adapter and whatever its noise. It is a guarantee of another kind
    than epsilon and never added to it. Labels, patients, how many reports there are and which of them changed between
    runs are not perturbed.
    Epsilon is not touched. For that the other reports' texts must not depend on whether a report is there, over all
    runs together: so each report has a draw of its own, which it keeps whatever becomes of the others. (Copies of one
    text of one patient, or of nobody in particular, are one report in this.)
    Every draw of the same text adds up. So a draw is kept, under a digest of the report's patient and text and of all
    that decides it: a resumed run, a retried round and any later run with the same settings train on the same draw.
    Other settings or another version of fedrad draw anew. So does the loss of what was kept, and a patient's new name.
    The certificate counts these draws and adds them up, from above: texts that are drawn after others have left the
    table, or where no patients are named, count as drawn again. A run on the texts themselves, or of which nothing is
    known any more, is noted as well: then nothing holds.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

import datasets
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import fedrad
from fedrad.config import Experiment
from fedrad.data.report import Row, write_reports
from fedrad.errors import DataError
from fedrad.files import private_folder, sync_folder, write_whole
from fedrad.ledger.view import read_ledger
from fedrad.privatise.budgets import Choice, choice_of
from fedrad.privatise.local import figures_of
from fedrad.training.corpus import Corpus

FOLDER: Final = "privatised"
_NOTES, _LOCK = "draws.json", "lock"
_TEXTS_AT_ONCE = 256
_KEPT: Final = datasets.Features({name: datasets.Value("string") for name in ("report", "text")})
_AGAIN: Final = "Restore it from a backup; or remove it, and texts are drawn anew, which the certificate then counts."


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
        DataError, OSError: the texts can't be written, or those that were kept are damaged.
        LedgerError: the ledger can't be read.
    """
    choice, folder = choice_of(experiment.data), directory / FOLDER
    if choice is None and not folder.exists():
        return corpus, rows
    private_folder(directory)
    private_folder(folder)
    with _locked(folder):
        notes = _read(folder)
        if run not in notes["runs"] and _charged(directory, run):
            notes["runs"][run] = [""]  # it was charged for steps on texts that nothing is known of
        if choice is None:
            _note(folder, notes, run, "")
            return corpus, rows
        reports = corpus.reports.select(rows)
        column = _drawn_once(experiment, choice, reports, folder, notes, site=site, run=run)
    # By Arrow: datasets itself would copy the rows with a progress bar.
    rest = reports.remove_columns("text").with_format("arrow")[:]
    table = datasets.table.InMemoryTable(rest.add_column(0, "text", column))
    found = datasets.Dataset(table, info=datasets.DatasetInfo(features=corpus.reports.features))
    return replace(corpus, reports=found), np.arange(len(rows))


def draws_in(directory: Path, runs: tuple[str, ...]) -> dict[str, Any] | None:
    """What a ledger's certificate says of privatised texts; None: nothing was ever privatised there.

    Args:
        directory: the hospital's own.
        runs: all runs of its ledger.

    Raises:
        DataError: the notes are damaged.
    """
    notes = _read(directory / FOLDER)
    if not notes["draws"]:
        return None
    whole = all(notes["runs"].get(run) and "" not in notes["runs"][run] for run in runs)
    return {"in_all_runs": whole, "draws": [d["figures"] for d in notes["draws"].values() for _ in range(d["times"])]}


def draws_of_run(directory: Path) -> list[dict[str, Any]]:
    """Of a run's hospitals the draws of the one that drew most; none, if not all of their steps were on privatised
    texts, as far as is known.

    Args:
        directory: of the run, with its ledgers.
    """
    # Where the hospital is the unit there is a ledger of the server's own, who reads no texts.
    ledgers = [file.parent for file in (directory / "ledger").glob("*/ledger.sqlite") if file.parent.name != "server"]
    told = [draws_in(ledger, read_ledger(ledger).runs) for ledger in ledgers]
    whole = [one["draws"] for one in told if one is not None and one["in_all_runs"]]
    return max(whole, key=len) if len(whole) == len(ledgers) and whole else []


def _drawn_once(
    experiment: Experiment,
    choice: Choice,
    reports: datasets.Dataset,
    folder: Path,
    notes: dict[str, Any],
    *,
    site: str,
    run: str,
) -> pa.ChunkedArray:
    """The reports' privatised texts, in order; on the disk, and noted, before they are used."""
    draw = _digest(
        asdict(choice),
        experiment.data.privatise_task,
        fedrad.__version__,
        site,
        experiment.train.seed if experiment.privacy.noise == "seeded" else None,
    )
    noted = notes["draws"].setdefault(draw, {"figures": figures_of(experiment), "times": 0, "texts": ""})
    kept, named = _texts(folder, noted["texts"]), _names_patients(experiment)
    asked = _identified(reports, by_patient=named)
    here, there = set(asked), set(kept["report"][:])
    new = [row for row, report in enumerate(asked) if report not in there]
    if new:
        # Whether one of these was drawn before, under another name, is not known. Nor may the count tell of any text.
        if not (there and named and there <= here):
            noted["times"] += 1
        texts = _drawn(experiment, choice, reports.select(new), site, len(kept))
        fresh = ({"report": asked[row], "text": text} for row, text in zip(new, texts, strict=True))
        noted["texts"] = _write(folder, chain(kept, fresh))
        kept = _texts(folder, noted["texts"])
    _note(folder, notes, run, draw)
    for file in folder.glob("*.arrow"):  # what was replaced, or written by a process that ended before it was noted
        if file.stem not in {one["texts"] for one in notes["draws"].values()}:
            file.unlink()
    place = {key: row for row, key in enumerate(kept["report"][:])}
    column: pa.ChunkedArray = kept.with_format("arrow")[:]["text"]
    return column.take(pa.array([place[report] for report in asked], pa.int64()))


def _names_patients(experiment: Experiment) -> bool:
    """Whether the reports' patients have names that stay; otherwise they are numbered by their rows."""
    corpus = experiment.corpus
    return corpus is not None and (bool(experiment.data.patient_column) if corpus.columns else corpus.patients)


def _identified(reports: datasets.Dataset, *, by_patient: bool) -> list[str]:
    """For each report a digest of patient and text, and of which of several such reports it is. Where no patient is
    named, of how many there are as well: otherwise one would show what another was in an earlier run."""
    found = [
        _digest(patient if by_patient else "", text)
        for rows in reports.select_columns(["text", "patient"]).iter(batch_size=_TEXTS_AT_ONCE)
        for text, patient in zip(rows["text"], rows["patient"], strict=True)
    ]
    copies, before = Counter(found), Counter[str]()
    for row, report in enumerate(found):
        found[row] = _digest(report, before[report], 0 if by_patient else copies[report])
        before[report] += 1
    return found


def _drawn(experiment: Experiment, choice: Choice, reports: datasets.Dataset, site: str, before: int) -> Iterator[str]:
    """A draw for each report; ``before``: how many draws there are already."""
    # Both take seconds to import or load, and most calls find the texts drawn.
    from fedrad.privatise.embeddings import load_table
    from fedrad.privatise.privatiser import Privatiser

    seed = experiment.train.seed if experiment.privacy.noise == "seeded" else None
    privatiser = Privatiser(load_table(), choice, experiment.data.privatise_task, seed=seed)
    first = -(-before // _TEXTS_AT_ONCE)  # with a seed, no part repeats the randomness of another
    for part, rows in enumerate(reports.select_columns(["text"]).iter(batch_size=_TEXTS_AT_ONCE), start=first):
        yield from privatiser.texts(rows["text"], f"{site}/{part}")


def _write(folder: Path, lines: Iterable[Row]) -> str:
    """Keeps texts in a file that is named by its SHA-256 (hex), which is returned. It counts once it is noted."""
    file = folder / "new"
    write_reports(lines, _KEPT, file)
    with file.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    file.replace(folder / f"{digest}.arrow")
    sync_folder(folder)
    return digest


def _texts(folder: Path, digest: str) -> datasets.Dataset:
    """What was kept; nothing if it is no longer there."""
    file = folder / f"{digest}.arrow"
    if not file.exists():
        return datasets.Dataset.from_dict({name: [] for name in _KEPT}, features=_KEPT)
    with file.open("rb") as kept:
        if hashlib.file_digest(kept, "sha256").hexdigest() != digest:
            raise DataError("does not hold the privatised texts that were kept there.", file=file, remedy=_AGAIN)
    return datasets.Dataset.from_file(str(file))


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _charged(directory: Path, run: str) -> bool:
    """Whether the ledger has a charge of the run."""
    return (directory / "ledger.sqlite").exists() and run in read_ledger(directory).runs


def _read(folder: Path) -> dict[str, Any]:
    """Of each draw its figures, how many times some text was drawn, and the digest of the texts; of each run its draws,
    and "" where it trained on the texts themselves."""
    file = folder / _NOTES
    if not file.exists():
        return {"draws": {}, "runs": {}}
    try:
        notes: dict[str, Any] = json.loads(file.read_text("utf-8"))
        for drawn in notes["draws"].values():
            drawn["figures"], drawn["times"], drawn["texts"]
        notes["runs"].items()
    except (ValueError, TypeError, KeyError, AttributeError):
        remedy = "Restore it from a backup; or remove it, and no certificate promises anything of texts any more."
        raise DataError("is damaged: it says which privatised texts runs used.", file=file, remedy=remedy) from None
    return notes


def _note(folder: Path, notes: dict[str, Any], run: str, draw: str) -> None:
    """That a run trained on this draw, or (an empty one) on the texts themselves; on the disk before it does."""
    keys = notes["runs"].setdefault(run, [])
    if draw not in keys:
        keys.append(draw)
    if notes != _read(folder):
        write_whole(folder / _NOTES, json.dumps(notes, indent=1).encode(), durable=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lets in one process at a time, so that nothing is drawn twice."""
    descriptor = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
