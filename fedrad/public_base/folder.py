"""Writes a public base as a stock transformers folder: weights, tokenizer, head and model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import fedrad
from fedrad.errors import ModelError
from fedrad.files import whole_folder
from fedrad.model.base import BaseModel
from fedrad.model.public_head import HEAD_FILE, PublicHead

_CARD = """---
library_name: transformers
tags: [radiology, fedrad, public-base]
---
# A public base for radiology reports

`{base}`, all weights but the embedding tables further trained to classify generated radiology reports. No real report
was used: the text comes from the phrase banks of fedrad {version}, so it has cost no privacy.

| | |
|---|---|
{rows}

`{head}` holds the last layer for each collection of labels, the mean of the mean-pooled vector, and its principal
directions on generated text. In fedrad: `model.name = "{folder}"`; hospitals pin it by the fingerprint that
`fedrad model {folder}` prints. In transformers: `AutoModel.from_pretrained("{folder}")`.

The licence is that of `{base}`. A research model, not a medical device.
"""


def write_base_folder(base: BaseModel, head: PublicHead, folder: Path, facts: Mapping[str, object]) -> None:
    """Writes the folder, which appears whole or not at all.

    Args:
        base: the trained model, under the name of the model that it was made from.
        folder: must be empty or not exist.
        facts: for the model card: how it was made, and its scores.

    Raises:
        ModelError: the folder is not empty, or can't be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder} exists already; nothing is overwritten. Name another folder.")
    rows = "\n".join(f"| {what} | {value} |" for what, value in facts.items())
    try:
        with whole_folder(folder) as partial:
            base.module.save_pretrained(partial)  # type: ignore[operator]  # transformers'
            base.tokenizer.save_pretrained(partial)
            head.save(partial / HEAD_FILE)
            card = _CARD.format(base=base.name, version=fedrad.__version__, rows=rows, head=HEAD_FILE, folder=folder)
            (partial / "README.md").write_text(card, encoding="utf-8")
    except OSError as error:
        raise ModelError(f"the base can't be written to {folder}: {error.strerror or error}.") from error
