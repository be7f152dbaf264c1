"""``fedrad base``: what it writes, what it refuses, and that a mistake is told without loading anything."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import typer
from click.testing import Result
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer
from typer.testing import CliRunner

from fedrad.cli import app as cli
from fedrad.corpora import COLLECTIONS
from fedrad.model import base as base_module
from fedrad.model.base import load_base
from fedrad.model.public_head import HEAD_FILE, PublicHead
from fedrad.public_base import build as public_base
from fedrad.settings import CHEST, EMBEDDED
from tests import small
from tests.cli.test_app import imported
from tests.model import tiny

BRIEF = ("--reports", 64, "--epochs", 1, "--threads", 1)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public_base, "_AXES_FROM", 100)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["base", *(str(argument) for argument in arguments)])


def build(out: Path, *arguments: object) -> Result:
    return call("build", "--out", out, "--model", small.model_folder(), *BRIEF, *arguments)


# build


def test_a_built_base_is_loaded_by_transformers_and_by_us(tmp_path: Path) -> None:
    out = tmp_path / "base"
    shown = build(out)
    assert shown.exit_code == 0, shown.output
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    assert set(re.findall(r"not seen, (\S+): \d\.\d{4}\n", shown.stdout)) == set(COLLECTIONS)
    assert re.search(rf"^{re.escape(str(out))} \(\d+ s\)$", shown.stdout, re.MULTILINE)

    found = load_base(str(out))
    assert found.sha256 != load_base(small.model_folder()).sha256
    assert found.public_head is not None
    assert set(found.public_head.labels) == set(COLLECTIONS)
    ids, attention = tiny.encode(found, tiny.TEXTS)
    read = AutoTokenizer.from_pretrained(out)(
        tiny.TEXTS, padding=True, truncation=True, max_length=40, return_tensors="pt"
    )
    assert torch.equal(read["input_ids"], ids)
    with torch.no_grad():
        stock = AutoModel.from_pretrained(out).eval()(ids, attention).last_hidden_state
        assert torch.allclose(stock, found.module(ids, attention).last_hidden_state, atol=1e-5)

    card = (out / "README.md").read_text()
    assert small.model_folder() in card
    for fact in ("| generated reports | 64 |", "| epochs | 1 |", "| seed | 0 |", "chest-xray-icu", "weighted F1"):
        assert fact in card
    said = CliRunner().invoke(cli.app, ["model", str(out)]).stdout
    base_module._load.cache_clear()
    assert f"fingerprint  {load_base(str(out)).fingerprint}\n" in said


def test_it_is_the_same_for_a_seed(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        assert build(tmp_path / name, "--seed", seed).exit_code == 0
    one, two, three = (load_base(str(tmp_path / name)) for name in ("one", "two", "three"))
    assert one.fingerprint == two.fingerprint
    assert small.same(*(load_file(tmp_path / name / HEAD_FILE) for name in ("one", "two")))
    assert one.fingerprint != three.fingerprint


@pytest.mark.parametrize("command", ["build", "write"])
@pytest.mark.parametrize("there", ["file", "folder"])
def test_nothing_is_overwritten(tmp_path: Path, command: str, there: str) -> None:
    out = tmp_path / "base"
    precious = out / "precious" if there == "folder" else out
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("mine")
    shown = call(command, "--out", out)
    assert (shown.exit_code, shown.stdout) == (4, "")
    assert shown.stderr == f"fedrad: {out} exists already; nothing is overwritten. Name another folder.\n"
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("command", ["build", "write"])
def test_a_folder_that_can_not_be_made_is_refused_before_anything_is_computed(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("mine")
    shown = call(command, "--out", tmp_path / "file" / "base")
    assert (shown.exit_code, shown.stdout) == (4, "")
    assert f"{tmp_path / 'file'} is no folder that you may write to" in shown.stderr


@pytest.mark.parametrize(
    ("where", "error", "code"),
    [
        ((public_base, "_loss"), KeyboardInterrupt(), 130),
        ((PublicHead, "save"), KeyboardInterrupt(), 130),
        ((PublicHead, "save"), OSError(28, "No space left on device"), 4),
    ],
)
def test_nothing_half_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[object, str], error: BaseException, code: int
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(*where, fails)
    shown = build(tmp_path / "base")
    assert shown.exit_code == code
    assert "Traceback" not in shown.output
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_none_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    shown = call("build", "--out", tmp_path / "base", "--model", tmp_path / "nothing", *BRIEF)
    assert shown.exit_code == 4
    assert "there is no such folder" in shown.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [("--reports", 63), ("--epochs", 0), ("--seed", -1), ("--threads", 0)])
def test_numbers_out_of_range_are_refused(tmp_path: Path, wrong: tuple[str, int]) -> None:
    shown = build(tmp_path / "base", *wrong)
    assert shown.exit_code == 2
    assert wrong[0] in shown.stderr
    assert list(tmp_path.iterdir()) == []


# write


def test_the_base_that_comes_with_fedrad_is_written_as_stock_transformers_reads_it(tmp_path: Path) -> None:
    out = tmp_path / "base"
    shown = call("write", "--out", out)
    assert (shown.exit_code, shown.stdout) == (0, f"{out}\n")
    chest, found = load_base(CHEST), load_base(str(out))
    assert found.sha256 == chest.sha256
    assert found.public_head is not None
    assert chest.public_head is not None
    assert found.public_head.labels == chest.public_head.labels
    assert torch.equal(found.public_head.directions, chest.public_head.directions)
    stock = AutoModel.from_pretrained(out)
    assert all(torch.equal(stock.get_parameter(name), tensor) for name, tensor in chest.module.named_parameters())
    card = (out / "README.md").read_text()
    assert f"`{EMBEDDED}`, all weights but the embedding tables further trained" in card
    assert f"The licence is that of `{EMBEDDED}`" in card


# What is told without torch


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--help"], 0, "build"),
        (["-h"], 0, "write"),
        (["build", "-h"], 0, "--reports"),
        (["write", "--help"], 0, "chest-minilm"),
        (["build"], 2, "Missing option '--out'"),
        (["write"], 2, "Missing option '--out'"),
        (["build", "--out", "x", "--nonsense"], 2, "No such option"),
        (["build", "--out", "x", "--reports", "3"], 2, "--reports"),
        (["buld"], 2, "Did you mean 'build'?"),
        (["build", "--out", "/"], 4, "exists already"),
        (["write", "--out", "/"], 4, "exists already"),
    ],
)
def test_help_and_mistakes_need_no_heavy_import(arguments: list[str], code: int, says: str) -> None:
    ended, heavy, said = imported("fedrad", "base", *arguments)
    assert (ended, heavy) == (code, set()), said
    assert says in " ".join(said.split())


def test_a_mistyped_command_has_one_suggestion() -> None:
    assert call("buld").stderr.count("Did you mean") == 1


@pytest.mark.parametrize("command", ["build", "write"])
def test_every_option_is_explained(command: str) -> None:
    group = typer.main.get_command(cli.app).commands["base"]  # type: ignore[attr-defined]
    assert [parameter.name for parameter in group.commands[command].params if not parameter.help] == []
