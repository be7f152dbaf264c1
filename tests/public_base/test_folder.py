"""The folder of a public base: stock transformers' and ours, whole or not at all."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import fedrad
from fedrad.errors import ModelError
from fedrad.files import partial_of
from fedrad.model import base as base_module
from fedrad.model.base import BaseModel, load_base
from fedrad.model.public_head import HEAD_FILE, PublicHead
from fedrad.public_base.folder import write_base_folder
from tests import small
from tests.model import tiny

FACTS = {"generated reports": 64, "epochs": 1}


@pytest.fixture
def base() -> BaseModel:
    """A model as ``train_base`` leaves it: other weights under the name of what it was made of."""
    loaded = load_base(small.model_folder())
    return replace(load_base(tiny.save(Path(small.model_folder()).parent / "other", "bert", seed=3)), name=loaded.name)


@pytest.fixture
def head() -> PublicHead:
    return PublicHead(
        labels={"chexpert": ("Edema",)},
        weight={"chexpert": torch.ones(1, 32)},
        bias={"chexpert": torch.zeros(1)},
        mean=torch.zeros(32),
        directions=torch.eye(4, 32),
        spread=torch.ones(4),
    )


def beside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.iterdir())


def test_stock_transformers_and_we_load_it(base: BaseModel, head: PublicHead, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    write_base_folder(base, head, folder, FACTS)
    assert beside(folder) == ["base"]

    ids, attention = tiny.encode(base, tiny.TEXTS)
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    read = tokenizer(tiny.TEXTS, padding=True, truncation=True, max_length=40, return_tensors="pt")
    assert torch.equal(read["input_ids"], ids)
    stock = model(**read).last_hidden_state
    assert torch.allclose(stock, base.module(ids, attention).last_hidden_state, atol=1e-5)

    found = load_base(str(folder))
    assert found.sha256 == base.sha256
    assert found.public_head is not None
    assert found.public_head.labels == head.labels
    assert torch.equal(found.public_head.directions, head.directions)
    base_module._load.cache_clear()
    assert load_base(str(folder)) is not found
    assert load_base(str(folder)).fingerprint == found.fingerprint


def test_written_again_it_has_the_same_fingerprint(base: BaseModel, head: PublicHead, tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    write_base_folder(base, head, first, FACTS)
    write_base_folder(load_base(str(first)), head, second, FACTS)
    assert load_base(str(second)).fingerprint == load_base(str(first)).fingerprint


@pytest.mark.parametrize("family", tiny.ALL)
@pytest.mark.parametrize("pooler", [True, False])
def test_every_family_s_weights_come_back(family: str, pooler: bool, head: PublicHead, tmp_path: Path) -> None:
    base = tiny.base_of(tmp_path / "from", family, pooler=pooler)
    write_base_folder(base, head, tmp_path / "to", FACTS)
    assert load_base(str(tmp_path / "to")).sha256 == base.sha256


def test_the_card_says_what_it_is(base: BaseModel, head: PublicHead, tmp_path: Path) -> None:
    write_base_folder(base, head, tmp_path / "base", FACTS)
    card = (tmp_path / "base" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    for part in (f"`{base.name}`", fedrad.__version__, "| generated reports | 64 |", HEAD_FILE, "No real report"):
        assert part in card
    assert "{" not in card


@pytest.mark.parametrize("there", ["file", "folder"])
def test_nothing_is_overwritten(base: BaseModel, head: PublicHead, tmp_path: Path, there: str) -> None:
    folder = tmp_path / "base"
    precious = folder / "precious" if there == "folder" else folder
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("mine")
    with pytest.raises(ModelError, match="exists already; nothing is overwritten"):
        write_base_folder(base, head, folder, FACTS)
    assert precious.read_text() == "mine"
    assert beside(folder) == ["base"]


def test_an_empty_folder_is_filled(base: BaseModel, head: PublicHead, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    write_base_folder(base, head, folder, FACTS)
    assert (folder / HEAD_FILE).is_file()


def test_the_working_directory_can_be_the_folder(
    base: BaseModel, head: PublicHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_base_folder(base, head, Path(), FACTS)
    assert (folder / HEAD_FILE).is_file()
    assert beside(folder) == ["here"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no"), OSError(28, "No space left on device")])
@pytest.mark.parametrize("part", ["head", "tokenizer"])
def test_nothing_half_written_stays(
    base: BaseModel,
    head: PublicHead,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    part: str,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    if part == "head":
        monkeypatch.setattr(PublicHead, "save", fails)
    else:
        monkeypatch.setattr(type(base.tokenizer), "save_pretrained", fails)
    expected = ModelError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected, match="No space left on device" if isinstance(error, OSError) else None):
        write_base_folder(base, head, tmp_path / "base", FACTS)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_not_in_the_way(
    base: BaseModel, head: PublicHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = partial_of(tmp_path / "base", shared=True)
    partial.mkdir()
    (partial / "model.safetensors").write_text("half")
    write_base_folder(base, head, tmp_path / "base", FACTS)
    assert load_base(str(tmp_path / "base")).public_head is not None


def test_a_place_that_can_not_be_written_is_named(base: BaseModel, head: PublicHead, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"the base can't be written to .*file/base: Not a directory"):
        write_base_folder(base, head, tmp_path / "file" / "base", FACTS)


def test_a_folder_that_was_moved_loads(base: BaseModel, head: PublicHead, tmp_path: Path) -> None:
    write_base_folder(base, head, tmp_path / "base", FACTS)
    before = load_base(str(tmp_path / "base")).fingerprint
    shutil.move(tmp_path / "base", tmp_path / "elsewhere")
    assert load_base(str(tmp_path / "elsewhere")).fingerprint == before
