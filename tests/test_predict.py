"""``fedrad predict``: any table in, rows out in chunks, nothing lost, held in memory or called by two names."""

from __future__ import annotations

import csv
import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from fedrad import predict
from fedrad.cli.app import app as cli
from fedrad.errors import DataError
from fedrad.tasks.classifier import Classifier
from tests import protocol_run, small

SECRET = "zyzzyva"
TEXTS = [f"{'No ' if k % 3 else ''}{'large ' * (k % 7)}effusion in segment {k}." for k in range(40)]
BLANK = [""] * len(small.LABELS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.untrained_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def expected(run: Path) -> list[list[float]]:
    found: list[list[float]] = Classifier.load(run).predict(TEXTS).tolist()
    return found


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["predict", *map(str, arguments)])


def table(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def written(text: str) -> tuple[list[str], list[list[str]]]:
    header, *rows = csv.reader(text.splitlines())
    return header, rows


def reports(path: Path) -> Path:
    return table(path, [["id", "text"], *([k, text] for k, text in enumerate(TEXTS))])


# columns


def test_a_labelled_file_repeats_no_column_name(run: Path, tmp_path: Path) -> None:
    first, second = small.LABELS[:2]
    file = table(tmp_path / "r.csv", [["id", first, "text", f"{second}", "id"], ["r0", "1", TEXTS[0], "0", "again"]])
    header, rows = written(call(run, file).stdout)
    assert header == ["id", f"{first} (input)", f"{second} (input)", "id (input)", *small.LABELS]
    assert rows[0][:4] == ["r0", "1", "0", "again"]
    assert len(set(header)) == len(header)
    plain = written(call(run, table(tmp_path / "plain.csv", [["text"], [TEXTS[0]]])).stdout)
    assert (header[4:], rows[0][4:]) == (plain[0], plain[1][0])  # the labels' names are the probabilities', always


def test_names_are_unique_whatever_the_file_calls_its_columns() -> None:
    names = predict.output_names(["a", "a (input)", "a", "a", "", "", "b"], ["a", "b"])
    assert len(set(names)) == len(names) == 9
    assert names[-2:] == ["a", "b"]
    assert predict.output_names(["id", "note"], ["a", "b"]) == ["id", "note", "a", "b"]


# what is read


@pytest.mark.parametrize("form", ["parquet", "parquet under another name", "gzip", "utf-16", "sep"])
def test_any_table_is_read(run: Path, tmp_path: Path, expected: list[list[float]], form: str) -> None:
    file = tmp_path / ("r.parquet" if form == "parquet" else "r.csv")
    text = reports(tmp_path / "plain.csv").read_text()
    if form.startswith("parquet"):
        columns = {"id": list(range(40)), "text": [text.encode() for text in TEXTS]}
        pq.write_table(pa.table(columns), file, row_group_size=7)
    else:
        data = (
            text.replace(",", ";").encode() if form == "sep" else text.encode("utf-16" if form == "utf-16" else "utf-8")
        )
        file.write_bytes(gzip.compress(data) if form == "gzip" else b"sep=;\n" + data if form == "sep" else data)
    header, rows = written(call(run, file).stdout)
    assert header == ["id", *small.LABELS]
    assert [row[0] for row in rows] == [str(k) for k in range(40)]
    assert np.allclose(np.array([row[1:] for row in rows], dtype=float), expected, atol=1e-6)


def test_the_other_columns_of_parquet_are_shown_as_they_are(run: Path, tmp_path: Path) -> None:
    columns = {"text": ["A.", None], "n": [1, None], "x": [0.5, float("nan")], "l": [["é"], None], "b": [True, False]}
    pq.write_table(pa.table(columns), tmp_path / "r.parquet")
    header, rows = written(call(run, tmp_path / "r.parquet").stdout)
    assert header == ["n", "x", "l", "b", *small.LABELS]
    assert [row[:4] for row in rows] == [["1", "0.5", '["é"]', "True"], ["", "", "", "False"]]
    assert rows[1][4:] == BLANK


@pytest.mark.parametrize("cells", [pa.array([1.5, 2.5]), pa.array([["a"], ["b"]]), pa.array([b"a", b"\xff"])])
def test_a_parquet_column_that_is_no_text_is_refused(run: Path, tmp_path: Path, cells: pa.Array) -> None:
    pq.write_table(pa.table({"text": cells}), tmp_path / "r.parquet")
    shown = call(run, tmp_path / "r.parquet")
    assert (shown.exit_code, shown.stdout) == (3, "")
    assert "column 'text'" in shown.stderr


@pytest.mark.parametrize("cell", ["nan", "None.", "N/A", "Not given.", "XXXX", ".", " ", ""])
def test_a_placeholder_is_no_text(run: Path, tmp_path: Path, cell: str) -> None:
    shown = call(run, table(tmp_path / "r.csv", [["id", "text"], ["r0", TEXTS[0]], ["r1", cell]]))
    assert written(shown.stdout)[1][1] == ["r1", *BLANK]
    assert "1 of 2 rows have no text (rows 2)" in shown.stderr


def test_an_empty_table_has_a_header(run: Path, tmp_path: Path) -> None:
    shown = call(run, table(tmp_path / "r.csv", [["id", "text"]]))
    assert (shown.exit_code, shown.stdout) == (0, ",".join(["id", *small.LABELS]) + "\n")


# chunks


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Chunks of 16 rows; the sizes that the classifier was asked for."""
    asked: list[int] = []
    plain = Classifier.predict

    def counted(self: Classifier, texts: Sequence[str]) -> Any:
        asked.append(len(texts))
        return plain(self, texts)

    monkeypatch.setattr(predict, "_ROWS", 16)
    monkeypatch.setattr(Classifier, "predict", counted)
    return asked


def test_rows_keep_their_order_over_chunks(
    run: Path, tmp_path: Path, small_chunks: list[int], expected: list[list[float]]
) -> None:
    _, rows = written(call(run, reports(tmp_path / "r.csv")).stdout)
    assert [row[0] for row in rows] == [str(k) for k in range(40)]
    assert np.allclose(np.array([row[1:] for row in rows], dtype=float), expected, atol=1e-6)
    assert small_chunks == [16, 16, 8]


def test_the_first_chunks_are_small() -> None:
    """So the first rows come at once."""
    rows = [(k, ["x"]) for k in range(2000)]
    assert [len(chunk) for chunk in predict._chunks(iter(rows), "local")] == [32, 64, 128, 256, 512, 512, 496]
    assert [cells for chunk in predict._chunks(iter(rows), "local") for cells in chunk] == [cells for _, cells in rows]


def test_long_texts_make_smaller_chunks(
    run: Path, tmp_path: Path, small_chunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "_CHARACTERS", 100)
    call(run, reports(tmp_path / "r.csv"))
    assert sum(small_chunks) == 40
    assert max(small_chunks) < 10


def test_a_chunk_is_written_before_the_next_is_read(
    run: Path, tmp_path: Path, small_chunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So memory holds one chunk, and what was predicted is on disk when the process dies."""
    out, seen = tmp_path / "out.csv", list[int]()
    partial = tmp_path / "out.csv.partial"
    plain = predict.cells_of

    def watched(*arguments: Any) -> Iterator[tuple[int, list[str]]]:
        for row, cells in plain(*arguments):
            if row % 16 == 1:
                seen.append(len(partial.read_text().splitlines()) if partial.exists() else 0)
            yield row, cells

    monkeypatch.setattr(predict, "cells_of", watched)
    assert call(run, reports(tmp_path / "r.csv"), out).exit_code == 0
    assert seen == [0, 0, 0, 1, 17, 33]  # looked through once, then read in chunks behind the header
    assert len(out.read_text().splitlines()) == 41
    assert not partial.exists()


def test_what_was_predicted_survives_a_crash(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_chunks: list[int]
) -> None:
    file, out = reports(tmp_path / "r.csv"), tmp_path / "out.csv"
    whole = call(run, file).stdout
    plain = Classifier.predict

    def dies(self: Classifier, texts: Sequence[str]) -> Any:
        if len(small_chunks) >= 5:  # three of the whole run above, and two of this one
            raise KeyboardInterrupt
        return plain(self, texts)

    monkeypatch.setattr(Classifier, "predict", dies)
    shown = call(run, file, out)
    assert shown.exit_code == 130
    assert f"what was predicted so far is in {out}.partial" in shown.stderr
    assert not out.exists()
    assert Path(f"{out}.partial").read_text().splitlines() == whole.splitlines()[:33]
    again = call(run, file, out)
    assert (again.exit_code, "out.csv.partial: exists already" in again.stderr) == (3, True)


def test_a_fault_at_the_end_is_found_before_anything_is_predicted(
    run: Path, tmp_path: Path, small_chunks: list[int]
) -> None:
    file = reports(tmp_path / "r.csv")
    with file.open("ab") as end:
        end.write(b"41,\xff\n")
    for out in ((), (tmp_path / "out.csv",)):
        shown = call(run, file, *out)
        assert (shown.exit_code, shown.stdout) == (3, "")
        assert "row 41: byte" in shown.stderr
    assert small_chunks == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.csv"]


def test_out_is_an_argument_or_an_option(run: Path, tmp_path: Path) -> None:
    file = reports(tmp_path / "r.csv")
    assert call(run, file, tmp_path / "a.csv").exit_code == 0
    assert call(run, file, "--out", tmp_path / "b.csv").exit_code == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    both = call(run, file, tmp_path / "c.csv", "--out", tmp_path / "d.csv")
    assert (both.exit_code, "name one" in both.stderr) == (2, True)
    nowhere = call(run, file, tmp_path / "none" / "c.csv")
    assert nowhere.exit_code == 3
    assert f"{tmp_path / 'none'}: there is no such folder. Make it" in nowhere.stderr


# pipes and progress


def shell(run: Path, command: str) -> subprocess.CompletedProcess[str]:
    fedrad = f"{sys.executable} -m fedrad predict {run}"
    script = f"set -o pipefail; {command.replace('PREDICT', fedrad)}"
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, env=os.environ)


def test_a_reader_that_has_enough_ends_it_quietly(run: Path, tmp_path: Path) -> None:
    rows = [["id", "text"], *([f"{'r' * 300}{k}", "A."] for k in range(3000))]  # more than a pipe holds
    done = shell(run, f"PREDICT {table(tmp_path / 'r.csv', rows)} | head -n 2")
    assert done.stdout.splitlines()[0] == ",".join(["id", *small.LABELS])
    assert done.stdout.splitlines()[1].startswith("rrr")
    assert done.stderr == ""
    assert done.returncode == 128 + signal.SIGPIPE


def test_a_full_disk_is_one_line(run: Path, tmp_path: Path) -> None:
    done = shell(run, f"PREDICT {reports(tmp_path / 'r.csv')} > /dev/full")
    assert done.returncode == 3
    assert done.stderr.splitlines() == ["fedrad: standard output: can't be written: No space left on device."]


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(predict.time, "monotonic", lambda: now[0])
    with predict._progress(4000, to_terminal=False) as tell:
        for _ in range(4):
            now[0] += 20
            tell(1000)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "predict: 2,000 of 4,000 reports, about 1 min left\n"  # at 40 s; at 80 s nothing is left


def test_an_error_while_reading_leaves_the_partial_file(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_chunks: list[int]
) -> None:
    """A file that changes between the two passes."""
    plain, passes = predict.cells_of, list[int]()

    def changed(*arguments: Any) -> Iterator[tuple[int, list[str]]]:
        passes.append(1)
        for row, cells in plain(*arguments):
            if len(passes) == 2 and row == 20:
                raise DataError("is damaged.", file="r.csv", row=row)
            yield row, cells

    monkeypatch.setattr(predict, "cells_of", changed)
    shown = call(run, reports(tmp_path / "r.csv"), tmp_path / "out.csv")
    assert shown.exit_code == 3
    assert "row 20: is damaged" in shown.stderr
    assert len((tmp_path / "out.csv.partial").read_text().splitlines()) == 17
    assert not (tmp_path / "out.csv").exists()


def test_no_report_is_written_or_shown(run: Path, tmp_path: Path) -> None:
    file = table(tmp_path / "r.csv", [["id", "text"], ["r0", SECRET]])
    shown = call(run, file, tmp_path / "out.csv")
    assert SECRET not in shown.output + (tmp_path / "out.csv").read_text()


def test_rows_without_text_are_named_up_to_a_limit(run: Path, tmp_path: Path) -> None:
    rows = [["id", "text"], *([k, "" if k % 2 else TEXTS[0]] for k in range(24))]
    said = call(run, table(tmp_path / "r.csv", rows), tmp_path / "out.csv").stderr
    assert "12 of 24 rows have no text (rows 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, ...)" in said


def test_only_its_owner_may_read_the_output(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[int]()
    plain = Classifier.predict

    def looked(self: Classifier, texts: Sequence[str]) -> Any:
        seen.append((tmp_path / "out.csv.partial").stat().st_mode & 0o777)
        return plain(self, texts)

    monkeypatch.setattr(Classifier, "predict", looked)
    before = os.umask(0)
    try:
        assert call(run, reports(tmp_path / "r.csv"), tmp_path / "out.csv").exit_code == 0
    finally:
        os.umask(before)
    assert set(seen) == {0o600}
    assert (tmp_path / "out.csv").stat().st_mode & 0o777 == 0o600


# answers


@pytest.fixture(scope="module")
def protocols(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return protocol_run.untrained(tmp_path_factory.mktemp("protocols"), decoder=True)


def test_a_decoder_answers_abstains_and_writes_freely(protocols: Path, tmp_path: Path) -> None:
    classifier = Classifier.load(protocols)
    expected, free = classifier.predict(protocol_run.NOTES), classifier.generate(protocol_run.NOTES, 6)
    best = expected.max(axis=1)
    between = float(np.sort(best)[1:3].mean())  # two notes are surer than this, and two are less sure
    rows = [["answer", "text", "id"], ["a", "", 0], *(["b", note, 1] for note in protocol_run.NOTES)]
    file = table(tmp_path / "r.csv", rows)
    header, lines = written(call(protocols, file, "--abstain-below", between, "--generate", 6).stdout)
    assert header == ["answer (input)", "id", "answer", "generated", *protocol_run.LABELS]
    assert lines[0] == ["a", "0", *[""] * 7]
    answers = [label if sure else "" for label, sure in zip(_best(expected), best >= between, strict=True)]
    assert [line[2] for line in lines[1:]] == answers
    assert sorted(map(bool, answers)) == [False, False, True, True]
    assert [line[3] for line in lines[1:]] == free
    assert np.allclose(np.array([line[4:] for line in lines[1:]], dtype=float), expected, atol=1e-3)
    always = written(call(protocols, file).stdout)
    assert always[0] == ["answer (input)", "id", "answer", *protocol_run.LABELS]
    assert [line[2] for line in always[1][1:]] == _best(expected)


def _best(probabilities: Any) -> list[str]:
    return [protocol_run.LABELS[k] for k in probabilities.argmax(axis=1)]


def test_what_does_not_go_with_the_task_is_refused(run: Path, protocols: Path, tmp_path: Path) -> None:
    file, out = reports(tmp_path / "r.csv"), tmp_path / "out.csv"
    for options, says in (
        (("--abstain-below", 0.5), "the labels of this run are independent"),
        (("--generate", 5), "has a head and writes no text"),
    ):
        shown = call(run, file, out, *options)
        assert (shown.exit_code, says in shown.stderr) == (2, True), shown.output
        assert not out.exists()
    assert call(run, file, "--abstain-below", 1.5).exit_code == 2
    shown = call(protocols, file, out, "--generate", 500)  # so many tokens leave no room for a note
    assert (shown.exit_code, "leaves no room for a note" in shown.stderr) == (4, True)
