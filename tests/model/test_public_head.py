"""The head of a public base as a file: read back as it was written, refused where it is broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedrad.errors import ModelError
from fedrad.model import base as base_module
from fedrad.model.base import load_base
from fedrad.model.public_head import HEAD_FILE, PublicHead
from tests.model import tiny

LABELS = {"chexpert": ("Edema", "Pneumonia"), "ct-rate": ("Cardiomegaly",)}
WIDTH, AXES = 32, 5
Tensors = dict[str, Tensor]


def head_of(width: int = WIDTH, axes: int = AXES) -> PublicHead:
    generator = torch.Generator().manual_seed(0)
    return PublicHead(
        labels=LABELS,
        weight={key: torch.randn(len(names), width, generator=generator) for key, names in LABELS.items()},
        bias={key: torch.randn(len(names), generator=generator) for key, names in LABELS.items()},
        mean=torch.randn(width, generator=generator),
        directions=torch.linalg.qr(torch.randn(width, axes, generator=generator))[0].T.contiguous(),
        spread=torch.arange(axes, 0, -1).float(),
    )


def contents(path: Path) -> tuple[Tensors, dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # no mapping


def folder_with_head(tmp_path: Path, head: PublicHead | None = None) -> Path:
    folder = Path(tiny.save(tmp_path / "model", "bert"))
    (head or head_of()).save(folder / HEAD_FILE)
    return folder


def test_a_head_is_read_as_it_was_written(tmp_path: Path) -> None:
    head = head_of()
    head.save(tmp_path / HEAD_FILE)
    found = PublicHead.read(tmp_path / HEAD_FILE)
    assert found.labels == LABELS
    assert [list(names) for names in found.labels.values()] == [list(names) for names in LABELS.values()]
    for name in ("mean", "directions", "spread"):
        assert torch.equal(getattr(found, name), getattr(head, name))
    for key in LABELS:
        assert torch.equal(found.weight[key], head.weight[key])
        assert torch.equal(found.bias[key], head.bias[key])


def test_a_base_of_a_folder_has_its_head_and_other_bases_none(tmp_path: Path) -> None:
    found = load_base(str(folder_with_head(tmp_path))).public_head
    assert found is not None
    assert found.labels == LABELS
    assert tiny.base_of(tmp_path / "plain", "bert").public_head is None


def test_the_head_is_no_part_of_the_fingerprint(tmp_path: Path) -> None:
    """It sets where training starts, which the server sends; what a text becomes does not depend on it."""
    folder = folder_with_head(tmp_path)
    before = load_base(str(folder)).fingerprint
    (folder / HEAD_FILE).unlink()
    base_module._load.cache_clear()
    assert load_base(str(folder)).fingerprint == before


def drop(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def put(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: change(tensors[name]).contiguous()})


def spoilt(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[-1] = float("nan")
    return tensor


@pytest.mark.parametrize(
    ("change", "says"),
    [
        *((drop(name), "can't be read") for name in ("mean", "directions", "spread")),
        *((drop(name), "can't be read") for name in ("chexpert.weight", "ct-rate.bias")),
        (put("mean", lambda t: t[:-1]), "wrong shape"),
        (put("mean", lambda t: t[None]), "wrong shape"),
        (put("mean", lambda t: t[0]), "wrong shape"),
        (put("directions", lambda t: t[:, :-1]), "directions has a wrong shape"),
        (put("directions", lambda t: t[0]), "directions"),
        (put("directions", lambda t: t[0, 0]), "directions"),
        (put("spread", lambda t: t[:-1]), "spread has a wrong shape"),
        (put("chexpert.weight", lambda t: t[:1]), r"chexpert\.weight has a wrong shape"),
        (put("ct-rate.bias", lambda t: t.repeat(2)), r"ct-rate\.bias has a wrong shape"),
        *(
            (put(name, spoilt), f"{name.replace('.', '[.]')} has .* not finite")
            for name in ("mean", "directions", "spread", "chexpert.weight", "ct-rate.bias")
        ),
    ],
)
def test_a_broken_head_is_refused_and_named(tmp_path: Path, change: Callable[[Tensors], object], says: str) -> None:
    path = folder_with_head(tmp_path) / HEAD_FILE
    tensors, metadata = contents(path)
    change(tensors)
    save_file(tensors, path, metadata=metadata)
    for read in (lambda: PublicHead.read(path), lambda: load_base(str(path.parent))):
        with pytest.raises(ModelError, match=says) as caught:
            read()
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("labels", ["", "[]", "{", json.dumps({"chexpert": 3}), json.dumps({"other": ["a"]})])
def test_labels_that_can_not_be_read_are_refused(tmp_path: Path, labels: str) -> None:
    path = folder_with_head(tmp_path) / HEAD_FILE
    save_file(contents(path)[0], path, metadata={"format": "pt", "labels": labels})
    with pytest.raises(ModelError, match="fedrad base build"):
        load_base(str(path.parent))


def test_a_head_without_its_labels_is_refused(tmp_path: Path) -> None:
    path = folder_with_head(tmp_path) / HEAD_FILE
    save_file(contents(path)[0], path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="can't be read as the head of a public base"):
        load_base(str(path.parent))


@pytest.mark.parametrize("content", [b"", b"no tensors at all", b"\x00" * 400])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = folder_with_head(tmp_path) / HEAD_FILE
    path.write_bytes(content)
    with pytest.raises(ModelError, match="can't be read as the head of a public base"):
        load_base(str(path.parent))


def test_a_file_of_that_name_that_is_no_public_head_is_left_alone(tmp_path: Path) -> None:
    """An exported adapter's last layer, in the folder of a model that it was merged into."""
    folder = Path(tiny.save(tmp_path / "model", "bert"))
    layer = {"weight": torch.zeros(3, WIDTH), "bias": torch.zeros(3)}
    for metadata in ({"format": "pt"}, None):
        save_file(layer, folder / HEAD_FILE, metadata=metadata)
        base_module._load.cache_clear()
        assert load_base(str(folder)).public_head is None


def test_the_head_of_another_width_is_refused(tmp_path: Path) -> None:
    folder = folder_with_head(tmp_path, head_of(width=WIDTH + 1))
    with pytest.raises(ModelError, match=r"of width 33, and this one's is 32"):
        load_base(str(folder))


def test_a_head_can_have_any_number_of_directions(tmp_path: Path) -> None:
    head = replace(head_of(), directions=torch.zeros(0, WIDTH), spread=torch.zeros(0))
    head.save(tmp_path / HEAD_FILE)
    assert len(PublicHead.read(tmp_path / HEAD_FILE).directions) == 0
