"""What is written is there whole or not at all, and for its owner only."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fedrad import files
from fedrad.files import USUAL, partial_of, whole_folder, write_whole


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool) -> None:
    path = tmp_path / "result.json"
    write_whole(path, b"old", durable=True, shared=shared)

    def crash(descriptor: int) -> None:
        assert path.read_text() == "old"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash)
        with pytest.raises(KeyboardInterrupt):
            write_whole(path, b"new", durable=True, shared=shared)
    assert path.read_text() == "old"
    assert (
        partial_of(path).exists() != shared
    )  # one that is written by one process alone is taken up by the next writing
    write_whole(path, b"newer", durable=True, shared=shared)
    assert path.read_text() == "newer"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_files_are_their_owners_unless_said_otherwise(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_whole(tmp_path / "own", b"", durable=False)
        write_whole(tmp_path / "usual", b"", durable=False, mode=USUAL)
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("own", "usual")] == [0o600, 0o666]


def test_a_durable_file_and_its_name_wait_for_the_disk_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: order.append("file"))
    monkeypatch.setattr(files, "sync_folder", lambda folder: order.append(f"{folder.name} {path.exists()}"))
    path = tmp_path / "ledger"
    write_whole(path, b"", durable=False)
    assert order == []
    path.unlink()
    write_whole(path, b"", durable=True)
    assert order == ["file", f"{tmp_path.name} True"]


def test_a_folder_appears_whole_or_not_at_all_and_replaces_none(tmp_path: Path) -> None:
    place = tmp_path / "adapter"

    def fill(error: BaseException | None = None) -> None:
        with whole_folder(place) as partial:
            (partial / "file").write_text("whole")
            if error:
                raise error

    with pytest.raises(KeyboardInterrupt):
        fill(KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []
    place.mkdir()
    fill()
    with pytest.raises(OSError, match="not empty"):
        fill()
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    assert (place / "file").read_text() == "whole"
