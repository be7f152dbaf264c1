"""Which base a run starts from, and how many of its directions the head reads."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedrad.cache import fedrad_cache_dir
from fedrad.corpora import CHEXPERT, CT_RATE
from fedrad.errors import ConfigError, ModelError
from fedrad.model.base import BaseModel, load_base
from fedrad.model.public_head import PublicHead
from fedrad.public_base import build as public_base
from fedrad.public_base import choice as start
from fedrad.public_base.choice import base_of, collection_of, directions_of, starts_warm, unknown_labels
from fedrad.public_base.folder import write_base_folder
from fedrad.settings import CHEST, EMBEDDED
from fedrad.tasks.multi_label import MultiLabel
from fedrad.tasks.single_label import SingleLabel
from fedrad.tasks.task import Task
from fedrad.training.setup import set_up
from fedrad.training.warm_start import initial_state
from tests import small
from tests.model import tiny

WARM = {"train__warm_start": "synthetic", "train__warm_reports": 64}


@pytest.fixture(autouse=True)
def _own_bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDRAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(public_base, "_AXES_FROM", 100)


def bases() -> list[Path]:
    return sorted((fedrad_cache_dir() / "bases").glob("*"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[BaseModel]:
    """What each training of a base was given."""
    seen: list[BaseModel] = []
    train = start.train_base

    def spy(base: BaseModel, *rest: object) -> tuple[BaseModel, PublicHead]:
        seen.append(base)
        return train(base, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(start, "train_base", spy)
    return seen


# Which base


def test_the_embedded_model_starts_warm_from_the_base_that_was_made_of_it(trained: list[BaseModel]) -> None:
    assert base_of(small.experiment(model__name=EMBEDDED, **WARM)) is load_base(CHEST)
    assert base_of(small.experiment(model__name=CHEST, train__warm_start="none")) is load_base(CHEST)
    assert base_of(small.experiment(model__name=EMBEDDED, train__warm_start="none")) is load_base(EMBEDDED)
    assert (trained, bases()) == ([], [])


def test_another_model_starts_cold_as_it_is(trained: list[BaseModel]) -> None:
    assert base_of(small.experiment()) is load_base(small.model_folder())
    assert (trained, bases()) == ([], [])


def test_a_base_is_built_once_for_another_model(trained: list[BaseModel], capsys: pytest.CaptureFixture[str]) -> None:
    plain = load_base(small.model_folder())
    first = base_of(small.experiment(**WARM))
    assert [base.sha256 for base in trained] == [plain.sha256]
    assert first.public_head is not None
    assert first.sha256 != plain.sha256
    assert [str(path) for path in bases()] == [first.name]
    assert capsys.readouterr().err.count("building the public base") == 1

    assert base_of(small.experiment(**WARM)) is first
    assert base_of(small.experiment(**WARM, train__rounds=9, privacy__epsilon=1.0, train__seed=1)) is first
    assert len(trained) == 1
    assert "building" not in capsys.readouterr().err
    assert bases()[0].parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("change", [{"train__warm_epochs": 2}, {"train__warm_reports": 80}])
def test_a_base_of_other_settings_is_another(trained: list[BaseModel], change: dict[str, object]) -> None:
    first, other = base_of(small.experiment(**WARM)), base_of(small.experiment(**{**WARM, **change}))
    assert len(trained) == len(bases()) == 2
    assert first.sha256 != other.sha256


def test_a_base_of_a_folder_is_taken_as_it_is(trained: list[BaseModel], tmp_path: Path) -> None:
    built = base_of(small.experiment(**WARM))
    assert built.public_head is not None
    folder = tmp_path / "mine"
    write_base_folder(built, built.public_head, folder, {})
    trained.clear()
    assert base_of(small.experiment(**WARM, model__name=str(folder))).name == str(folder)
    assert trained == []


def test_a_base_that_another_run_has_built_meanwhile_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    train = start.train_base

    def overtaken(base: BaseModel, *rest: object) -> tuple[BaseModel, PublicHead]:
        monkeypatch.setattr(start, "train_base", train)
        base_of(small.experiment(**WARM))
        return train(base, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(start, "train_base", overtaken)
    found = base_of(small.experiment(**WARM))
    assert [str(path) for path in bases()] == [found.name]


def test_an_interruption_leaves_no_base(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(public_base, "_public_head", interrupted)
        with pytest.raises(KeyboardInterrupt):
            base_of(small.experiment(**WARM))
    assert bases() == []
    assert base_of(small.experiment(**WARM)).public_head is not None


def test_a_folder_that_can_not_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PublicHead, "save", full)
    with pytest.raises(ModelError, match="No space left on device"):
        base_of(small.experiment(**WARM))


@pytest.mark.parametrize("changed", ["normal.toml", "corpora.py", "build.py"])
def test_a_change_of_phrases_labels_or_code_is_noticed(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = start._source_digest()
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path.name == changed))
    assert start._source_digest() != before


# Which labels


def test_labels_belong_to_the_collection_that_knows_most_of_them() -> None:
    assert collection_of(CHEXPERT) == "chexpert"
    assert collection_of(CT_RATE) == "ct-rate"
    assert collection_of(("Cardiomegaly", "Emphysema", "x")) == "ct-rate"  # the first of both, the second of CT's
    assert collection_of(("cardiomegaly", "NO_FINDING")) == "chexpert"
    assert unknown_labels(("pleural-effusion", "effusion", "EDEMA")) == ("effusion",)
    assert unknown_labels(("Emphysema", "Lung nodule", "Edema")) == ("Edema",)


@pytest.mark.parametrize(
    ("task", "start_", "warm"),
    [
        (MultiLabel(("Edema", "x")), "synthetic", True),
        (MultiLabel(("Emphysema",)), "synthetic", True),
        (MultiLabel(("Edema", "x")), "none", False),
        (SingleLabel(("Edema", "x")), "synthetic", False),
        (MultiLabel(("x", "y")), "synthetic", False),
    ],
)
def test_a_run_starts_warm_if_some_label_is_known(task: Task, start_: str, warm: bool) -> None:
    assert starts_warm(small.experiment(train__warm_start=start_), task.findings) is warm


# How many directions


@pytest.mark.parametrize(
    ("asked", "names", "expected"),
    [
        (64, CHEXPERT, 64 + 14),
        (64, ("Edema", "x", "y"), 64 + 1),
        (7, CT_RATE, 7 + 18),
        (0, CHEXPERT, 0),
        (5000, CHEXPERT, 128 + 14),  # no more than the base has
        (64, ("x", "y"), 0),
    ],
)
def test_the_head_reads_the_directions_asked_for_and_those_of_its_start(
    asked: int, names: tuple[str, ...], expected: int
) -> None:
    experiment = small.experiment(**WARM, model__name=EMBEDDED, model__directions=asked)
    assert directions_of(experiment, load_base(CHEST), names) == expected
    assert directions_of(experiment, load_base(CHEST), SingleLabel(names).findings) == 0
    assert directions_of(experiment, load_base(EMBEDDED), names) == 0
    cold = small.experiment(model__name=CHEST, model__directions=asked, train__warm_start="none")
    assert directions_of(cold, load_base(CHEST), names) == 0


def test_there_are_no_more_directions_than_numbers() -> None:
    base = base_of(small.experiment(**WARM))
    assert directions_of(small.experiment(**WARM), base, CHEXPERT) == 32


# A whole start, from a base that had to be built


def test_a_run_of_another_model_starts_with_what_its_base_knows() -> None:
    experiment = small.experiment(**WARM)
    setup = set_up(experiment, small.TASK)
    initial_state(experiment, setup)
    head = setup.base.public_head
    assert head is not None
    ids, attention = tiny.encode(setup.base, tiny.TEXTS)
    rows = [CHEXPERT.index(name) for name in small.LABELS[:2]]
    pooled = setup.classifier.pooled(ids, attention)
    expected = pooled @ head.weight["chexpert"][rows].T + head.bias["chexpert"][rows]
    found = setup.classifier(ids, attention).detach()
    assert torch.allclose(found[:, :2], expected, atol=1e-4)
    assert float(expected.std(0).max()) > 0.01


def test_a_warm_start_that_can_not_be_is_refused_and_says_what_can() -> None:
    experiment = small.experiment(**WARM, model__name=EMBEDDED)
    with pytest.raises(ConfigError, match=r"train\.warm-start: the generator knows none of these labels") as caught:
        initial_state(experiment, set_up(experiment, MultiLabel(("Oddity", "Rarity"))))
    assert re.search("Edema.*Emphysema", str(caught.value))


def test_a_warm_start_of_one_class_of_several_is_refused_for_what_it_is() -> None:
    experiment = small.experiment(**WARM, model__name=EMBEDDED)
    with pytest.raises(ConfigError, match="the task is single-label"):
        initial_state(experiment, set_up(experiment, SingleLabel(("Edema", "Pneumonia"))))


def test_a_base_without_the_run_s_labels_is_refused(tmp_path: Path) -> None:
    built = base_of(small.experiment(**WARM))
    assert built.public_head is not None
    only = {"chexpert": built.public_head.labels["chexpert"]}
    write_base_folder(built, replace(built.public_head, labels=only), tmp_path / "mine", {})
    experiment = small.experiment(**WARM, model__name=str(tmp_path / "mine"))
    initial_state(experiment, set_up(experiment, MultiLabel(CHEXPERT)))
    with pytest.raises(ModelError, match="no head for the labels of ct-rate"):
        initial_state(experiment, set_up(experiment, MultiLabel(CT_RATE)))
