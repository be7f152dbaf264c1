"""Every family of encoders against stock transformers, PEFT and the definition of a per-sample gradient."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrad.model.adapter import LoRASpec
from fedrad.model.encoder import ReportClassifier
from fedrad.model.shapes import shapes_of
from fedrad.privacy.gradients import leaf_gradients
from fedrad.training.setup import set_up
from tests import small
from tests.model import tiny
from tests.model.test_export import LABELS, logits_of, run_readme, trained, write
from tests.privacy.test_gradients import batch_of, losses_of, one_at_a_time, relative_error

DEFAULT = LoRASpec(rank=2, alpha=4.0, targets=("query", "value"), layers=2)
CASES = [*((family, "mean") for family in tiny.ALL), ("bert", "cls"), ("albert", "cls")]


def gradient_error(classifier: ReportClassifier) -> float:
    """Largest relative error of per-sample gradients against one report at a time, checkpointed or not."""
    ids, attention, labels = batch_of("", [7, 30, 12, 2, 18])
    losses, hidden = losses_of(labels[:, : len(LABELS)]), classifier.prefix(ids, attention)
    expected, errors = one_at_a_time(classifier, ids, attention, labels[:, : len(LABELS)]), []
    for checkpointing in (True, False):
        classifier.suffix.layers.checkpointing = checkpointing
        _, found = leaf_gradients(classifier.suffix, classifier.adapter(), (hidden, attention), losses)
        errors.append(relative_error(found, expected))
    return max(errors)


@pytest.mark.parametrize("targets", [("query", "value"), ("all-linear",)])
@pytest.mark.parametrize(("family", "pooling"), CASES)
def test_a_family_is_exact(
    family: str, pooling: str, targets: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny.base_of(tmp_path / "base", family)
    lora = LoRASpec(rank=2, alpha=4.0, targets=targets, layers=2)
    classifier = trained(base, lora, pooling)
    adapted = [name for name in classifier.adapter() if name.endswith(".lora_A")]
    layers = 1 if family == "albert" else 2  # ALBERT's are all the same one
    assert len(adapted) == layers * (2 if targets == DEFAULT.targets else 6)
    assert len(shapes_of(base.name, "", lora).adapted) == len(adapted)
    assert gradient_error(classifier) < 1e-5
    # Stock transformers and PEFT, by the README's lines, word for word.
    names = run_readme(write(classifier, base, tmp_path / "adapter"), monkeypatch)
    assert float((names["logits"] - logits_of(classifier, base, names["texts"])).abs().max()) <= 1e-5
    assert float(names["logits"].abs().max()) > 0.1


@pytest.mark.parametrize("family", tiny.ALL)
def test_default_settings_find_the_layers_to_adapt(family: str, tmp_path: Path) -> None:
    experiment = small.experiment(model__name=tiny.save(tmp_path / "base", family), train__warm_start="none")
    setup = set_up(experiment, small.TASK)
    assert any(name.endswith(".lora_A") for name in setup.classifier.adapter())
