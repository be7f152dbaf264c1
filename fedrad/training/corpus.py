"""From a configuration to the training set, the test set and the hospitals' shards, the same in every process."""

from __future__ import annotations

from dataclasses import dataclass, replace

import datasets
import numpy as np
from numpy.typing import NDArray

from fedrad.config import Experiment
from fedrad.corpora import label_columns, names_in
from fedrad.data.load import load_corpus
from fedrad.data.shards import partition, split_by_patient
from fedrad.data.table import TableColumns
from fedrad.errors import ConfigError
from fedrad.tasks.causal_lm import CausalLM
from fedrad.tasks.multi_label import MultiLabel
from fedrad.tasks.single_label import SingleLabel
from fedrad.tasks.task import Task, task_of
from fedrad.training.shots import with_examples


@dataclass(frozen=True)
class Corpus:
    """A corpus, its task, and its split by patient; ``train`` and ``test`` are row indices, ascending."""

    reports: datasets.Dataset
    task: Task
    train: NDArray[np.int64]
    test: NDArray[np.int64]


def table_columns(experiment: Experiment) -> TableColumns:
    """What ``data.*`` says of a table."""
    data = experiment.data
    return TableColumns(
        text=data.text_column,
        labels=label_columns(data.label_columns),
        classes=tuple(sorted(names_in(data.classes))),
        patient=data.patient_column,
        site=data.site_column,
        time=data.time_column,
        map=data.map,
        missing=data.missing,
        separator=data.separator,
        encoding=data.encoding,
    )


def load_reports(experiment: Experiment) -> datasets.Dataset:
    """The corpus that ``data.*`` names, not yet split.

    Raises:
        DataError: it can't be read.
        ConfigError: there is none.
    """
    data = experiment.data
    if experiment.corpus is None:
        raise ConfigError("data.name: none is for the server of real hospitals; here there is nothing to train on")
    return load_corpus(
        data.name,
        data.path or None,
        uncertain=data.uncertain,
        columns=table_columns(experiment),
        reports=data.reports,
        seed=data.seed,
        bank=data.bank,
    )


def read_corpus(experiment: Experiment) -> Corpus:
    """Reads the corpus that ``data.*`` names and splits it.

    Raises:
        DataError: it can't be read, or nothing is left to train or to test on.
        ConfigError: there is none.
    """
    whole = read_whole_corpus(experiment)
    train, test = split_by_patient(whole.reports, experiment.data.test_fraction, experiment.data.seed)
    corpus = replace(whole, train=np.sort(train), test=np.sort(test))
    if experiment.sites.alone:
        return replace(corpus, train=hospital_shares(experiment, corpus)[experiment.sites.alone - 1])
    return corpus


def read_whole_corpus(experiment: Experiment) -> Corpus:
    """Reads the corpus that ``data.*`` names, all of it to train on, as a real hospital does.

    Guarantee: nothing is counted or divided, so no setting of a server's makes this fail for some reports and not for
    others.

    Raises:
        DataError: it can't be read.
        ConfigError: there is none.
    """
    reports = load_reports(experiment)
    model = experiment.model
    task = task_of(reports.features, causal=experiment.causal, instruction=model.instruction, loss=model.loss)
    return Corpus(reports, with_examples(task, experiment), train=np.arange(len(reports)), test=np.arange(0))


def stated_task(experiment: Experiment) -> Task:
    """The task of a run whose server has no corpus (``data.name = none``)."""
    labels, single = experiment.stated_labels
    if experiment.causal:
        return with_examples(CausalLM(labels, experiment.model.instruction, experiment.model.loss), experiment)
    return SingleLabel(labels) if single else MultiLabel(labels)


def hospital_shares(experiment: Experiment, corpus: Corpus) -> list[NDArray[np.int64]]:
    """The training rows of each simulated hospital, ascending. One hospital gets exactly ``corpus.train``."""
    if experiment.sites.count == 1:
        return [corpus.train]
    shares = partition(
        corpus.reports,
        corpus.train,
        experiment.sites.partition,
        experiment.sites.count,
        experiment.sites.alpha,
        experiment.data.seed,
    )
    return [np.sort(share) for share in shares]


def site_name(index: int) -> str:
    """Name of a simulated hospital; the centralized run is ``site_name(0)``, so its streams are the same."""
    return f"site-{index:03d}"
