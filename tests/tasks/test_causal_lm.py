"""A decoder that writes the protocol: the whole path from order notes to a run that predicts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from fedrad.config import Experiment
from fedrad.data.load import load_corpus
from fedrad.errors import ConfigError, ModelError
from fedrad.simulation import centralized, simulate
from fedrad.tasks.causal_lm import CausalLM
from fedrad.tasks.classifier import Classifier
from fedrad.tasks.task import task_of
from tests import small
from tests.model import tiny

SETTINGS: dict[str, object] = {
    "data.name": "protocol",
    "data.reports": 60,
    "data.max-length": 256,
    "model.task": "causal-lm",
    "model.instruction": "No acute effusion.",
    "lora.rank": 2,
    "lora.targets": ["query", "value"],
    "lora.layers": 2,
    "privacy.noise": "seeded",
    "train.rounds": 2,
    "train.local-steps": 2,
    "train.batch": 8,
    "train.threads": 1,
    "train.warm-start": "notes",
    "train.warm-reports": 40,
    "train.warm-epochs": 1,
    "run.predictions": True,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("decoder") / "base"
    return tiny.save_decoder(folder, "llama", max_position_embeddings=320, initializer_range=0.05)


def simulated(settings: Mapping[str, object], out: Path, count: int, grid: Any) -> Path:
    flat = {**settings, "sites.count": count, "sites.partition": "by-site" if count > 1 else "iid"}
    simulate.simulate("protocol", [f"{key}={json.dumps(value)}" for key, value in flat.items()], out, grid=grid)
    return out


@pytest.mark.parametrize("changes", [{}, {"model.loss": "text", "train.checkpointing": True}], ids=["answer", "text"])
def test_one_hospital_is_centralized_to_the_last_bit_and_several_train(
    changes: dict[str, object], base: str, tmp_path: Path
) -> None:
    settings = {**SETTINGS, **changes, "model.name": base}
    alone = simulated(settings, tmp_path / "alone", 1, "inprocess")
    experiment = Experiment.from_flat({**settings, "run.out": str(tmp_path / "central")})
    result, central = centralized.train(experiment)
    adapters = [load_file(run / "adapter" / "adapter_model.safetensors") for run in (alone, central)]
    assert small.same(*adapters)
    assert any(bool(tensor.any()) for name, tensor in adapters[0].items() if "lora_B" in name)
    assert 0 < max(result.epsilon.values()) <= 8.0

    together = [simulated(settings, tmp_path / grid, 4, grid) for grid in ("inprocess", "fused")]
    tensors = [load_file(run / "adapter" / "adapter_model.safetensors") for run in together]
    assert small.distance(*tensors) < 1e-4
    written = json.loads((together[0] / "result.json").read_text())
    assert written["top_3"] >= written["micro_f1"] >= 0
    assert len(written["epsilon"]) == 4


def test_a_run_predicts_and_says_how_sure_it_is(base: str, tmp_path: Path) -> None:
    run = simulated({**SETTINGS, "model.name": base}, tmp_path / "run", 1, "inprocess")
    classifier = Classifier.load(run)
    texts = ["Flank pain, stone?", "hearing loss", "worst headache"]
    found = classifier.predict(texts)
    assert isinstance(classifier.task, CausalLM)
    assert classifier.task.instruction == "No acute effusion."
    assert found.shape == (3, 34)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-5)
    # Short answers have nearly all of the probability of an untrained model, so errors count relatively.
    np.testing.assert_allclose(classifier.predict(texts[1:2])[0], found[1], rtol=1e-2, atol=1e-35)
    assert np.median(np.abs(np.log((found[0] + 1e-35) / (found[1] + 1e-35)))) > 0.1


def test_settings_that_do_not_go_with_a_decoder_are_refused(base: str) -> None:
    with pytest.raises(ConfigError, match=r"lora\.targets: .*a decoder has no head"):
        Experiment.from_flat({**SETTINGS, "lora.targets": []})
    with pytest.raises(ModelError, match="one class each"):
        task_of(load_corpus("synthetic", reports=5).features, causal=True)
