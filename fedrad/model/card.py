"""The README that travels with an adapter: what it is, what it promises, and the lines that use it without fedrad."""

from __future__ import annotations

from collections.abc import Sequence

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
library_name: peft
tags: [radiology, lora, differential-privacy, fedrad]
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


def render_card(
    *,
    base_name: str,
    base_import: str,
    base_expression: str,
    revision: str,
    digest: str,
    pooling: str,
    labels: Sequence[str],
    meaning: str,
    probabilities: str,
    adapted: str,
    max_length: int,
    privacy: str,
    notes: Sequence[str],
) -> str:
    """The text of an adapter's README.

    Args:
        base_expression: Python for what ``from_pretrained`` takes; ``base_import``: the import it needs, or nothing.
        meaning: of the logits, in words; ``probabilities``: Python that makes probabilities of them.
        adapted: which layers carry LoRA, in words.
        privacy: the privacy statement, as the run can make it.
        notes: remarks below the code.
    """
    code = (_MEAN if pooling == "mean" else _CLS).format(
        base_import=f"{base_import}\n" if base_import else "",
        base=base_expression,
        revision=f", revision={revision!r}" if revision else "",
        labels=repr(list(labels)),
        count=len(labels),
        max_length=max_length,
        probabilities=probabilities,
    )
    return _CARD.format(
        base_name=base_name,
        digest=digest,
        pooling="mean over the tokens that are not padding" if pooling == "mean" else "first token through the pooler",
        output=meaning,
        adapted=adapted,
        privacy=privacy.strip(),
        label_lines="\n".join(f"{i}. {name}" for i, name in enumerate(labels)),
        code=code,
        notes="".join(f"{note}\n\n" for note in notes),
    )
