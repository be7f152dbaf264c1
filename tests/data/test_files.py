from __future__ import annotations

from pathlib import Path

import pytest

from fedrad.data.files import corpus_folder, find_file, need_file
from fedrad.errors import DataError

from .conftest import CANARY, raises_quietly


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there"):
        corpus_folder(tmp_path / "none", "x")
    with pytest.raises(DataError, match=r"Set data\.path"):
        corpus_folder(None, "x")
    (tmp_path / "train_report.csv").touch()
    with pytest.raises(DataError, match="is not a folder"):
        corpus_folder(tmp_path / "train_report.csv", "x")
    with pytest.raises(DataError, match=r"Rename train_report\.csv") as caught:
        need_file(tmp_path, ("train_reports.csv",), "the file")
    assert caught.value.file == tmp_path


def test_several_files_for_one_are_refused(tmp_path: Path) -> None:
    for name in ("a-1.csv", "a-2.csv"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"a-1\.csv, a-2\.csv"):
        find_file(tmp_path, ("a-*.csv",), "the file")
    assert find_file(tmp_path, ("b", "a-2.csv"), "the file") == tmp_path / "a-2.csv"


def test_the_check_for_leaks_notices_one() -> None:
    def in_the_message() -> None:
        raise DataError(f"bad value {CANARY}")

    def in_the_cause() -> None:
        try:
            int(CANARY)
        except ValueError as error:
            raise DataError("bad value") from error

    def hidden_behind_from_none() -> None:
        try:
            int(CANARY)
        except ValueError:
            raise DataError("bad value") from None

    for leak in (in_the_message, in_the_cause, hidden_behind_from_none):
        with pytest.raises(AssertionError):
            raises_quietly(leak)
