"""A trained run on labelled reports: what it predicts for them, and what that is worth.

All of it stays here. Scores of private reports are computed from them without noise: to publish them is a release that
the run's epsilon does not cover.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from fedrad.config import Experiment
from fedrad.corpora import CORPORA
from fedrad.data.batches import Indices, patient_numbers
from fedrad.data.find_source import source_settings
from fedrad.data.report import arrow_column, is_single_label, label_matrix, label_names
from fedrad.data.shards import split_by_patient
from fedrad.errors import ConfigError, DataError
from fedrad.evidence.bootstrap import Judged
from fedrad.evidence.classes import ClassScores, class_scores, same_text
from fedrad.evidence.predictions import Predictions
from fedrad.evidence.scores import Scores, best_thresholds, scores
from fedrad.keys import read_flat
from fedrad.model.folder import MANIFEST, adapter_folder
from fedrad.model.similarity import embedded
from fedrad.tasks.classifier import Classifier
from fedrad.tasks.predicted import Asked, text_columns
from fedrad.tasks.single_label import SingleLabel
from fedrad.training.corpus import load_reports

RELEASE: Final = (
    "These scores are computed from the reports without noise. If the reports are private, publishing or sending the"
    " scores is a release of its own, which the run's epsilon does not cover."
)
OPTIMISTIC: Final = (
    "The thresholds were chosen on these very reports, each for the best F1 of its label: precision, recall, F1 and"
    " their intervals are optimistic."
)
NOTHING_ELSE: Final = Asked()
_CHUNK = 256
_FEW = 10

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluated:
    """What ``evaluate`` found.

    Attributes:
        run: the run directory or adapter folder.
        source: where the reports lie.
        which: which of them were taken, in words.
        task: the name of the run's task.
        privacy: the run's own privacy statement.
        scores: of the labels that run and reports share.
        notes: what the reader must know about the figures.
        predictions: of every report.
        classes: of reports of one class each; None for other tasks.
    """

    run: str
    source: str
    which: str
    task: str
    privacy: str
    scores: Scores
    notes: tuple[str, ...]
    predictions: Predictions
    classes: ClassScores | None = None


def trained_with(run: Path) -> dict[str, object]:
    """The settings ``data.*`` of the run that an adapter is from, if its directory tells; ``run`` as ``adapter_folder``
    takes it."""
    folder = run.resolve().parent if (run / MANIFEST).is_file() else run
    file = folder / "experiment.toml"
    flat = read_flat(file) if file.is_file() else {}
    return {key: value for key, value in flat.items() if key.startswith("data.")}


def evaluate(
    run: Path,
    source: Path,
    overrides: Mapping[str, object],
    *,
    best: bool = False,
    everything: bool = False,
    resamples: int = 2000,
    seed: int = 0,
    device: str = "cpu",
    asked: Asked = NOTHING_ELSE,
    progress: Progress = lambda done, all_: None,
) -> Evaluated:
    """Evaluates a run.

    Args:
        source: a corpus folder or a table; the run's own settings say how it is read.
        overrides: settings ``data.*`` in their place.
        best: take for each label the threshold with the best F1 on these reports, instead of 1/2.
        everything: also reports that the run was trained on.
        resamples, seed: of the bootstrap.
        asked: of a task of classes: the threshold of abstention, and whether to judge what a decoder writes freely.

    Raises:
        ConfigError: settings are wrong, ``best`` for a task of classes, or ``asked`` for another task.
        ModelError: the run can't be used.
        DataError: the reports can't be read, or have none of the run's labels.
    """
    adapter_folder(run)
    before = trained_with(run)
    classifier = Classifier.load(run, device=device)
    task = classifier.task
    single = isinstance(task, SingleLabel)
    text_columns(task, asked)
    if best and single:
        raise ConfigError("--thresholds best: a report of one class has no threshold; the most probable class counts")
    experiment = data_experiment(source, overrides, before, classifier.labels)
    reports = load_reports(experiment)
    notes = [RELEASE]
    taken, labels = _shared(reports, classifier.labels, single, Path(experiment.data.path), notes)
    rows, which = _rows(reports, experiment, before, everything)
    if not everything and which:
        notes.append("The reports that the run was trained on are left out: it knows them.")
    if everything and _same_source(experiment, before):
        notes.append("The run was trained on some of these reports: the scores are not those of new ones.")
    probabilities = _predict(classifier, reports.select(rows), progress)
    names, labels, probabilities = tuple(classifier.labels[k] for k in taken), labels[rows], probabilities[:, taken]
    thresholds: Sequence[float | None] = [0.5] * len(names)
    if best:
        thresholds = best_thresholds(labels, probabilities)
        notes.append(OPTIMISTIC)
    judged_classes = None
    if isinstance(task, SingleLabel):
        thresholds, decided = [None] * len(names), task.decide(probabilities.astype(np.float32))
        judged_classes = _classes(classifier, labels, probabilities, asked, reports.select(rows)["text"][:])
        notes.append(judged_classes.flattery)
    else:
        decided = probabilities > np.asarray(thresholds, dtype=float)
    patients = np.unique(patient_numbers(reports)[rows], return_inverse=True)[1].astype(np.int64)
    judged = Judged(labels, probabilities, decided, patients)
    found = scores(names, judged, thresholds=thresholds, resamples=resamples, seed=seed)
    return Evaluated(
        run=str(run),
        source=experiment.data.path,
        which=which or "all reports",
        task=task.name,
        privacy=classifier.privacy,
        scores=found,
        notes=(*notes, *_caveats(found)),
        predictions=Predictions(
            rows=rows + 1,
            patients=arrow_column(reports.select(rows), "patient").to_pylist(),
            names=names,
            labels=labels,
            probabilities=probabilities,
        ),
        classes=judged_classes,
    )


def _classes(
    classifier: Classifier,
    labels: NDArray[np.int8],
    probabilities: NDArray[np.float64],
    asked: Asked,
    texts: Sequence[str],
) -> ClassScores:
    truth, names = labels.argmax(axis=1).astype(np.int64), embedded(classifier.labels)
    found = class_scores(truth, probabilities, names, abstain_below=asked.abstain_below)
    if not asked.generate:
        return found
    written, meant = classifier.generate(texts, asked.generate), [classifier.labels[k] for k in truth]
    alike = (embedded(written) * names[truth]).sum(axis=1)
    return replace(found, generated_exact_match=same_text(written, meant), generated_similarity=float(alike.mean()))


def data_experiment(
    source: Path, overrides: Mapping[str, object], before: Mapping[str, object], labels: Sequence[str]
) -> Experiment:
    """The settings by which ``source`` is read: those of the run, with the overrides before them.

    Raises:
        ConfigError: they are wrong, or one is not of ``data``.
        DataError: nothing that is known lies there.
    """
    if other := [key for key in overrides if not key.startswith("data.")]:
        raise ConfigError([f"{key}: only settings data.* matter to an evaluation" for key in other])
    flat = {**before, **overrides, **source_settings(source, str(overrides.get("data.name", "")))}
    corpus = CORPORA.get(str(flat["data.name"]).replace("_", "-"))
    if corpus is not None and corpus.columns and not flat.get("data.label-columns"):
        flat["data.label-columns"] = ",".join(labels)
    return Experiment.from_flat({key: value for key, value in flat.items() if key != "data.classes"})


def _shared(
    reports: Dataset, labels: Sequence[str], single: bool, file: Path, notes: list[str]
) -> tuple[list[int], NDArray[np.int8]]:
    """Which of the run's labels the reports have, and these, int8 [n, L]."""
    there = label_names(reports.features)
    if is_single_label(reports.features) != single:
        problem = "holds one class for each report," if not single else "holds labels of 0 and 1,"
        remedy = f"Name the columns in data.label-columns. The run's labels are {', '.join(labels)}."
        raise DataError(f"{problem} and the run was trained for the other.", file=file, remedy=remedy)
    matrix = label_matrix(reports)
    if single:
        if unknown := [name for name in there if name not in labels]:
            problem = f"{len(unknown)} of its {len(there)} classes are none of the run's."
            remedy = f"The run's are {', '.join(labels)}; say with data.map what others mean."
            raise DataError(problem, file=file, remedy=remedy)
        whole = np.zeros((len(reports), len(labels)), dtype=np.int8)
        whole[:, [labels.index(name) for name in there]] = matrix
        return list(range(len(labels))), whole
    taken = [k for k, name in enumerate(labels) if name in there]
    if not taken:
        remedy = f"Give the columns the names of the run's labels: {', '.join(labels)}."
        raise DataError("has none of the run's labels.", file=file, remedy=remedy)
    if absent := [name for name in labels if name not in there]:
        notes.append(f"The reports have no label {', '.join(absent)}: not evaluated.")
    return taken, matrix[:, [there.index(labels[k]) for k in taken]]


def _rows(
    reports: Dataset, experiment: Experiment, before: Mapping[str, object], everything: bool
) -> tuple[Indices, str]:
    """Which reports are evaluated, ascending, and what they are; "" for all."""
    if everything or not _same_source(experiment, before):
        return np.arange(len(reports)), ""
    _, test = split_by_patient(reports, experiment.data.test_fraction, experiment.data.seed)
    return np.sort(test), "the test reports of the run"


def _same_source(experiment: Experiment, before: Mapping[str, object]) -> bool:
    """Whether these are the reports that the run was trained on; a copy of them is not noticed."""
    if not before.get("data.path") or before.get("data.name") != experiment.data.name:
        return False
    then, now = (Path(str(path)).expanduser().resolve() for path in (before["data.path"], experiment.data.path))
    return then in (now, now.parent) or now == then.parent  # Open-i is named by its file or its folder


def _predict(classifier: Classifier, reports: Dataset, progress: Progress) -> NDArray[np.float64]:
    found = np.empty((len(reports), len(classifier.labels)))
    order = np.argsort([len(text) for text in reports["text"]], kind="stable")  # little padding in a chunk
    for start in range(0, len(order), _CHUNK):
        rows = order[start : start + _CHUNK]
        found[rows] = classifier.predict(reports.select(rows)["text"][:])
        progress(start + len(rows), len(order))
    return found


def _caveats(found: Scores) -> list[str]:
    notes = []
    if not found.resamples:
        why = "one patient only" if found.patients < 2 else "none were asked for"
        notes.append(f"No intervals: {why}.")
    if any(f.low is not None and f.low == f.high for label in found.labels for f in (label.precision, label.recall)):
        notes.append(
            "An interval of one value, such as 1.00–1.00, is too short: resampling can't show an error that none of"
            " these reports has."
        )
    if absent := [label.name for label in found.labels if not label.support]:
        notes.append(f"No report is positive for {', '.join(absent)}: F1 is 0 there whatever is predicted.")
    if few := [label.name for label in found.labels if 0 < label.support < _FEW]:
        notes.append(f"Fewer than {_FEW} positive reports, so figures and intervals are rough: {', '.join(few)}.")
    return notes
