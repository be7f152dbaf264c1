"""The first adapter of a cold start: from generated text alone, and always the same."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch import Tensor

from fedrad.data import synthetic
from fedrad.data.load import fedrad_cache_dir, load_corpus
from fedrad.errors import ConfigError
from fedrad.public_base.choice import starts_warm, unknown_labels
from fedrad.settings import EMBEDDED
from fedrad.tasks.multi_label import MultiLabel
from fedrad.tasks.single_label import SingleLabel
from fedrad.tasks.task import Task
from fedrad.training import warm_start
from fedrad.training.setup import Setup, set_up
from fedrad.training.warm_start import initial_state
from tests import small

COLD = {"train__warm_start": "none", "train__micro_tokens": 4096}
# From the public base that comes with fedrad, so that none has to be built.
WARM = {**COLD, "train__warm_start": "synthetic", "model__name": EMBEDDED}
GENERATED = 100


@pytest.fixture(autouse=True)
def _small_and_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test begins without kept adapters (the generated corpora may stay) and centres on few reports."""
    monkeypatch.setattr(warm_start, "_CENTRING_REPORTS", GENERATED)
    for file in kept():
        file.unlink()


def kept() -> list[Path]:
    return sorted((fedrad_cache_dir() / "start").glob("*"))


def fresh(task: Task = small.TASK, **changes: object) -> Setup:
    return set_up(small.experiment(**changes), task)


def state(task: Task = small.TASK, **changes: object) -> dict[str, Tensor]:
    return initial_state(small.experiment(**changes), fresh(task, **changes))


# Always the same


@pytest.mark.parametrize("changed", ["normal.toml", "corpora.py", "build.py", "causal_lm.py", "optimizer.py"])
def test_a_change_of_phrases_labels_or_code_is_noticed(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = warm_start._source_digest()
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path.name == changed))
    assert warm_start._source_digest() != before


@pytest.mark.parametrize("changes", [COLD, {**COLD, "lora__freeze_a": True}])
def test_it_is_the_same_twice_and_from_the_cache(changes: dict[str, object]) -> None:
    first = state(**changes)
    assert len(kept()) == 1
    cached = state(**changes)
    kept()[0].unlink()
    again = state(**changes)

    assert small.same(first, cached)
    assert small.same(first, again)


def test_the_classifier_holds_what_is_returned() -> None:
    for _ in range(2):  # made, then from the cache
        setup = fresh(**COLD)
        returned = initial_state(small.experiment(**COLD), setup)
        assert small.same(setup.classifier.state(), returned)


@pytest.mark.parametrize(
    "change",
    [
        {"train__seed": 1},
        {"lora__rank": 3},
        {"model__centre": False},
        {"data__max_length": 20},
    ],
)
def test_what_it_depends_on_is_not_answered_from_the_cache(change: dict[str, object]) -> None:
    first = state(**COLD)
    other = state(**{**COLD, **change})

    assert len(kept()) == 2
    assert not small.same(first, other)


@pytest.mark.parametrize("change", [{"privacy__epsilon": 1.0}, {"train__rounds": 7}, {"sites__count": 9}])
def test_what_it_does_not_depend_on_is_answered_from_the_cache(change: dict[str, object]) -> None:
    assert small.same(state(**COLD), state(**{**COLD, **change}))
    assert len(kept()) == 1


@pytest.mark.parametrize("damage", [b"", b"not a tensor", b"\x00" * 400])
def test_a_damaged_file_is_made_anew(damage: bytes) -> None:
    first = state(**COLD)
    kept()[0].write_bytes(damage)

    assert small.same(state(**COLD), first)
    assert small.same(state(**COLD), first)


# From generated text alone


@pytest.mark.parametrize(("changes", "read"), [(COLD, [("synthetic", None)]), (WARM, [])])
def test_no_corpus_but_the_generated_one_is_read(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], read: list[object]
) -> None:
    asked: list[tuple[object, ...]] = []

    def spy(name: str, path: str | None = None, **options: object) -> datasets.Dataset:
        asked.append((name, path, options))
        return load_corpus(name, path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(warm_start, "load_corpus", spy)
    settings = {**changes, "data__name": "openi", "data__path": "/nowhere"}  # reading it would fail
    state(**settings)

    assert [(name, path) for name, path, _ in asked] == read


def test_the_generator_reads_nothing_but_its_phrases(monkeypatch: pytest.MonkeyPatch) -> None:
    """P34: its sentences and prevalences are constants of the package."""
    read: list[Path] = []

    def spy(path: Path, *args: Any, **kwargs: Any) -> Any:
        read.append(path)
        return opened(path, *args, **kwargs)

    opened = Path.open
    monkeypatch.setattr("builtins.open", lambda *args, **kwargs: pytest.fail("a file was read"))
    monkeypatch.setattr(Path, "open", spy)
    rows = synthetic.generate(5, 0)
    assert len(list(rows)) == 5

    banks = Path(synthetic.__file__).parent / "banks"
    assert read
    assert [path for path in read if banks not in path.parents or path.suffix != ".toml"] == []
    assert list(inspect.signature(synthetic.generate).parameters)[:2] == ["reports", "seed"]


def test_its_reports_are_not_those_of_a_generated_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def spy(name: str, path: str | None = None, *, seed: int, **options: Any) -> datasets.Dataset:
        seeds.append(seed)
        return load_corpus(name, path, seed=seed, **options)

    monkeypatch.setattr(warm_start, "load_corpus", spy)
    state(**COLD)
    warm = set(load_corpus("synthetic", reports=GENERATED, seed=seeds[0])["text"])
    corpus = load_corpus("synthetic", reports=GENERATED, seed=0)["text"]

    assert sum(text in warm for text in corpus) < 0.1 * len(corpus)  # short normal reports may coincide


# What is set


@pytest.mark.parametrize(("name", "expected"), [("synthetic", "none"), ("openi", "synthetic"), ("table", "synthetic")])
def test_auto_warms_for_real_reports_only(name: str, expected: str) -> None:
    path = {"data__path": "/data", "data__label_columns": "a,b"} if name != "synthetic" else {}

    assert small.experiment(data__name=name, **path).warm_start == expected
    for fixed in ("none", "synthetic"):
        assert small.experiment(data__name=name, train__warm_start=fixed, **path).warm_start == fixed


def test_the_head_starts_at_the_log_odds_of_generated_labels() -> None:
    cold = state(train__warm_start="none")
    corpus = load_corpus("synthetic", reports=GENERATED, seed=warm_start._SEED_OFFSET)
    for k, name in enumerate(small.LABELS[:2]):
        share = np.mean([labels[name] == 1 for labels in corpus["labels"]])
        assert float(cold["head.bias"][k]) == pytest.approx(np.log(share / (1 - share)), rel=1e-5)
    assert float(cold["head.bias"][2]) < 0  # rare, for want of anything known
    assert not cold["head.weight"].any()


def test_features_are_centred_and_scaled_by_finite_numbers() -> None:
    cold, raw = state(train__warm_start="none"), state(train__warm_start="none", model__centre=False)

    assert torch.isfinite(cold["centre"]).all()
    assert cold["centre"].any()
    assert (torch.isfinite(cold["scale"]) & (cold["scale"] > 0)).all()
    assert not raw["centre"].any()
    assert (raw["scale"] == 1).all()


def test_a_label_is_known_however_it_is_written() -> None:
    exp = small.experiment(**WARM, **TABLE)

    assert starts_warm(exp, ("pleural_effusion", "x"))
    assert not starts_warm(exp, ("effusion", "x"))
    assert unknown_labels(("pleural-effusion", "effusion", "EDEMA")) == ("effusion",)


# Where the generator can't help


CLASSES, UNKNOWN = SingleLabel(("chest", "spine")), MultiLabel(("Oddity", "Rarity"))
TABLE = {"data__name": "table", "data__path": "/data/t.csv", "data__label_columns": "protocol"}


@pytest.mark.parametrize("task", [CLASSES, UNKNOWN, SingleLabel(("Edema", "x"))])
def test_a_warm_start_that_was_asked_for_but_can_not_be_is_an_error(task: Task) -> None:
    with pytest.raises(ConfigError, match="warm-start"):
        state(task, **WARM, **TABLE)
    assert kept() == []


@pytest.mark.parametrize("task", [CLASSES, UNKNOWN])
def test_auto_does_without_where_it_can_not_be(task: Task) -> None:
    found = state(task, model__name=EMBEDDED, **TABLE)

    assert not found["head.weight"].any()
    assert not found["head.bias"].any()
    assert found["centre"].any()
