"""A small encoder for benchmarks of many runs: distilled from the embedded one, on generated text without labels.

Two layers of width 128 learn to say, through a linear map that is thrown away, what the embedded encoder says of a
report: its pooled vector. No label and no private text is read. It is made once and kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertModel

from fedrad.cache import fedrad_cache_dir
from fedrad.data.synthetic import generate
from fedrad.model.base import load_base
from fedrad.settings import EMBEDDED

REPORTS, EPOCHS, BATCH, LENGTH, RATE = 4000, 4, 64, 64, 1e-3
SEED = 90_000  # of the generated text; corpora have small seeds


@lru_cache(maxsize=1)
def student_folder() -> str:
    """Where the model is, made if it is not there yet (some minutes)."""
    name = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    folder = fedrad_cache_dir() / "bench" / f"student-{name}"
    if not (folder / "config.json").is_file():
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _distil(partial)
        partial.rename(folder)
    return str(folder)


def _pooled(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)


def _distil(folder: Path) -> None:
    began = time.monotonic()
    teacher = load_base(EMBEDDED)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=teacher.tokenizer.vocab_size,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=128,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    student = BertModel(config, add_pooling_layer=False)
    # The teacher's word vectors, onto their main directions: most words of a report are rare in the generated text.
    words = teacher.module.get_input_embeddings().weight.detach()
    _, _, directions = torch.pca_lowrank(words, q=128, niter=4)
    with torch.no_grad():
        student.embeddings.word_embeddings.weight.copy_((words - words.mean(0)) @ directions)
    readout = nn.Linear(128, teacher.hidden)
    texts = [row["text"] for row in generate(REPORTS, seed=SEED)]
    encoded = teacher.tokenizer(texts, truncation=True, max_length=LENGTH, padding=True, return_tensors="pt")
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    with torch.no_grad():
        target = torch.cat(
            [
                _pooled(teacher.module(input_ids=i, attention_mask=m).last_hidden_state, m)
                for i, m in zip(ids.split(100), mask.split(100), strict=True)
            ]
        )
    target = (target - target.mean(0)) / target.std()
    parameters = [*student.parameters(), *readout.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    steps = EPOCHS * (REPORTS // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps)
    generator = np.random.default_rng(SEED)
    for _ in range(EPOCHS):
        for rows in np.array_split(generator.permutation(REPORTS), REPORTS // BATCH):
            width = int(mask[rows].sum(1).max())
            hidden = student(input_ids=ids[rows, :width], attention_mask=mask[rows, :width]).last_hidden_state
            loss = (readout(_pooled(hidden, mask[rows, :width])) - target[rows]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    student.save_pretrained(folder)
    teacher.tokenizer.save_pretrained(folder)
    print(f"distilled the small encoder in {time.monotonic() - began:.0f} s: loss {loss.item():.3f} of 1", flush=True)
