from __future__ import annotations

import os
import stat
from pathlib import Path

import datasets
import pytest

from fedrad.corpora import CHEXPERT
from fedrad.data import load
from fedrad.data.load import fedrad_cache_dir, load_corpus
from fedrad.data.report import DataWarning, label_names
from fedrad.data.table import TableColumns
from fedrad.errors import ConfigError, DataError

from .conftest import CANARY, ct_folder, mimic_folder, raises_quietly, write_csv

COLUMNS = TableColumns("text", ("a",), "patient")


def table(path: Path, *texts: str) -> Path:
    return write_csv(path / "t.csv", ("text", "a", "patient"), [[text, 1, k] for k, text in enumerate(texts)])


def files(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


def test_each_name_reaches_its_loader(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    scan = {"train_1_a_1": "0"}
    assert len(load_corpus("mimic-cxr", mimic_folder(tmp_path / "m"), cache_dir=cache)) == 4
    assert len(load_corpus("ct-rate", str(ct_folder(tmp_path / "c", scan, scan)), cache_dir=cache)) == 1
    assert len(load_corpus("table", table(tmp_path, "x", "y"), columns=COLUMNS, cache_dir=cache)) == 2
    openi = write_csv(
        tmp_path / "indiana_reports.csv", ("uid", "Problems", "findings", "impression"), [[1, "normal", "a", "b"]]
    )
    assert len(load_corpus("openi", openi, cache_dir=cache)) == 1


def test_dashes_and_underscores_of_a_name_are_one(tmp_path: Path) -> None:
    scan = {"train_1_a_1": "0"}
    folder, cache = ct_folder(tmp_path / "c", scan, scan), tmp_path / "cache"
    assert len(load_corpus("ct_rate", folder, cache_dir=cache)) == 1
    written = files(cache)
    assert len(load_corpus("ct-rate", folder, cache_dir=cache)) == 1
    assert files(cache) == written
    assert len(load_corpus("mimic_cxr", mimic_folder(tmp_path / "m"), cache_dir=cache)) == 4


def test_synthetic(tmp_path: Path) -> None:
    ds = load_corpus("synthetic", reports=20, seed=3, cache_dir=tmp_path)
    assert len(ds) == 20
    assert "No Finding" in label_names(ds.features)
    other = load_corpus("synthetic", reports=20, seed=4, cache_dir=tmp_path)
    assert ds["text"][:] != other["text"][:]


def test_the_cache_is_used_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    source = table(tmp_path, "x")
    old = os.umask(0)
    try:
        first = load_corpus("table", source, columns=COLUMNS, cache_dir=cache)
    finally:
        os.umask(old)
    assert isinstance(first.data, datasets.table.MemoryMappedTable)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (cache, cache / "corpora")} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (cache / "corpora").iterdir()} == {0o600}
    monkeypatch.setattr(load, "write_reports", lambda *_: pytest.fail("read again"))
    again = load_corpus("table", source, columns=COLUMNS, cache_dir=cache)
    assert again.to_list() == first.to_list()


def test_a_change_of_source_or_options_is_noticed(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert load_corpus("table", table(tmp_path, "x"), columns=COLUMNS, cache_dir=cache)["text"][:] == ["x"]
    assert load_corpus("table", table(tmp_path, "yy"), columns=COLUMNS, cache_dir=cache)["text"][:] == ["yy"]
    columns = TableColumns("patient", ("a",))
    assert load_corpus("table", tmp_path / "t.csv", columns=columns, cache_dir=cache)["text"][:] == ["0"]
    folder = mimic_folder(tmp_path / "m")
    edema = {
        policy: [
            labels["Edema"] for labels in load_corpus("mimic-cxr", folder, uncertain=policy, cache_dir=cache)["labels"]
        ]
        for policy in ("negative", "positive", "ignore")
    }
    assert edema == {"negative": [0, 1, 0, 0], "positive": [1, 1, 0, 0], "ignore": [-1, 1, 0, 0]}


@pytest.mark.parametrize("changed", ["normal.toml", "corpora.py"])
def test_a_change_of_a_phrase_or_a_label_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    cache = tmp_path / "cache"
    load_corpus("synthetic", reports=2, cache_dir=cache)
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path.name == changed))
    load_corpus("synthetic", reports=2, cache_dir=cache)
    assert len(list((cache / "corpora").glob("*.arrow"))) == 2


def test_warnings_come_again_from_the_cache(tmp_path: Path) -> None:
    source = table(tmp_path, "x", " ")
    for _ in range(2):
        with pytest.warns(DataWarning, match=r"1 report left out: no text \(first: row 2\)"):
            load_corpus("table", source, columns=COLUMNS, cache_dir=tmp_path / "cache")


def test_errors_leave_nothing(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    source = write_csv(tmp_path / "t.csv", ("text", "a", "b"), [["x", 1, 1]] * 3000 + [["x", 7, 1]])
    with pytest.raises(DataError) as caught:
        load_corpus("table", source, columns=TableColumns("text", ("a", "b")), cache_dir=cache)
    assert caught.value.row == 3001
    assert files(cache) == []


def test_cache_dir_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDRAD_CACHE", str(tmp_path / "mine"))
    assert fedrad_cache_dir() == tmp_path / "mine"
    load_corpus("table", table(tmp_path, "x"), columns=COLUMNS)
    assert len(files(tmp_path / "mine")) == 2
    monkeypatch.delenv("FEDRAD_CACHE")
    assert fedrad_cache_dir() == Path.home() / ".cache" / "fedrad"


def test_an_unusable_cache_dir(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="FEDRAD_CACHE"):
        load_corpus("table", table(tmp_path, "x"), columns=COLUMNS, cache_dir=tmp_path / "file")


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'mimic-cxr'"):
        load_corpus("mimic", tmp_path)
    with pytest.raises(ConfigError, match=r"data\.uncertain"):
        load_corpus("mimic-cxr", tmp_path, uncertain="maybe")
    with pytest.raises(ConfigError, match=r"data\.label-columns"):
        load_corpus("table", tmp_path)
    for name in ("mimic-cxr", "ct-rate", "openi", "table"):
        with pytest.raises(DataError, match=r"data\.path"):
            load_corpus(name, None, columns=COLUMNS)
        with pytest.raises(DataError, match="is not there"):
            load_corpus(name, tmp_path / "none", columns=COLUMNS)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            "report,edema\n,0\n  ,1\n",
            "2 reports left out: no text (first: row 1); none is left to use. Is 'report' the right one",
        ),
        ("report,edema\n", "has no rows."),
        ("report;edema, mild\nno effusion;0\n", "seem to be separated by ';'. Say so with data.separator"),
        ("report|edema\nno effusion|0\n", "seem to be separated by '|'. Say so with data.separator"),
    ],
)
def test_a_table_that_can_not_be_used_says_why(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "reports.csv"
    file.write_text(content)
    columns = TableColumns(text="report", labels=("edema",))
    error = raises_quietly(lambda: load_corpus("table", file, columns=columns, cache_dir=tmp_path / "cache"))
    assert str(error).startswith(f"{file}: ")
    assert str(error).count(str(file)) == 1
    assert says in str(error)
    assert files(tmp_path / "cache") == []


def test_the_published_corpora_say_why_nothing_is_left(tmp_path: Path) -> None:
    columns = ("uid", "Problems", "findings", "impression")
    (tmp_path / "o").mkdir()
    for rows, says in (
        (
            [[1, "normal", " ", ""], [2, "", CANARY, ""]],
            "1 report left out: no findings and no impression (first: row 1)",
        ),
        ([], "no rows"),
    ):
        file = write_csv(tmp_path / "o" / "indiana_reports.csv", columns, rows)
        for path in (file, file.parent):
            error = raises_quietly(lambda path=path: load_corpus("openi", path, cache_dir=tmp_path / "cache"))
            assert str(error).startswith(f"{path}: ")
            assert says in str(error)
            assert "table" not in str(error)
            assert ("1 report left out: nothing in Problems, so no labels (first: row 2)" in str(error)) == bool(rows)
    folder = ct_folder(tmp_path / "c", {"train_1_a_1": CANARY}, {})
    error = raises_quietly(lambda: load_corpus("ct-rate", folder, cache_dir=tmp_path / "cache"))
    assert str(error).startswith(f"{folder}: train_reports.csv: 1 report left out: no row in the label file")
    folder = mimic_folder(tmp_path / "m")
    write_csv(folder / "mimic-cxr-2.0.0-chexpert.csv", ["subject_id", "study_id", *CHEXPERT], [])
    error = raises_quietly(lambda: load_corpus("mimic-cxr", folder, cache_dir=tmp_path / "cache"))
    assert str(error).startswith(f"{folder}: mimic-cxr-reports.zip: 4 reports left out: no row in the label file")
