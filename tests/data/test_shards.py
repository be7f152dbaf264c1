from __future__ import annotations

from itertools import pairwise

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrad.data.report import FEATURES, DataWarning, label_matrix
from fedrad.data.shards import partition, split_by_patient
from fedrad.errors import ConfigError, DataError

Report = tuple[int, int, int, str]  # patient, site, day, split
FEATURE = FEATURES(("a", "b", "c"))


def corpus(reports: list[Report]) -> datasets.Dataset:
    rows = [
        {
            "text": "x",
            "labels": {"a": int(patient % 3 == 0), "b": int(day % 5 == 0), "c": -1 if day % 7 == 0 else 0},
            "patient": f"p{patient}",
            "site": f"s{site}",
            "time": f"2020-{day // 28 + 1:02d}-{day % 28 + 1:02d}",
            "split": split,
        }
        for patient, site, day, split in reports
    ]
    return datasets.Dataset.from_list(rows, features=FEATURE)


def patients(ds: datasets.Dataset, rows: np.ndarray) -> set[str]:
    everyone = ds["patient"][:]
    return {everyone[row] for row in rows}


# every patient stays at one site here; those who move have tests of their own
reports = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 300)), min_size=1, max_size=60).map(
    lambda pairs: [(patient, patient % 5, day, "") for patient, day in pairs]
)


@settings(max_examples=30, deadline=None)
@given(reports, st.sampled_from(["iid", "dirichlet", "by-site", "temporal"]), st.integers(1, 5), st.integers(0, 3))
def test_shards_cover_exactly_and_share_no_patient(made: list[Report], scheme: str, count: int, seed: int) -> None:
    ds = corpus(made)
    indices = np.flatnonzero(np.arange(len(ds)) % 4 != 3)
    try:
        shards = partition(ds, indices, scheme, count, 0.5, seed)
    except DataError:
        groups = {r[1] if scheme == "by-site" else r[0] for k, r in enumerate(made) if k % 4 != 3}
        assert len(groups) < count or scheme == "dirichlet"
        return
    assert len(shards) == count
    assert all(len(shard) and (np.diff(shard) > 0).all() for shard in shards)
    assert sorted(np.concatenate(shards).tolist()) == indices.tolist()
    homes = [patients(ds, shard) for shard in shards]
    assert sum(map(len, homes)) == len(set().union(*homes))
    again = partition(ds, indices[::-1], scheme, count, 0.5, seed)
    assert [shard.tolist() for shard in shards] == [shard.tolist() for shard in again]


@settings(max_examples=30, deadline=None)
@given(reports, st.floats(0.01, 0.99), st.integers(0, 3))
def test_train_and_test_cover_exactly_and_share_no_patient(made: list[Report], fraction: float, seed: int) -> None:
    ds = corpus(made)
    if len({report[0] for report in made}) < 2:
        with pytest.raises(DataError, match="can't be split"):
            split_by_patient(ds, fraction, seed)
        return
    train, test = split_by_patient(ds, fraction, seed)
    assert len(train)
    assert len(test)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(len(ds)))
    assert not patients(ds, train) & patients(ds, test)
    assert [part.tolist() for part in split_by_patient(ds, fraction, seed)] == [train.tolist(), test.tolist()]


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(24)), st.integers(0, 2))
def test_the_order_of_the_rows_moves_nobody(order: list[int], seed: int) -> None:
    made = [(k % 12, k % 3, k * 7, "") for k in range(24)]
    ds, other = corpus(made), corpus([made[k] for k in order])
    assert patients(ds, split_by_patient(ds, 0.3, seed)[1]) == patients(other, split_by_patient(other, 0.3, seed)[1])
    for scheme in ("iid", "dirichlet", "temporal"):
        shards = [
            [patients(which, shard) for shard in partition(which, np.arange(24), scheme, 3, 5.0, seed)]
            for which in (ds, other)
        ]
        assert shards[0] == shards[1]


def test_seeds_differ() -> None:
    ds = corpus([(k, 0, k, "") for k in range(100)])
    tests = [tuple(split_by_patient(ds, 0.2, seed)[1]) for seed in range(5)]
    assert len(set(tests)) == 5
    assert {len(test) for test in tests} == {20}
    shards = [tuple(partition(ds, np.arange(100), "iid", 4, 0.5, seed)[0]) for seed in range(5)]
    assert len(set(shards)) == 5


def test_published_splits_win() -> None:
    made = [(0, 0, 0, "train"), (1, 0, 0, "validate"), (2, 0, 0, "test"), (3, 0, 0, ""), (0, 0, 1, "train")]
    train, test = split_by_patient(corpus(made), 0.5, 0)
    assert (train.tolist(), test.tolist()) == ([0, 4], [2])


def test_train_rows_are_divided_when_there_is_no_test() -> None:
    made = [(k, 0, 0, "train" if k < 10 else "validate") for k in range(20)]
    train, test = split_by_patient(corpus(made), 0.2, 0)
    assert len(train) == 8
    assert len(test) == 2
    assert sorted([*train, *test]) == list(range(10))


def test_wrong_splits() -> None:
    with pytest.raises(DataError, match="two splits") as caught:
        split_by_patient(corpus([(0, 0, 0, "train"), (1, 0, 0, "train"), (0, 0, 1, "test")]), 0.5, 0)
    assert caught.value.row == 3
    with pytest.raises(DataError, match="split 'train'"):
        split_by_patient(corpus([(0, 0, 0, "test")]), 0.5, 0)
    for fraction in (0.0, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="test-fraction"):
            split_by_patient(corpus([(0, 0, 0, ""), (1, 0, 0, "")]), fraction, 0)


def test_iid_is_even() -> None:
    ds = corpus([(k % 30, 0, k, "") for k in range(90)])
    assert sorted(len(shard) for shard in partition(ds, np.arange(90), "iid", 4, 0.5, 0)) == [21, 21, 24, 24]


def test_alpha_sets_the_skew() -> None:
    ds = corpus([(k, 0, 1, "") for k in range(600)])
    positive = label_matrix(ds)[:, 0] == 1

    def spread(alpha: float) -> float:
        shards = partition(ds, np.arange(600), "dirichlet", 4, alpha, 1)
        return float(np.std([positive[shard].mean() for shard in shards]))

    assert spread(0.2) > 0.2
    assert spread(1000.0) < 0.03


def test_dirichlet_gives_up_with_an_error() -> None:
    ds = corpus([(3 * k, 0, 1, "") for k in range(50)])  # one group only, and a tiny alpha puts it in one place
    with pytest.raises(DataError, match=r"sites\.alpha"):
        partition(ds, np.arange(50), "dirichlet", 6, 1e-4, 0)


def test_single_label_dirichlet() -> None:
    features = FEATURES(class_names=("x", "y"))
    rows = [{"text": "t", "labels": k % 2, "patient": f"{k}", "site": "", "time": "", "split": ""} for k in range(200)]
    shards = partition(datasets.Dataset.from_list(rows, features=features), np.arange(200), "dirichlet", 3, 0.3, 0)
    assert sum(map(len, shards)) == 200


def test_temporal_is_contiguous() -> None:
    ds = corpus([(k, 0, (k * 37) % 100, "") for k in range(100)])
    times = [[ds[int(row)]["time"] for row in shard] for shard in partition(ds, np.arange(100), "temporal", 4, 0.5, 0)]
    assert all(max(earlier) < min(later) for earlier, later in pairwise(times))


def test_temporal_goes_by_the_first_report() -> None:
    ds = corpus([(0, 0, 200, ""), (1, 0, 100, ""), (0, 0, 50, "")])
    assert [shard.tolist() for shard in partition(ds, np.arange(3), "temporal", 2, 0.5, 0)] == [[0, 2], [1]]


def test_temporal_needs_times() -> None:
    ds = corpus([(0, 0, 0, ""), (1, 0, 0, "")]).remove_columns("time").add_column("time", ["2020", ""])
    with pytest.raises(DataError, match="1 of 2 patients have no time"):
        partition(ds, np.arange(2), "temporal", 2, 0.5, 0)


def test_by_site_counts() -> None:
    sizes = {0: 10, 1: 2, 2: 3, 3: 7}
    ds = corpus([(100 * site + k, site, k, "") for site, size in sizes.items() for k in range(size)])
    rows = np.arange(len(ds))
    assert [len(shard) for shard in partition(ds, rows, "by-site", 0, 0.5, 0)] == [10, 2, 3, 7]
    assert [len(shard) for shard in partition(ds, rows, "by-site", 3, 0.5, 0)] == [10, 5, 7]
    assert [len(shard) for shard in partition(ds, rows, "by-site", 2, 0.5, 0)] == [10, 12]
    assert [len(shard) for shard in partition(ds, rows, "by-site", 1, 0.5, 0)] == [22]
    with pytest.raises(DataError, match=r"Set sites\.count to 4 or less"):
        partition(ds, rows, "by-site", 5, 0.5, 0)


def test_by_site_keeps_patients_who_moved_together() -> None:
    ds = corpus([(0, 0, 0, ""), (0, 1, 1, ""), (0, 1, 2, ""), (1, 0, 0, ""), (2, 1, 0, ""), (2, 0, 1, "")])
    with pytest.warns(DataWarning, match=r"several sites.*2 moves"):
        shards = partition(ds, np.arange(6), "by-site", 0, 0.5, 0)
    assert [shard.tolist() for shard in shards] == [[3, 4, 5], [0, 1, 2]]


def test_wrong_arguments() -> None:
    ds = corpus([(0, 0, 0, ""), (1, 0, 0, "")])
    rows = np.arange(2)
    with pytest.raises(ConfigError, match=r"sites\.partition"):
        partition(ds, rows, "random", 2, 0.5, 0)
    with pytest.raises(ConfigError, match=r"sites\.count"):
        partition(ds, rows, "iid", 0, 0.5, 0)
    with pytest.raises(ConfigError, match=r"sites\.alpha"):
        partition(ds, rows, "dirichlet", 2, 0.0, 0)
    with pytest.raises(DataError, match="can't fill 3 hospitals"):
        partition(ds, rows, "iid", 3, 0.5, 0)
    blank = ds.remove_columns("site").add_column("site", ["", "s"])
    with pytest.raises(DataError, match="1 of 2 reports have no site"):
        partition(blank, rows, "by-site", 0, 0.5, 0)
