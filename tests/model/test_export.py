"""The adapter folder, used as somebody without fedrad would use it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import Linear as PeftLinear
from peft.utils.hotswap import hotswap_adapter
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification

from fedrad.errors import ModelError
from fedrad.model import export
from fedrad.model.adapter import LoRASpec
from fedrad.model.base import BaseModel, embedded_folder, load_base
from fedrad.model.build import build
from fedrad.model.encoder import ModelSpec, ReportClassifier
from fedrad.model.export import import_peft
from fedrad.tasks.multi_label import MultiLabel
from fedrad.tasks.single_label import SingleLabel
from fedrad.tasks.task import Task
from tests.model import tiny

LABELS = ("Atelectasis", "No Finding", 'odd "name"')
TASK = MultiLabel(LABELS)
STATEMENT = "Each report: epsilon 1.0 at delta 1e-05."
ADAPTERS = {
    "query-value": LoRASpec(rank=2, alpha=4.0, targets=("query", "value"), layers=1),
    "all-linear": LoRASpec(rank=3, alpha=1.0, targets=("all-linear",), layers=0),
    "frozen-a": LoRASpec(rank=2, alpha=4.0, targets=("key",), layers=2, freeze_a=True, init="orthonormal"),
    "head-only": LoRASpec(rank=2, alpha=4.0, targets=()),
}


def trained(base: BaseModel, lora: LoRASpec, pooling: str) -> ReportClassifier:
    """As after training: every tensor moved, features centred and rescaled."""
    classifier = build(base, ModelSpec(base.name, pooling=pooling), lora, len(LABELS), seed=0)
    tiny.randomise(classifier, scale=0.05 if base.hidden > 32 else 0.3)
    ids, attention = tiny.encode(base, tiny.TEXTS)
    pooled = classifier.pooled(ids, attention)
    classifier.set_centring(pooled.mean(0), 4.0 / float((pooled - pooled.mean(0)).norm(dim=1).mean()))
    return classifier


def write(classifier: ReportClassifier, base: BaseModel, folder: Path, task: Task = TASK) -> Path:
    task.export(classifier, base, folder, max_length=40, privacy_statement=STATEMENT)
    return folder


def run_readme(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Executes the README's Python block, word for word, inside the folder."""
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def logits_of(classifier: ReportClassifier, base: BaseModel, texts: list[str]) -> torch.Tensor:
    return classifier(*tiny.encode(base, texts)).detach()


@pytest.mark.parametrize("lora", ADAPTERS)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("family", ["bert", "albert"])
def test_the_readme_s_lines_give_the_same_logits(
    family: str, pooling: str, lora: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny.base_of(tmp_path / "base", family)
    classifier = trained(base, ADAPTERS[lora], pooling)
    names = run_readme(write(classifier, base, tmp_path / "run" / "adapter"), monkeypatch)
    expected = logits_of(classifier, base, names["texts"])
    assert float((names["logits"] - expected).abs().max()) <= 1e-5
    assert float(expected.abs().max()) > 0.1
    torch.testing.assert_close(names["probabilities"], expected.sigmoid(), atol=1e-5, rtol=0)
    assert names["labels"] == list(LABELS)
    # Control: without the adapter the same lines give something else.
    if lora != "head-only":
        with names["encoder" if pooling == "mean" else "model"].disable_adapter(), torch.no_grad():
            bare = (names["encoder"] if pooling == "mean" else names["model"].base_model.model.base_model)(
                **names["batch"]
            )
            state = bare.last_hidden_state
        assert not torch.allclose(state, _hidden(names, pooling), atol=1e-3)


def _hidden(names: dict[str, Any], pooling: str) -> torch.Tensor:
    if pooling == "mean":
        hidden: torch.Tensor = names["hidden"]
        return hidden
    with torch.no_grad():
        state: torch.Tensor = names["model"].base_model.model.base_model(**names["batch"]).last_hidden_state
    return state


def test_what_the_readme_says_of_several_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT can neither swap nor mix adapters that bring a classifier. When it can, the README's line can go."""
    base = tiny.base_of(tmp_path / "base", "bert")
    folders = []
    for name in ("one", "other"):
        classifier = trained(base, ADAPTERS["query-value"], "cls")
        folders.append(write(classifier, base, tmp_path / name / "adapter"))
    assert "`hotswap_adapter` and `add_weighted_adapter` fail" in (folders[0] / "README.md").read_text()
    model = run_readme(folders[0], monkeypatch)["model"]
    model.load_adapter(folders[1], "other")
    model.set_adapter("other")
    with pytest.raises(ValueError, match="modules_to_save"):
        model.add_weighted_adapter(["default", "other"], [0.5, 0.5], "mean")
    with pytest.raises(KeyError, match="classifier"):
        hotswap_adapter(model, str(folders[1]), "default")


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_readme_of_the_embedded_model(pooling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = load_base("all-MiniLM-L6-v2")
    classifier = trained(base, LoRASpec(4, 8.0, ("query", "value"), 2), pooling)
    names = run_readme(write(classifier, base, tmp_path / "adapter"), monkeypatch)
    difference = float((names["logits"] - logits_of(classifier, base, names["texts"])).abs().max())
    print(f"MiniLM {pooling}: largest difference of a logit {difference:.1e}")
    assert difference <= 1e-5
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"


def test_single_label_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny.base_of(tmp_path / "base", "bert")
    classifier = trained(base, ADAPTERS["query-value"], "mean")
    names = run_readme(write(classifier, base, tmp_path / "adapter", SingleLabel(LABELS)), monkeypatch)
    torch.testing.assert_close(names["probabilities"].sum(-1), torch.ones(2))


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_peft_adapts_the_same_layers_and_no_others(family: str, tmp_path: Path) -> None:
    base = tiny.base_of(tmp_path / "base", family)
    classifier = trained(base, ADAPTERS["query-value"], "cls")
    folder = write(classifier, base, tmp_path / "adapter")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=len(LABELS))
    model = PeftModel.from_pretrained(stock, folder)
    wrapped = {name.partition(f".{family}.")[2] for name, part in model.named_modules() if isinstance(part, PeftLinear)}
    assert wrapped == {name.removesuffix(".lora_A") for name in classifier.adapter() if name.endswith(".lora_A")}


def test_many_targets_survive_peft_s_shortening(tmp_path: Path) -> None:
    """PEFT shortens long lists of names to suffixes; with layers left out that must not catch more than was adapted."""
    base = load_base("all-MiniLM-L6-v2")
    classifier = trained(base, LoRASpec(2, 4.0, ("all-linear",), 4), "mean")
    folder = write(classifier, base, tmp_path / "adapter")
    stock = AutoModel.from_pretrained(embedded_folder())
    model = PeftModel.from_pretrained(stock, folder).eval()
    wrapped = {name.removeprefix("base_model.model.") for name, p in model.named_modules() if isinstance(p, PeftLinear)}
    assert wrapped == {name.removesuffix(".lora_A") for name in classifier.adapter() if name.endswith(".lora_A")}
    assert len(wrapped) == 24


def test_what_the_folder_says(tmp_path: Path) -> None:
    base = tiny.base_of(tmp_path / "base", "bert")
    folder = write(trained(base, ADAPTERS["query-value"], "mean"), base, tmp_path / "adapter")
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "fedrad.json",
        "head.safetensors",
    }
    readme = (folder / "README.md").read_text()
    for part in (STATEMENT, base.name, base.sha256, *LABELS, "mean over the tokens"):
        assert part in readme
    manifest = import_peft(folder)[0]
    assert manifest.spec == ModelSpec(base.name, pooling="mean")
    assert manifest.lora == ADAPTERS["query-value"]
    assert (manifest.outputs.task, manifest.outputs.labels, manifest.max_length) == ("multi-label", LABELS, 40)
    assert (manifest.base_sha256, manifest.privacy) == (base.sha256, STATEMENT)


def test_the_same_adapter_gives_the_same_bytes(tmp_path: Path) -> None:
    base = tiny.base_of(tmp_path / "base", "bert")
    one, two = (write(trained(base, ADAPTERS["all-linear"], "cls"), base, tmp_path / name) for name in ("one", "two"))
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes(), path.name


@pytest.mark.parametrize("lora", ADAPTERS)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_what_comes_back_in(pooling: str, lora: str, tmp_path: Path) -> None:
    base = tiny.base_of(tmp_path / "base", "bert")
    classifier = trained(base, ADAPTERS[lora], pooling)
    manifest, tensors = import_peft(write(classifier, base, tmp_path / "adapter"))
    again = build(base, manifest.spec, manifest.lora, len(manifest.outputs.labels), seed=99)
    again.load_state(tensors)
    expected = logits_of(classifier, base, tiny.TEXTS)
    torch.testing.assert_close(logits_of(again, base, tiny.TEXTS), expected, atol=1e-5, rtol=0)


def test_only_an_adapter_of_ours_is_replaced(tmp_path: Path) -> None:
    base = tiny.base_of(tmp_path / "base", "bert")
    folder = tmp_path / "adapter"
    folder.mkdir()
    write(trained(base, ADAPTERS["head-only"], "mean"), base, folder)
    write(trained(base, ADAPTERS["head-only"], "cls"), base, folder)
    assert import_peft(folder)[0].spec.pooling == "cls"
    assert not (folder / "head.safetensors").exists()
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "draft.txt").write_text("years of work")
    with pytest.raises(ModelError, match="holds no adapter"):
        write(trained(base, ADAPTERS["head-only"], "cls"), base, other)
    assert (other / "draft.txt").read_text() == "years of work"


def test_a_failure_on_the_way_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny.base_of(tmp_path / "base", "bert")
    folder = write(trained(base, ADAPTERS["head-only"], "mean"), base, tmp_path / "run" / "adapter")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*args: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "card", full)
    for target in (folder, tmp_path / "run" / "new"):
        with pytest.raises(ModelError, match="No space left"):
            write(trained(base, ADAPTERS["query-value"], "cls"), base, target)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["adapter"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("lost", ["fedrad.json", "adapter_model.safetensors", "head.safetensors"])
@pytest.mark.parametrize("how", ["gone", "garbled"])
def test_a_folder_that_is_not_whole_is_refused(lost: str, how: str, tmp_path: Path) -> None:
    base = tiny.base_of(tmp_path / "base", "bert")
    folder = write(trained(base, ADAPTERS["query-value"], "mean"), base, tmp_path / "adapter")
    if how == "gone":
        (folder / lost).unlink()
    else:
        (folder / lost).write_bytes(b'{"format": 1, "x')
    with pytest.raises(ModelError, match="no complete adapter"):
        import_peft(folder)


def test_another_format_is_refused(tmp_path: Path) -> None:
    base = tiny.base_of(tmp_path / "base", "bert")
    folder = write(trained(base, ADAPTERS["query-value"], "mean"), base, tmp_path / "adapter")
    manifest = json.loads((folder / "fedrad.json").read_text())
    (folder / "fedrad.json").write_text(json.dumps(manifest | {"format": manifest["format"] + 1}))
    with pytest.raises(ModelError, match="no complete adapter"):
        import_peft(folder)


def test_a_head_only_adapter_adds_nothing_but_the_head(tmp_path: Path) -> None:
    base = tiny.base_of(tmp_path / "base", "bert")
    folder = write(trained(base, ADAPTERS["head-only"], "cls"), base, tmp_path / "adapter")
    stored = load_file(folder / "adapter_model.safetensors")
    assert all(bool((tensor == 0).all()) for name, tensor in stored.items() if "lora" in name)
    assert {name for name in stored if "lora" not in name} == {
        "base_model.model.classifier.weight",
        "base_model.model.classifier.bias",
    }
