from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from fedrad.errors import ModelError
from fedrad.model.adapter import LoRASpec
from fedrad.model.build import build
from fedrad.model.encoder import ModelSpec, ReportClassifier
from fedrad.model.kernels import Kernels
from fedrad.tasks import classifier as module
from fedrad.tasks.classifier import Classifier
from fedrad.tasks.multi_label import MultiLabel
from fedrad.tasks.single_label import SingleLabel
from fedrad.tasks.task import Task
from tests.model import tiny

LABELS = ("Edema", "Pneumothorax", "No Finding")
TASK = MultiLabel(LABELS)


def make_run(folder: Path, task: Task = TASK, max_length: int = 40) -> tuple[Path, ReportClassifier]:
    """A run directory with an adapter, and the classifier that it was made from."""
    base = tiny.base_of(folder / "base", "bert")
    lora = LoRASpec(rank=2, alpha=4.0, targets=("query", "value"), layers=2)
    model = tiny.randomise(build(base, ModelSpec(base.name), lora, task.outputs(), seed=0))
    model.set_centring(torch.linspace(-0.2, 0.2, 32), 1.5)
    task.export(model, base, folder / "run" / "adapter", max_length=max_length, privacy_statement="none")
    return folder / "run", model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, ReportClassifier]:
    folder, model = make_run(tmp_path_factory.mktemp("run"))
    return Classifier.load(folder), model


def test_predicts_what_was_trained(run: tuple[Classifier, ReportClassifier]) -> None:
    classifier, model = run
    base = tiny.tokenizer()(tiny.TEXTS, padding=True, return_tensors="pt")
    expected = model(base["input_ids"], base["attention_mask"]).sigmoid().detach().numpy()
    found = classifier.predict(tiny.TEXTS)
    assert classifier.labels == LABELS
    assert found.dtype == np.float32
    assert found.shape == (len(tiny.TEXTS), 3)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_run_directory_or_its_adapter_folder(tmp_path: Path) -> None:
    folder, _ = make_run(tmp_path)
    by_run = Classifier.load(folder).predict(tiny.TEXTS)
    assert np.array_equal(by_run, Classifier.load(str(folder / "adapter")).predict(tiny.TEXTS))


def test_nothing_gives_nothing(run: tuple[Classifier, ReportClassifier]) -> None:
    assert run[0].predict([]).shape == (0, 3)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.sampled_from([*tiny.TEXTS, "lungs are clear " * 4]), max_size=12), seed=st.integers(0, 99))
def test_rows_belong_to_their_texts(
    run: tuple[Classifier, ReportClassifier], texts: list[str], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order and the batches, each report gets the row that it gets alone."""
    classifier = run[0]
    monkeypatch.setattr(module, "_CHUNK", 5)
    monkeypatch.setattr(classifier.model, "kernels", Kernels(micro_tokens=30))
    order = np.random.default_rng(seed).permutation(len(texts))
    shuffled = classifier.predict([texts[i] for i in order])
    alone = {text: classifier.predict([text])[0] for text in set(texts)}
    for row, i in enumerate(order):
        np.testing.assert_allclose(shuffled[row], alone[texts[i]], atol=1e-5)


def test_long_reports_are_cut(tmp_path: Path) -> None:
    folder, _ = make_run(tmp_path, max_length=12)
    classifier = Classifier.load(folder)
    words = ["edema", "normal", "heart", "size"] * 100
    np.testing.assert_allclose(
        classifier.predict([" ".join(words)]), classifier.predict([" ".join(words[:10])]), atol=1e-6
    )
    assert not np.allclose(classifier.predict([" ".join(words[:9])]), classifier.predict([" ".join(words)]), atol=1e-4)


def test_one_class_of_several(tmp_path: Path) -> None:
    folder, _ = make_run(tmp_path, SingleLabel(LABELS))
    np.testing.assert_allclose(Classifier.load(folder).predict(tiny.TEXTS).sum(1), 1.0, atol=1e-6)


def test_one_string_is_not_a_list_of_reports(run: tuple[Classifier, ReportClassifier]) -> None:
    with pytest.raises(TypeError, match=r"predict\(\[text\]\)"):
        run[0].predict("no acute effusion")
    with pytest.raises(TypeError, match="report 1 is a NoneType") as caught:
        run[0].predict(["secret text", None])  # type: ignore[list-item]
    assert "secret" not in str(caught.value)


def test_another_base_model_is_refused_and_a_moved_one_found(tmp_path: Path) -> None:
    folder, _ = make_run(tmp_path)
    expected = Classifier.load(folder).predict(tiny.TEXTS)
    shutil.copytree(tmp_path / "base", tmp_path / "moved")
    moved = Classifier.load(folder, base=str(tmp_path / "moved"))
    assert np.array_equal(moved.predict(tiny.TEXTS), expected)
    other = tiny.save(tmp_path / "other", "bert", seed=7)
    with pytest.raises(ModelError, match="is not the base model that"):
        Classifier.load(folder, base=other)


def test_no_adapter_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Name a run directory"):
        Classifier.load(tmp_path)


@pytest.mark.parametrize("fault", ["nan", "shape", "missing", "extra"])
def test_a_tampered_adapter_is_refused(fault: str, tmp_path: Path) -> None:
    folder, _ = make_run(tmp_path)
    file = folder / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = min(tensors)
    match fault:
        case "nan":
            tensors[name][0, 0] = float("nan")
        case "shape":
            tensors[name] = tensors[name][:, :-1].contiguous()
        case "missing":
            del tensors[name]
        case "extra":
            tensors["base_model.model.embeddings.word_embeddings.weight"] = torch.zeros(2, 2)
    save_file(tensors, file)
    with pytest.raises(ModelError, match="does not fit"):
        Classifier.load(folder)
