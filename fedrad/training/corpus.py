"""From a configuration to train, test and hospitals' shares of a corpus, the same in every process that asks."""

from __future__ import annotations

from dataclasses import dataclass

import datasets
import numpy as np
from numpy.typing import NDArray

from fedrad.config import Experiment
from fedrad.data.labels import CHEXPERT
from fedrad.data.load import load_corpus
from fedrad.data.report import is_single_label, label_names
from fedrad.data.shards import partition, split_by_patient
from fedrad.data.table import TableColumns
from fedrad.errors import ConfigError
from fedrad.settings import names_in


@dataclass(frozen=True)
class Corpus:
    """A corpus with its split by patient; ``train`` and ``test`` are row indices, ascending."""

    reports: datasets.Dataset
    names: tuple[str, ...]
    single_label: bool
    train: NDArray[np.int64]
    test: NDArray[np.int64]


def read_corpus(experiment: Experiment) -> Corpus:
    """Reads the corpus that ``data.*`` names and splits it.

    Raises:
        DataError: it can't be read, or nothing is left to train or to test on.
        ConfigError: there is none.
    """
    data = experiment.data
    if data.name == "none":
        raise ConfigError("data.name: none is for the server of real hospitals; here there is nothing to train on")
    columns = None
    if data.name == "table":
        columns = TableColumns(
            text=data.text_column,
            labels=names_in(data.label_columns),
            patient=data.patient_column,
            site=data.site_column,
            time=data.time_column,
        )
    reports = load_corpus(
        data.name,
        data.path or None,
        uncertain=data.uncertain,
        columns=columns,
        reports=data.reports,
        seed=data.seed,
        bank=data.bank,
    )
    train, test = split_by_patient(reports, data.test_fraction, data.seed)
    return Corpus(
        reports=reports,
        names=label_names(reports.features),
        single_label=is_single_label(reports.features),
        train=np.sort(train),
        test=np.sort(test),
    )


def stated_labels(experiment: Experiment) -> tuple[tuple[str, ...], bool]:
    """The labels of a run whose server has no corpus (``data.name = none``), and whether a report has exactly one."""
    if experiment.data.classes:
        return tuple(sorted(names_in(experiment.data.classes))), True
    return names_in(experiment.data.label_columns) or CHEXPERT, False


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
