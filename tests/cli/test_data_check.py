"""``fedrad data check``: every problem at once, no text, and 0 only where a run could start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from click.testing import Result
from typer.testing import CliRunner

from fedrad.cli import app as cli
from fedrad.data.openi import PROBLEMS
from tests.data.conftest import CANARY, write_csv
from tests.model import tiny

HEADER = ("report", "mrn", "effusion", "Edema", "signed")
COLUMNS = {"text-column": "report", "patient-column": "mrn", "label-columns": "effusion,Edema"}


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["data", "check", *map(str, arguments)])


def settings(**more: object) -> list[str]:
    flat = {f"data.{key}": value for key, value in COLUMNS.items()} | {
        key.replace("__", ".").replace("_", "-"): value for key, value in more.items()
    }
    return [part for key, value in flat.items() for part in ("--set", f"{key}={value}")]


def good(path: Path, reports: int = 300) -> Path:
    rows = [
        [f"{CANARY} ___ effusion {k}." + " word" * (300 if k == 7 else 0), f"p{k // 3}", int(k % 4 == 0), k % 2, ""]
        for k in range(reports)
    ]
    return write_csv(path, HEADER, rows)


def test_a_good_table(tmp_path: Path) -> None:
    shown = call(good(tmp_path / "t.csv"), *settings(), "--json", tmp_path / "c.json")
    assert shown.exit_code == 0, shown.output
    said = " ".join(shown.output.split())
    assert said.startswith("PRIVATE:")
    assert "don't publish" in said
    assert "No problems: a run could start" in said
    assert "effusion 75 25.0%" in said
    assert 'rename it if "Pleural Effusion" is meant' in said
    assert "Edema 150 50.0%" in said
    found = json.loads((tmp_path / "c.json").read_text())
    assert (found["rows"], found["reports"], found["patients"]) == (300, 300, 100)
    assert found["reports_per_patient"]["most"] == 3
    assert found["reports_with_removed_spans"] == 300
    assert found["tokens"]["share_cut"] == pytest.approx(1 / 300)
    assert found["plan"]["declared"] == 240
    assert found["could_start"] is True
    assert (tmp_path / "c.json").stat().st_mode & 0o077 == 0
    assert CANARY not in shown.output + (tmp_path / "c.json").read_text()


def test_a_note_has_the_room_that_a_decoder_s_prompt_and_answer_leave(tmp_path: Path) -> None:
    base = tiny.save_decoder(tmp_path / "base", "llama", max_position_embeddings=600)
    rows = [[f"effusion {k}." + " edema" * (200 if k == 7 else 0), ("Pelvis", "Chest")[k % 2]] for k in range(300)]
    file = write_csv(tmp_path / "t.csv", ("input", "kind"), rows)
    given = {"data.text-column": "input", "data.label-columns": "kind", "lora.targets": "query"}
    given |= {"model.name": base, "model.task": "causal-lm", "train.warm-start": "none", "model.shots": 1}

    def found(length: int) -> tuple[str, dict[str, Any]]:
        chosen = (f"{key}={value}" for key, value in (given | {"data.max-length": length}).items())
        shown = call(
            file, *(part for pair in chosen for part in ("--set", pair)), "--json", tmp_path / f"{length}.json"
        )
        return " ".join(shown.output.split()), json.loads((tmp_path / f"{length}.json").read_text())

    said, fits = found(600)
    assert fits["could_start"]
    assert 0 < fits["tokens"]["cut_at"] < 500  # instruction and example are more than a hundred tokens
    assert f"cut off at {fits['tokens']['cut_at']} (data.max-length, less what the decoder" in said
    said, too_few = found(100)
    assert not too_few["could_start"]
    assert "leaves no room for a note beside instruction, examples and answer" in said
    said, too_many = found(700)
    assert not too_many["could_start"]
    assert "reads at most 600" in said


def test_every_problem_at_once(tmp_path: Path) -> None:
    rows = [
        ["One", "a", "yes", "1", ""],
        ["Two", "", "0", "2", "yesterday"],
        ["Three", "b", "no", "", "2024-03-01"],
        [CANARY, "c", CANARY, "0", CANARY],
        ["  ", "d", "1", "1", ""],
        ["Six", "e", "-1", "0", ""],
    ]
    file = write_csv(tmp_path / "t.csv", HEADER, rows)
    file.write_bytes(file.read_bytes() + b"Seven,f,1\nErgu\xdf,g,1,1,\n")
    shown = call(file, *settings(data__time_column="signed", data__missing="error"), "--json", tmp_path / "c.json")
    assert shown.exit_code == 3
    problems = {
        (tuple(p["rows"]), p["says"]): p["remedy"] for p in json.loads((tmp_path / "c.json").read_text())["problems"]
    }
    assert sorted(problems) == sorted(
        [
            ((1, 3), "the value of label 'effusion' is not 0 or 1."),
            ((4,), "the value of label 'effusion' is not 0 or 1."),
            ((2,), "the value of label 'Edema' is not 0 or 1."),
            ((3,), "the value of label 'Edema' is blank."),
            ((2,), "the patient is blank, or a placeholder."),
            ((2, 4), "the time is not like 2024-03-01 or 2024-03-01T12:30."),
            ((7,), "has 3 cells where the header has 5."),
            ((8,), f"byte {file.read_bytes().index(0xDF)} is not UTF-8."),
        ]
    )
    assert all(problems.values())
    assert all(line in " ".join(shown.output.split()) for _, line in problems)
    assert "1 report left out: no text (first: row 5)" in shown.output
    assert "could NOT start" in shown.output
    assert CANARY not in shown.output + (tmp_path / "c.json").read_text()


def test_a_table_as_a_spreadsheet_writes_it_is_mended_by_settings(tmp_path: Path) -> None:
    text = "report;mrn;effusion;Edema\n" + "".join(
        f"Erguß {k}, groß;p{k};{'ja' if k % 3 else 'nein'};{'' if k % 2 else 'ja'}\n" for k in range(40)
    )
    (tmp_path / "t.csv").write_bytes(text.encode("cp1252"))
    options = ["--map", "ja=1,nein=0"]
    before = call(tmp_path / "t.csv", *settings(), *options)
    assert before.exit_code == 3
    assert "data.encoding=cp1252" in before.output
    assert "data.missing" not in before.output  # a blank is negative unless it is said otherwise
    mended = settings(data__encoding="cp1252", data__missing="negative")
    after = call(tmp_path / "t.csv", *mended, *options, "--json", tmp_path / "c.json")
    assert after.exit_code == 0, after.output
    labels = {label["name"]: label for label in json.loads((tmp_path / "c.json").read_text())["labels"]}
    assert (labels["effusion"]["positive"], labels["effusion"]["missing"]) == (26, 0)
    assert (labels["Edema"]["positive"], labels["Edema"]["missing"]) == (20, 20)


def test_uncertain_labels_are_counted(tmp_path: Path) -> None:
    rows = [[f"T{k}", f"p{k}", ("1", "-1", "0", "x")[k % 4], "1", ""] for k in range(8)]
    shown = call(write_csv(tmp_path / "t.csv", HEADER, rows), *settings(), "--json", tmp_path / "c.json")
    assert shown.exit_code == 3
    label = json.loads((tmp_path / "c.json").read_text())["labels"][0]
    assert (label["positive"], label["uncertain"], label["missing"]) == (2, 2, 0)


def test_too_few_reports_are_called_not_learnable(tmp_path: Path) -> None:
    rows = [[f"T{k}", f"p{k}", k % 2, k % 2, ""] for k in range(6)]
    file = write_csv(tmp_path / "t.csv", ("report", "mrn", "own", "other", "signed"), rows)
    few = call(file, *settings(data__label_columns="own,other"))
    assert few.exit_code == 0
    assert "NOT learnable like this" in few.output
    refused = call(file, *settings(data__label_columns="own,other", sites__count=9))
    assert refused.exit_code == 3
    assert "can't fill 9 hospitals" in refused.output
    refused = call(file, *settings(data__label_columns="own,other", privacy__delta=0.5))
    assert refused.exit_code != 0  # no plan, no run


def test_texts_named_as_classes_are_not_shown(tmp_path: Path) -> None:
    rows = [[f"T{k}", f"p{k}", f"{CANARY} {k}", "1", ""] for k in range(40)]
    shown = call(write_csv(tmp_path / "t.csv", HEADER, rows), *settings(data__label_columns="effusion"))
    assert "(class 1)" in shown.output
    assert CANARY not in shown.output


def test_columns_that_nobody_named_are_offered(tmp_path: Path) -> None:
    shown = call(good(tmp_path / "t.csv", 10))
    assert shown.exit_code == 2
    assert "has 'report', 'mrn', 'effusion', 'Edema', 'signed'" in shown.output


def test_a_published_corpus_is_known_by_its_files(tmp_path: Path) -> None:
    terms = [makers[0] for makers in PROBLEMS.values()]
    rows = [[k, terms[k % len(terms)], f"{CANARY} {k}.", "XXXX"] for k in range(60)]
    write_csv(tmp_path / "indiana_reports.csv", ("uid", "Problems", "findings", "impression"), rows)
    shown = call(tmp_path)
    assert shown.exit_code == 0, shown.output
    assert "as openi" in shown.output
    assert CANARY not in shown.output
    (tmp_path / "empty").mkdir()
    assert "holds no corpus that is known" in call(tmp_path / "empty").output


NODE = {"site": "a", "epsilon-cap": 2.0, "declared-size": 300, **COLUMNS}


def node(folder: Path, **changes: object) -> Path:
    own = {"data-path": str(folder / "t.csv"), "state-dir": str(folder / "state")}
    file = folder / "node.toml"
    file.write_text(tomli_w.dumps({**NODE, **own, **{key.replace("_", "-"): v for key, v in changes.items()}}))
    return file


def test_a_hospitals_node_configuration(tmp_path: Path) -> None:
    good(tmp_path / "t.csv")
    shown = call(node(tmp_path))
    assert shown.exit_code == 0, shown.output
    assert "of the hospital a" in shown.output
    assert "300 declared reports in one place at epsilon 2" in shown.output
    assert "covers" not in shown.output
    assert "declared-size = 100 covers" in call(node(tmp_path, declared_size=100)).output
    assert call(node(tmp_path, unit="patient", declared_size=100)).exit_code == 0
    wrong = call(node(tmp_path, declared_size="300", missing="nothing", lable_columns="x"))
    assert wrong.exit_code == 2
    for says in ("declared-size: must be int", "missing: must be one of", "lable-columns: unknown key"):
        assert says in wrong.output
    columns = call(node(tmp_path, label_columns="effusion", classes="a,b"))
    assert columns.exit_code == 3
    assert "the class is none of those that are stated" in columns.output
    assert call(node(tmp_path, label_columns="effusion", classes="0,1,2")).exit_code == 0  # one may be missing
    asked = call(node(tmp_path), "--set", "privacy.unit=patient")
    assert asked.exit_code == 5
    assert "this hospital promises per report" in asked.output
