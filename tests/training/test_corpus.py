"""Train, test and hospitals: the same in every process that asks, and never a patient in two."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from fedrad.corpora import CT_RATE
from fedrad.data.synthetic import generate
from fedrad.errors import ConfigError, DataError
from fedrad.tasks.multi_label import MultiLabel
from fedrad.tasks.single_label import SingleLabel
from fedrad.training.corpus import Corpus, hospital_shares, read_corpus, site_name
from tests import small


def patients(corpus: Corpus, rows: np.ndarray) -> set[str]:
    return set(corpus.reports.select(rows)["patient"])


def test_the_split_is_by_patient_and_ascending() -> None:
    corpus = read_corpus(small.experiment(data__reports=120))

    assert len(corpus.task.labels) == 14
    assert isinstance(corpus.task, MultiLabel)
    assert sorted([*corpus.train, *corpus.test]) == list(range(120))
    assert (np.diff(corpus.train) > 0).all()
    assert (np.diff(corpus.test) > 0).all()
    assert not patients(corpus, corpus.train) & patients(corpus, corpus.test)


def test_reading_twice_gives_the_same_and_another_seed_another() -> None:
    first, second = (read_corpus(small.experiment()) for _ in range(2))
    other = read_corpus(small.experiment(data__seed=1))

    assert first.reports[:] == second.reports[:]
    assert first.train.tolist() == second.train.tolist()
    assert first.reports["text"][:] != other.reports["text"][:]


def test_the_reports_and_their_labels_are_those_of_the_bank() -> None:
    corpus = read_corpus(small.experiment(data__bank="chest-ct"))

    assert corpus.task.labels == CT_RATE
    assert corpus.reports["text"][:] == [row["text"] for row in generate(len(corpus.reports), 0, bank="chest-ct")]


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "by-site", "temporal"])
def test_one_hospital_has_the_whole_training_set(partition: str) -> None:
    exp = small.experiment(sites__count=1, sites__partition=partition)
    corpus = read_corpus(exp)

    assert [share.tolist() for share in hospital_shares(exp, corpus)] == [corpus.train.tolist()]


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "by-site", "temporal"])
def test_hospitals_share_the_training_set_by_patient(partition: str) -> None:
    exp = small.experiment(data__reports=120, sites__count=3, sites__partition=partition)
    corpus = read_corpus(exp)
    shares = hospital_shares(exp, corpus)

    assert len(shares) == 3
    assert sorted(np.concatenate(shares)) == corpus.train.tolist()
    assert all((np.diff(share) > 0).all() for share in shares)
    for left, right in combinations(shares, 2):
        assert not patients(corpus, left) & patients(corpus, right)
    assert [s.tolist() for s in hospital_shares(exp, read_corpus(exp))] == [s.tolist() for s in shares]


def test_too_many_hospitals_are_an_error() -> None:
    exp = small.experiment(sites__count=1000)
    with pytest.raises(DataError):
        hospital_shares(exp, read_corpus(exp))


def test_a_table_with_one_column_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "reports.csv"
    rows = [f"effusion {k},{'chest' if k % 2 else 'spine'},p{k // 2}" for k in range(20)]
    path.write_text("\n".join(["reading,protocol,who", *rows]) + "\n")
    corpus = read_corpus(
        small.experiment(
            data__name="table",
            data__path=str(path),
            data__text_column="reading",
            data__label_columns=" protocol ",
            data__patient_column="who",
        )
    )

    assert corpus.task == SingleLabel(("chest", "spine"))
    assert not patients(corpus, corpus.train) & patients(corpus, corpus.test)


def test_names_of_sites_sort_as_their_numbers() -> None:
    names = [site_name(k) for k in range(1000)]

    assert names[0] == "site-000"
    assert names == sorted(set(names))


def test_a_hospital_alone_trains_on_its_share_and_is_tested_as_ever() -> None:
    whole = small.experiment(data__reports=120, sites__count=3)
    corpus = read_corpus(whole)
    shares = hospital_shares(whole, corpus)
    for number in (1, 2, 3):
        alone = read_corpus(small.experiment(data__reports=120, sites__count=3, sites__alone=number))
        assert alone.train.tolist() == shares[number - 1].tolist()
        assert alone.test.tolist() == corpus.test.tolist()
    with pytest.raises(ConfigError, match=r"sites.alone: there are 3 hospitals"):
        small.experiment(sites__count=3, sites__alone=4)
