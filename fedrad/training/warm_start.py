"""The adapter that a run starts from: what can be learnt before any private report is read.

From generated text alone (``fedrad.data.synthetic`` reads no private data, so none of this costs privacy): the mean of
the pooled features, which centres them; the head's bias at the log-odds of each label; and, with ``train.warm-start =
"synthetic"``, LoRA and head trained without privacy on generated reports.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import fedrad
from fedrad.cache import fedrad_cache_dir, sources
from fedrad.config import Experiment
from fedrad.data.batches import Tokenized, collate, tokenize
from fedrad.data.label_names import positions
from fedrad.data.labels import CHEXPERT
from fedrad.data.load import load_corpus
from fedrad.data.report import label_names
from fedrad.errors import ConfigError, ModelError
from fedrad.model.buckets import micro_batches
from fedrad.model.encoder import build
from fedrad.training.inputs import prepare
from fedrad.training.loss import report_losses
from fedrad.training.setup import Setup

# The generated reports of the warm start are others than those of a synthetic corpus, whatever its seed.
_SEED_OFFSET = 7_000_000
_CENTRING_REPORTS = 1000
_BATCH = 32
_WARM = "warm start"
_HEAD_ONLY_RATE = 5.0
# Settings of other sections that the result depends on, if only by rounding.
_ALSO_DECIDE = ("train.seed", "train.threads", "data.max-length")
Progress = Callable[[str, int, int], None]


def starts_warm(experiment: Experiment, names: tuple[str, ...], *, single_label: bool) -> bool:
    """Whether a run with these labels starts from an adapter that generated reports have trained."""
    return experiment.warm_start == "synthetic" and not single_label and len(unknown_labels(names)) < len(names)


def unknown_labels(names: Sequence[str]) -> tuple[str, ...]:
    """The labels that generated reports teach nothing about; the generator knows those of CheXpert."""
    return tuple(name for name, place in zip(names, positions(names, CHEXPERT), strict=True) if place < 0)


def initial_state(
    experiment: Experiment, setup: Setup, progress: Progress = lambda what, done, all_: None
) -> dict[str, Tensor]:
    """The first state of a run: the classifier's state after centring, bias and warm start. Deterministic.

    The result is kept in the cache folder, named by all that it depends on.

    Raises:
        ConfigError: a warm start is asked for and none of the labels is one that the generator knows.
    """
    if experiment.train.warm_start == "synthetic" and not starts_warm(
        experiment, setup.names, single_label=setup.single_label
    ):
        raise ConfigError(
            "train.warm-start: the generator knows none of these labels; set train.warm-start=none, or give the label"
            f" columns the names of the findings that it knows: {', '.join(CHEXPERT)}"
        )
    path = fedrad_cache_dir() / "warm" / f"{_key(experiment, setup)}.safetensors"
    if path.exists():
        with suppress(SafetensorError, OSError, ModelError):  # a damaged file is made anew
            state = load_file(path)
            setup.classifier.load_state(state)
            return state
    frozen = setup.classifier
    setup = _all_trainable(experiment, setup)
    warm = starts_warm(experiment, setup.names, single_label=setup.single_label)
    reports = max(_CENTRING_REPORTS, experiment.train.warm_reports if warm else 0)
    text = load_corpus("synthetic", reports=reports, seed=_SEED_OFFSET + experiment.train.seed)
    known = label_names(text.features)
    tokens = tokenize(text, np.arange(len(text)), setup.base.tokenizer, experiment.data.max_length)
    tokens, shared = _onto_labels(tokens, known, setup.names)
    if experiment.data.name == "mimic-cxr":
        _as_chexpert_labels(tokens, setup.names)
    with setup.classifier.arithmetic():
        if experiment.model.centre:
            _centre(setup, tokens, progress)
        if not setup.single_label and shared.any():
            setup.classifier.set_head_bias(_log_odds(tokens, shared))
        if warm:
            _train(setup, tokens.select(np.arange(experiment.train.warm_reports)), experiment, progress)
    state = {name: tensor.contiguous() for name, tensor in setup.classifier.state().items()}
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_suffix(f".{os.getpid()}.partial")  # two runs may warm up at once
    save_file(state, partial)
    partial.replace(path)
    frozen.load_state(state)
    return state


def _all_trainable(experiment: Experiment, setup: Setup) -> Setup:
    """The same model with A and B free: what ``lora.freeze-*`` keeps from the hospitals may learn from public text."""
    if not (setup.lora.freeze_a or setup.lora.freeze_b):
        return setup
    free = replace(setup.lora, freeze_a=False, freeze_b=False)
    classifier = build(
        setup.base, setup.spec, free, setup.names, setup.single_label, experiment.train.seed, setup.classifier.kernels
    )
    return replace(setup, classifier=classifier, lora=free)


def _key(experiment: Experiment, setup: Setup) -> str:
    flat = experiment.flat()
    relevant = {
        key: flat[key]
        for key in flat
        if key.startswith(("model.", "lora.", "train.warm-")) or key in _ALSO_DECIDE
        if not key.startswith("lora.freeze-")  # the warm start trains both
    }
    facts = {
        **relevant,
        "warm": experiment.warm_start,
        "chexpert": experiment.data.name == "mimic-cxr",
        "names": setup.names,
        "single": setup.single_label,
        "lora": asdict(replace(setup.lora, freeze_a=False, freeze_b=False)),  # as the strategy shapes it
        "base": setup.base.sha256,
        "kernels": replace(setup.classifier.kernels, measured={}).__dict__,
        "versions": [fedrad.__version__, torch.__version__, _source_digest()],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _source_digest() -> str:
    """Of the code and the phrases that decide the result: a change of them is never answered from the cache."""
    digest = hashlib.sha256()
    package = Path(fedrad.__file__).parent
    for part in (
        "data",
        "model",
        "training/warm_start.py",
        "training/setup.py",
        "training/inputs.py",
        "training/loss.py",
    ):
        for file in sources(package / part):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _onto_labels(
    tokens: Tokenized, known: tuple[str, ...], names: tuple[str, ...]
) -> tuple[Tokenized, NDArray[np.bool_]]:
    """The generated labels in the order of ``names``; those that the generator does not know are masked out."""
    columns = np.array(positions(names, known), dtype=np.int64)
    shared = columns >= 0
    labels = np.where(shared, tokens.labels[:, columns], 0.0).astype(np.float32)
    mask = np.broadcast_to(shared.astype(np.float32), labels.shape).copy()
    return Tokenized(tokens.ids, tokens.offsets, labels, mask), shared


def _as_chexpert_labels(tokens: Tokenized, names: tuple[str, ...]) -> None:
    """Rewrites "No Finding" in place. The generator, like Open-i, means that nothing abnormal is mentioned at all;
    CheXpert, which labelled MIMIC-CXR, that no label but Support Devices is positive (Irvin et al. 2019)."""
    if "No Finding" in names:
        others = [column for column, name in enumerate(names) if name not in ("No Finding", "Support Devices")]
        tokens.labels[:, names.index("No Finding")] = tokens.labels[:, others].max(axis=1) == 0


def _centre(setup: Setup, tokens: Tokenized, progress: Progress) -> None:
    """Sets the features' mean to 0 and their mean squared norm to their number, measured on generated text."""
    rows = np.arange(min(_CENTRING_REPORTS, len(tokens)))
    pooled = np.empty((len(rows), setup.classifier.hidden_size), dtype=np.float32)
    done = 0
    for indices in micro_batches(tokens.lengths[rows], rows, setup.classifier.kernels.micro_tokens):
        batch = collate(tokens, indices, setup.pad_id)
        ids, attention = batch.ids.to(setup.classifier.device), batch.attention.to(setup.classifier.device)
        pooled[indices] = setup.classifier.pooled(ids, attention).cpu().numpy()
        done += len(indices)
        progress("reading generated reports to centre the features", done, len(rows))
    mean = pooled.mean(axis=0)
    spread = float(np.sqrt(((pooled - mean) ** 2).sum(axis=1).mean()))
    setup.classifier.set_centring(torch.from_numpy(mean), FEATURE_NORM / spread)


# Root-mean-square norm of the centred features. It sets the weight of the head's weights against its bias and against
# the LoRA matrices in the joint clipping; chosen on generated and public text (benchmarks/utility.py).
FEATURE_NORM = 4.0


def _log_odds(tokens: Tokenized, shared: NDArray[np.bool_]) -> Tensor:
    share = np.clip(tokens.labels.mean(axis=0), 1e-3, 0.5)
    share = np.where(shared, share, 0.05)
    return torch.from_numpy(np.log(share / (1 - share)).astype(np.float32))


def _train(setup: Setup, tokens: Tokenized, experiment: Experiment, progress: Progress) -> None:
    """Plain Adam on generated reports. Not private, and does not have to be."""
    classifier, train = setup.classifier, experiment.train
    inputs = prepare(
        classifier, tokens, setup.pad_id, lambda d, n: progress(f"{_WARM}: reading generated reports", d, n)
    )
    parameters, micro_tokens = classifier.adapter(), classifier.kernels.micro_tokens
    # The head alone is a convex problem and takes larger steps.
    rate = train.warm_learning_rate * (_HEAD_ONLY_RATE if classifier.head_only else 1.0)
    optimizer = torch.optim.Adam(parameters.values(), lr=rate)
    generator = np.random.default_rng([_SEED_OFFSET, train.seed])
    batch_size = min(_BATCH, len(tokens))
    steps = train.warm_epochs * (len(tokens) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=max(2, steps))
    step = 0
    for _ in range(train.warm_epochs):
        order = generator.permutation(len(tokens))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            optimizer.zero_grad()
            for indices in micro_batches(inputs.lengths, order[start : start + batch_size], micro_tokens):
                batch = inputs.batch(indices)
                logits = classifier.suffix(batch.hidden, batch.attention)
                losses = report_losses(logits, batch.labels, batch.mask, single_label=setup.single_label)
                (losses.sum() / batch_size).backward()
            optimizer.step()
            schedule.step()
            step += 1
            progress(f"{_WARM}: training on them, at no privacy cost", step, steps)
    optimizer.zero_grad(set_to_none=True)
