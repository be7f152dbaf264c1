"""The public base that comes with fedrad: that it is the published one, and that it knows chest reports."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from fedrad.errors import ModelError
from fedrad.model import base as module
from fedrad.model.base import CHEST_SHA256, BaseModel, load_base
from fedrad.public_base.build import score_base
from fedrad.public_base.text import BaseRecipe
from fedrad.settings import CHEST, EMBEDDED
from tests import small


@pytest.fixture
def chest() -> BaseModel:
    return load_base(CHEST)


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The base's files where they may be altered; what is loaded meanwhile is forgotten."""
    folder = tmp_path / "chest"
    shutil.copytree(module._CHEST_FOLDER, folder)
    monkeypatch.setattr(module, "_CHEST_FOLDER", folder)
    return folder


def test_it_is_loaded_once_and_frozen(chest: BaseModel) -> None:
    assert load_base(CHEST) is chest
    assert (chest.name, chest.revision) == (CHEST, "")
    assert (chest.hidden, chest.layers, chest.max_length) == (384, 6, 512)
    assert {parameter.dtype for parameter in chest.module.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in chest.module.parameters())
    assert not any(part.training for part in chest.module.modules())
    assert {part.p for part in chest.module.modules() if isinstance(part, nn.Dropout)} == {0.0}
    assert all(bool(torch.isfinite(parameter).all()) for parameter in chest.module.parameters())


def test_it_is_another_model_than_the_embedded_one_and_leaves_that_as_it_is() -> None:
    module._load.cache_clear()
    embedded = load_base(EMBEDDED)
    held = {name: tensor.clone() for name, tensor in embedded.module.state_dict().items()}
    chest = load_base(CHEST)
    assert chest.sha256 != embedded.sha256
    assert chest.fingerprint != embedded.fingerprint
    assert load_base(EMBEDDED) is embedded
    assert embedded.public_head is None
    assert small.same(embedded.module.state_dict(), held)
    shared = {tensor.data_ptr() for tensor in embedded.module.parameters()}
    assert shared.isdisjoint(tensor.data_ptr() for tensor in chest.module.parameters())


def test_the_words_are_those_of_the_embedded_model(chest: BaseModel) -> None:
    """Embeddings were not trained: what is learned of one word holds for its spellings and its neighbours."""
    words = "embeddings.word_embeddings.weight"
    assert torch.equal(chest.module.get_parameter(words), load_base(EMBEDDED).module.get_parameter(words))


@pytest.mark.usefixtures("copied")
def test_whole_files_elsewhere_give_the_same_model(chest: BaseModel) -> None:
    module._load.cache_clear()
    again = load_base(CHEST)
    assert again is not chest
    assert again.fingerprint == chest.fingerprint


@pytest.mark.parametrize("name", sorted(CHEST_SHA256))
def test_an_altered_file_is_refused(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    content[-1] ^= 1
    (copied / name).write_bytes(content)
    module._load.cache_clear()
    with pytest.raises(ModelError, match=r"is not the published file: SHA-256 .*: install fedrad again") as caught:
        load_base(CHEST)
    assert str(copied / name) in str(caught.value)


@pytest.mark.parametrize("name", sorted(CHEST_SHA256))
def test_a_missing_file_is_named(copied: Path, name: str) -> None:
    (copied / name).unlink()
    module._load.cache_clear()
    with pytest.raises(ModelError, match=f"{name} is missing: install fedrad again"):
        load_base(CHEST)


@pytest.mark.parametrize(
    ("bank", "collection", "reports"), [("chest-xray", "chexpert", 300), ("chest-ct", "ct-rate", 100)]
)
def test_it_classifies_generated_reports_before_any_training(
    chest: BaseModel, bank: str, collection: str, reports: int
) -> None:
    assert chest.public_head is not None
    recipe = BaseRecipe(banks=((bank, 1.0),))
    scores = score_base(chest, chest.public_head, recipe, reports=reports)
    assert scores.keys() == {collection}
    assert scores[collection] > 0.85


def test_it_classifies_reports_of_hospitals_that_it_was_not_trained_on(chest: BaseModel) -> None:
    assert chest.public_head is not None
    scores = score_base(chest, chest.public_head, BaseRecipe(banks=(("chest-xray-hospitals", 1.0),)), reports=150)
    assert scores["chexpert"] > 0.6


def test_its_directions_are_orthonormal_and_in_order(chest: BaseModel) -> None:
    head = chest.public_head
    assert head is not None
    axes = head.directions.double()
    assert torch.allclose(axes @ axes.T, torch.eye(len(axes), dtype=torch.float64), atol=1e-4)
    assert bool((head.spread[:-1] >= head.spread[1:]).all())
    assert bool((head.spread > 0).all())
