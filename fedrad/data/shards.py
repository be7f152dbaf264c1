"""Splits a corpus into train and test sets, and into simulated hospitals. No patient is in two of them.

Randomness here is public and comes from ``data.seed``. Patients are ordered by id, so the order of the rows does not
matter.
"""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from fedrad.data.report import arrow_column, label_matrix, warn
from fedrad.errors import ConfigError, DataError

Indices = NDArray[np.int64]

SCHEMES = ("iid", "dirichlet", "by-site", "temporal")
_SPLIT, _SHARDS = 1, 2  # so that one seed gives the two unrelated streams
_DRAWS = 100


def split_by_patient(ds: Dataset, test_fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Rows of the train set and of the test set, ascending; no patient is in both.

    A corpus that comes with splits keeps its "train" and "test"; "validate" rows, and rows without a split, go to
    neither. If it has no "test" rows (CT-RATE's training files alone), its "train" rows are divided as below.

    Otherwise ``seed`` draws a share ``test_fraction`` of the patients for the test set: rounded, but at least one
    patient and not all.

    Raises:
        ConfigError: ``test_fraction`` is not between 0 and 1.
        DataError: there are fewer than two patients, a patient is in two splits, or there is nothing to train on.
    """
    if not 0 < test_fraction < 1:
        raise ConfigError(f"data.test-fraction is {test_fraction}: must be between 0 and 1")
    split = _strings(ds, "split")
    patient, names = _patients(ds)
    rows = np.arange(len(ds))
    if (split != "").any():
        train, test = rows[split == "train"], rows[split == "test"]
        both = np.intersect1d(patient[train], patient[test])
        if len(both):
            row = int(test[np.isin(patient[test], both)][0]) + 1
            raise DataError("its patient is in two splits.", file="corpus", row=row, remedy="Correct the splits.")
        if len(train) == 0:
            raise DataError("no report is in the split 'train'.", file="corpus", remedy="Add the training files.")
        if len(test):
            return train, test
        rows = train
    present = np.unique(patient[rows])
    if len(present) < 2:
        raise DataError(f"{len(present)} patient can't be split into train and test.", remedy="Use a larger corpus.")
    count = min(max(round(test_fraction * len(present)), 1), len(present) - 1)
    drawn = np.zeros(len(names), dtype=bool)
    drawn[_generator(seed, _SPLIT).permutation(present)[:count]] = True
    tested = drawn[patient[rows]]
    return rows[~tested], rows[tested]


def partition(ds: Dataset, indices: Indices, scheme: str, count: int, alpha: float, seed: int) -> list[Indices]:
    """Assigns the rows ``indices`` to hospitals: ascending arrays that cover them exactly, none empty.

    Args:
        indices: rows of ``ds``, each once.
        scheme:
            "iid": patients at random, the same number for each hospital (give or take one).
            "dirichlet": label skew. Patients are grouped by the rarest of their positive labels, and each hospital gets
                a share of each group, drawn from Dirichlet(alpha, ..., alpha) (Hsu et al. 2019, arXiv:1909.06335).
                The draw is repeated, up to 100 times, while a hospital is empty.
            "by-site": the corpus's own sites. If there are more sites than hospitals, the two smallest are merged until
                they fit. A patient with several sites goes to the one with most of their reports, with a warning.
            "temporal": patients ordered by their first report, cut into equal parts. In MIMIC-CXR, which shifts each
                patient's dates differently, this order means nothing.
        count: how many hospitals; 0 with "by-site" is the number of sites.
        alpha: for "dirichlet"; small is skewed, large is even.
    Raises:
        ConfigError: an unknown scheme, ``count`` < 1 or ``alpha`` <= 0.
        DataError: fewer patients or sites than hospitals, no sites or no times, or a hospital would stay empty.
    """
    if scheme not in SCHEMES:
        raise ConfigError(f"sites.partition is {scheme!r}: must be one of {', '.join(SCHEMES)}")
    if count < 1 and not (scheme == "by-site" and count == 0):
        raise ConfigError(f"sites.count is {count}: must be at least 1 (0 is for sites.partition = by-site)")
    if scheme == "dirichlet" and not alpha > 0:
        raise ConfigError(f"sites.alpha is {alpha}: must be greater than 0")
    rows = np.sort(np.asarray(indices, dtype=np.int64))
    everyone, _ = _patients(ds)
    present, patient = np.unique(everyone[rows], return_inverse=True)
    if len(present) < max(count, 1):
        raise DataError(f"{len(present)} patients can't fill {count} hospitals.", remedy="Lower sites.count.")
    match scheme:
        case "iid":
            home = _equal_stretches(_generator(seed, _SHARDS).permutation(len(present)), count)
        case "dirichlet":
            home = _dirichlet(_groups(label_matrix(ds)[rows], patient, len(present)), count, alpha, seed)
        case "by-site":
            home = _by_site(_strings(ds, "site")[rows], patient, len(present), count)
        case _:
            home = _equal_stretches(_by_time(_strings(ds, "time")[rows], patient, len(present)), count)
    return [rows[home[patient] == hospital] for hospital in range(int(home.max()) + 1)]


def _equal_stretches(order: Indices, count: int) -> Indices:
    home = np.empty(len(order), dtype=np.int64)
    for hospital, patients in enumerate(np.array_split(order, count)):
        home[patients] = hospital
    return home


def _groups(labels: NDArray[np.int8], patient: Indices, patients: int) -> Indices:
    """For each patient, the rarest label that is positive in one of their reports; L if none is."""
    positive = labels == 1
    by_rarity = np.argsort(positive.sum(axis=0), kind="stable")[::-1]
    group = np.full(patients, labels.shape[1], dtype=np.int64)
    for label in by_rarity:  # rarest last, so that it wins
        group[patient[positive[:, label]]] = label
    return group


def _dirichlet(group: Indices, count: int, alpha: float, seed: int) -> Indices:
    generator = _generator(seed, _SHARDS)
    for _ in range(_DRAWS):
        home = np.empty(len(group), dtype=np.int64)
        for label in np.unique(group):
            members = generator.permutation(np.flatnonzero(group == label))
            shares = np.cumsum(generator.dirichlet(np.full(count, alpha)))
            home[members] = np.searchsorted(shares[:-1], (np.arange(len(members)) + generator.random()) / len(members))
        if len(np.unique(home)) == count:
            return home
    raise DataError(
        f"{_DRAWS} draws with sites.alpha = {alpha} left one of {count} hospitals without patients.",
        remedy="Raise sites.alpha, lower sites.count, or use a larger corpus.",
    )


def _by_site(site: NDArray[np.object_], patient: Indices, patients: int, count: int) -> Indices:
    blank = int((site == "").sum())
    if blank:
        raise DataError(f"{blank:,} of {len(site):,} reports have no site.", remedy="Use another sites.partition.")
    _, code = np.unique(site.astype(str), return_inverse=True)
    pairs, reports = np.unique(np.stack([patient, code]), axis=1, return_counts=True)
    # Each patient's site with most reports; ties go to the first by name. The last write below wins.
    order = np.lexsort((-pairs[1], reports, pairs[0]))
    home = np.empty(patients, dtype=np.int64)
    home[pairs[0, order]] = pairs[1, order]
    moved = pairs.shape[1] - patients
    if moved:
        warn(
            f"corpus: some patients have reports at several sites; "
            f"each was put where most of theirs are ({moved:,} moves)."
        )
    used, home = np.unique(home, return_inverse=True)
    count = count or len(used)
    if count > len(used):
        raise DataError(
            f"{len(used)} sites can't make {count} hospitals.", remedy=f"Set sites.count to {len(used)} or less."
        )
    size = np.bincount(home[patient], minlength=len(used))
    groups = {int(k): int(size[k]) for k in range(len(used))}
    for _ in range(len(used) - count):
        small, other = sorted(groups, key=lambda k: (groups[k], k))[:2]
        keep, gone = min(small, other), max(small, other)
        home[home == gone] = keep
        groups[keep] += groups.pop(gone)
    return np.unique(home, return_inverse=True)[1]


def _by_time(time: NDArray[np.object_], patient: Indices, patients: int) -> Indices:
    """Patients in the order of their first report with a time, ties by id."""
    first = np.full(patients, "", dtype=object)
    for p, t in zip(patient, time, strict=True):
        if t and (not first[p] or t < first[p]):
            first[p] = t
    unknown = int((first == "").sum())
    if unknown:
        raise DataError(f"{unknown:,} of {patients:,} patients have no time.", remedy="Use another sites.partition.")
    return np.argsort(first, kind="stable")


def _patients(ds: Dataset) -> tuple[Indices, list[str]]:
    """(a number for each row's patient, by the order of the ids; the ids)."""
    encoded = arrow_column(ds, "patient").dictionary_encode()
    order = np.asarray(pc.array_sort_indices(encoded.dictionary)).astype(np.int64)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank[np.asarray(encoded.indices)], encoded.dictionary.take(order).to_pylist()


def _strings(ds: Dataset, column: str) -> NDArray[np.object_]:
    return np.array(arrow_column(ds, column).to_pylist(), dtype=object)


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, stream]))
