"""The state of a warm start: the public head's logits, in an orthonormal basis, and nothing of any private report."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from torch import Tensor

from fedrad.config import Experiment
from fedrad.corpora import CHEXPERT, CT_RATE, NO_OTHER_LABEL
from fedrad.model.base import load_base
from fedrad.model.public_head import PublicHead
from fedrad.settings import CHEST, EMBEDDED
from fedrad.tasks.classifier import Classifier
from fedrad.tasks.multi_label import MultiLabel
from fedrad.training import warm_start
from fedrad.training.corpus import read_corpus
from fedrad.training.setup import Setup, plan_for, set_up
from fedrad.training.warm_start import FEATURE_NORM, initial_state
from tests import small
from tests.model import tiny

TEXTS = [
    "Heart size is normal. The lungs are clear. No pleural effusion or pneumothorax.",
    "Large left pleural effusion with adjacent atelectasis. Endotracheal tube 4 cm above the carina.",
    "Mild cardiomegaly and pulmonary edema.",
    "Emphysema with a 6 mm nodule in the right upper lobe. Coronary artery wall calcification.",
]
ODD = "Something that the generator does not know"
DIRECTIONS = [0, 1, 16, 64, 5000]


def started(names: tuple[str, ...], **changes: object) -> Setup:
    settings = {"model__name": EMBEDDED, "train__warm_start": "synthetic", **changes}
    experiment = small.experiment(**settings)
    setup = set_up(experiment, MultiLabel(names))
    state = initial_state(experiment, setup)
    assert small.same(setup.classifier.state(), state)
    return setup


def public() -> PublicHead:
    head = load_base(CHEST).public_head
    assert head is not None
    return head


def both(setup: Setup) -> tuple[Tensor, Tensor]:
    """The logits of the classifier, and the pooled vectors that they come from."""
    ids, attention = tiny.encode(setup.base, TEXTS)
    with torch.no_grad():
        return setup.classifier(ids, attention), setup.classifier.pooled(ids, attention)


def rows_of(collection: str, wanted: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    rows = [public().labels[collection].index(name) for name in wanted]
    return public().weight[collection][rows], public().bias[collection][rows]


@pytest.mark.parametrize("directions", DIRECTIONS)
@pytest.mark.parametrize(("collection", "names"), [("chexpert", CHEXPERT), ("ct-rate", CT_RATE)])
def test_the_logits_are_the_public_head_s(collection: str, names: tuple[str, ...], directions: int) -> None:
    setup = started(names, model__directions=directions)
    found, pooled = both(setup)
    weight, bias = rows_of(collection, names)
    expected = pooled @ weight.T + bias
    assert float((found - expected).abs().max()) <= 1e-4
    assert float(expected.std(0).min()) > 0.1
    assert setup.classifier.features == {0: 384, 5000: 128 + len(names)}.get(directions, directions + len(names))


@pytest.mark.parametrize("directions", DIRECTIONS[1:])
def test_the_basis_is_orthonormal_up_to_its_scale(directions: int) -> None:
    state = started(CHEXPERT, model__directions=directions).classifier.state()
    basis = state["basis"].double()
    scale = float(basis[0].norm())
    assert torch.allclose(basis @ basis.T, scale**2 * torch.eye(len(basis), dtype=torch.float64), atol=1e-4 * scale**2)
    assert torch.equal(state["centre"], public().mean)
    # Of the directions alone, the features have FEATURE_NORM on generated text.
    axes = min(directions, len(public().directions))
    spread = float(public().spread[:axes].double().square().sum().sqrt())
    assert scale * spread == pytest.approx(FEATURE_NORM, rel=1e-5)
    # They span the directions asked for.
    unit = basis / scale
    kept = public().directions[:axes].double()
    assert torch.allclose(kept @ unit.T @ unit, kept, atol=1e-4)


def test_without_directions_all_numbers_are_read() -> None:
    state = started(CHEXPERT, model__directions=0).classifier.state()
    assert "basis" not in state
    assert state["head.weight"].shape == (14, 384)
    spread = float(public().spread.double().square().sum().sqrt())
    assert float(state["scale"][0]) == pytest.approx(FEATURE_NORM / spread, rel=1e-5)
    assert float(state["scale"].max()) == float(state["scale"].min())


@pytest.mark.parametrize("directions", [0, 16])
def test_a_label_that_the_base_does_not_know_starts_at_five_per_cent(directions: int) -> None:
    names = (ODD, "edema", "Oddity", "PNEUMOTHORAX")
    setup = started(names, model__directions=directions)
    found, pooled = both(setup)
    assert torch.allclose(found[:, [0, 2]].sigmoid(), torch.tensor(0.05), atol=1e-6)
    weight, bias = rows_of("chexpert", ("Edema", "Pneumothorax"))
    assert torch.allclose(found[:, [1, 3]], pooled @ weight.T + bias, atol=1e-4)
    assert not setup.classifier.state()["head.weight"][[0, 2]].any()
    assert setup.classifier.features == (16 + 2 if directions else 384)
    assert float(setup.classifier.state()["head.bias"][0]) == pytest.approx(math.log(0.05 / 0.95))


@pytest.mark.parametrize("name", ["No Finding", "no_finding", "NO FINDING"])
@pytest.mark.parametrize("convention", ["nothing-abnormal", "no-other-label"])
def test_no_finding_is_what_the_corpus_means_by_it(name: str, convention: str) -> None:
    found, pooled = both(started((name, "Edema"), data__no_finding=convention))
    row = NO_OTHER_LABEL if convention == "no-other-label" else "No Finding"
    other = "No Finding" if convention == "no-other-label" else NO_OTHER_LABEL
    weight, bias = rows_of("chexpert", (row, "Edema"))
    assert torch.allclose(found, pooled @ weight.T + bias, atol=1e-4)
    weight, bias = rows_of("chexpert", (other, "Edema"))
    assert not torch.allclose(found, pooled @ weight.T + bias, atol=1e-2)


@pytest.mark.parametrize(
    ("corpus", "row"), [("mimic-cxr", NO_OTHER_LABEL), ("openi", "No Finding"), ("table", "No Finding")]
)
def test_by_itself_no_finding_follows_the_corpus(corpus: str, row: str) -> None:
    settings = {"data__name": corpus, "data__path": "/nowhere", "data__label_columns": "No Finding"}
    found, pooled = both(started(("No Finding", "Edema"), **settings))
    weight, bias = rows_of("chexpert", (row, "Edema"))
    assert torch.allclose(found, pooled @ weight.T + bias, atol=1e-4)


def test_labels_that_two_collections_share_are_read_from_that_of_the_others() -> None:
    """Cardiomegaly and Atelectasis are in both."""
    for collection, names in (("ct-rate", ("Cardiomegaly", "Emphysema")), ("chexpert", ("Cardiomegaly", "Edema"))):
        found, pooled = both(started(names))
        weight, bias = rows_of(collection, names)
        assert torch.allclose(found, pooled @ weight.T + bias, atol=1e-4)


@pytest.mark.parametrize("directions", [0, 16])
@pytest.mark.parametrize("targets", ["", "query,value"])
def test_an_exported_adapter_gives_the_same_probabilities(tmp_path: Path, directions: int, targets: str) -> None:
    setup = started(CHEXPERT, model__directions=directions, lora__targets=targets)
    setup.task.export(setup.classifier, setup.base, tmp_path / "adapter", max_length=40, privacy_statement="none")
    loaded = Classifier.load(tmp_path)
    assert np.allclose(loaded.predict(TEXTS), both(setup)[0].sigmoid().numpy(), atol=1e-4)
    weight, bias = setup.classifier.folded_head()
    expected, expected_bias = rows_of("chexpert", CHEXPERT)
    assert torch.allclose(weight, expected, atol=1e-4)
    assert torch.allclose(bias, expected_bias, atol=1e-3)


def test_it_is_the_same_every_time_and_for_every_privacy() -> None:
    first = started(CHEXPERT).classifier.state()
    assert small.same(first, started(CHEXPERT).classifier.state())
    assert small.same(first, started(CHEXPERT, privacy__epsilon=1.0, train__seed=3).classifier.state())


# Nothing private


def write_table(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "Edema", "No Finding", "who"], *rows])
    return path


@pytest.fixture
def neighbours(tmp_path: Path) -> tuple[Experiment, Experiment]:
    """A table of reports, and one with the reports of one patient removed and another's altered."""
    rows = [[f"{TEXTS[i % 4]} Report {i}.", str(i % 2), str((i + 1) % 2), f"p{i // 2}"] for i in range(60)]
    other = [[f"{row[0]} Pneumonia.", "1", "1", row[3]] if row[3] == "p3" else row for row in rows if row[3] != "p7"]
    paths = write_table(tmp_path / "one.csv", rows), write_table(tmp_path / "two.csv", other)
    one, two = (
        small.experiment(
            model__name=EMBEDDED,
            data__name="table",
            data__path=str(path),
            data__label_columns="Edema,No Finding",
            data__patient_column="who",
            data__declared_size=50,
            train__batch=0,
        )
        for path in paths
    )
    return one, two


def test_neighbouring_corpora_have_the_same_start_and_plan(
    neighbours: tuple[Experiment, Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is charged for, so neither may depend on a report."""
    starts, plans, texts = [], [], []
    for experiment in neighbours:
        corpus = read_corpus(experiment)
        texts.append(sorted(corpus.reports["text"]))
        assert starts_warm_from_chest(experiment, corpus.task.findings)
        with monkeypatch.context() as patch:
            forbid_reading(patch, experiment)
            setup = set_up(experiment, corpus.task)
            starts.append(initial_state(experiment, setup))
            plans.append(plan_for(experiment, experiment.data.declared_size))
    assert texts[0] != texts[1]  # control: the corpora differ
    assert small.same(*starts)
    assert plans[0] == plans[1]
    assert starts[0]["head.weight"].any()


def starts_warm_from_chest(experiment: Experiment, names: tuple[str, ...]) -> bool:
    return experiment.base_name == CHEST and warm_start.starts_warm(experiment, names)


def forbid_reading(patch: pytest.MonkeyPatch, experiment: Experiment) -> None:
    """From here on neither the corpus nor its file can be read, by whatever route."""

    def no_corpus(*args: object, **kwargs: object) -> datasets.Dataset:
        raise AssertionError("a corpus was read")

    Path(experiment.data.path).unlink()
    patch.setattr(warm_start, "load_corpus", no_corpus)
