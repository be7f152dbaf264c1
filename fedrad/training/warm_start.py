"""The adapter that a run starts from: what can be known before any private report is read.

All of it comes from generated text (``fedrad.data.synthetic`` reads no private data, so none of this costs privacy).
Warm, from a public base: its head, and the directions of the pooled vector in which that head and generated reports
differ most. Warm, from notes: an adapter trained on them (``public_notes.py``). Cold: the mean of the pooled vectors,
which centres the features, and the log-odds of each label.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

import fedrad
from fedrad.cache import fedrad_cache_dir, sources
from fedrad.config import Experiment
from fedrad.corpora import CHEXPERT, COLLECTIONS, NO_OTHER_LABEL
from fedrad.data.batches import Tokenized, collate, tokenize
from fedrad.data.label_names import plain, positions
from fedrad.data.load import load_corpus
from fedrad.errors import ConfigError, ModelError
from fedrad.files import write_whole
from fedrad.model.buckets import micro_batches
from fedrad.model.public_head import PublicHead
from fedrad.public_base.choice import collection_of, starts_warm
from fedrad.training.public_notes import public_notes, taught
from fedrad.training.setup import Setup

# The generated reports of the centring are others than those of a synthetic corpus, whatever its seed.
_SEED_OFFSET = 7_000_000
_CENTRING_REPORTS = 1000
# Settings that the cold start depends on, if only by rounding.
_DECIDE = ("train.seed", "train.threads", "data.max-length", "data.uncertain")
Progress = Callable[[str, int, int], None]

# Root-mean-square norm of the features. It sets the weight of the head's weights against its bias and against the LoRA
# matrices in the joint clipping; chosen on generated and public text (benchmarks/utility.py).
FEATURE_NORM = 4.0


def initial_state(
    experiment: Experiment, setup: Setup, progress: Progress = lambda what, done, all_: None
) -> dict[str, Tensor]:
    """The first state of a run: the classifier's state after warm or cold start. Deterministic.

    Raises:
        ConfigError: a warm start is asked for, and generated reports teach none of the labels or not this task.
    """
    task = setup.task
    if experiment.warm_start == "notes":
        return _kept(experiment, setup, partial(_from_notes, experiment, setup, progress))
    warm = starts_warm(experiment, task.findings)
    if experiment.train.warm_start == "synthetic" and not task.findings:
        raise ConfigError(
            f"train.warm-start: generated reports teach labels of 0 and 1, and the task is {task.name}; set"
            " train.warm-start=none"
        )
    if experiment.train.warm_start == "synthetic" and not warm:
        raise ConfigError(
            "train.warm-start: the generator knows none of these labels; set train.warm-start=none, or give the label"
            f" columns the names of the findings that it knows: {', '.join(CHEXPERT)}; or, of chest CT,"
            f" {', '.join(COLLECTIONS['ct-rate'])}"
        )
    head = setup.base.public_head
    if warm and head is not None:
        _start_from(head, setup, no_other_label=experiment.no_finding == "no-other-label")
        return setup.classifier.state()
    if setup.classifier.answers is not None:
        return setup.classifier.state()  # nothing to centre, and no head
    return _kept(experiment, setup, partial(_cold, experiment, setup, progress))


def _start_from(head: PublicHead, setup: Setup, *, no_other_label: bool) -> None:
    """Sets basis and head so that the logits are those of the public head; of a label that it lacks, log-odds of 5%."""
    other = plain("No Finding") if no_other_label else None
    asked = [NO_OTHER_LABEL if plain(name) == other else name for name in setup.task.findings]
    collection = collection_of(setup.task.findings)
    if collection not in head.labels:
        raise ModelError(
            f"the public base {setup.base.name!r} has no head for the labels of {collection}: build it again with"
            " `fedrad base build`."
        )
    rows = np.array(positions(asked, head.labels[collection]))
    known = torch.from_numpy(rows >= 0)
    weight = torch.zeros(len(rows), setup.base.hidden, dtype=torch.float64)
    bias = torch.full((len(rows),), float(np.log(0.05 / 0.95)), dtype=torch.float64)
    mean = head.mean.double()
    weight[known] = head.weight[collection][rows[rows >= 0]].double()
    bias[known] = head.bias[collection][rows[rows >= 0]].double() + weight[known] @ mean
    directions = setup.classifier.readout.directions
    if not directions:
        scale = FEATURE_NORM / float(head.spread.double().square().sum().sqrt())
        setup.classifier.set_centring(head.mean, scale)
        setup.classifier.set_head(weight / scale, bias)
        return
    axes = head.directions[: directions - int(known.sum())].double()
    spanned, _ = torch.linalg.qr(torch.cat([axes, weight[known]]).T)
    scale = FEATURE_NORM / float(head.spread[: len(axes)].double().square().sum().sqrt())
    setup.classifier.set_basis(head.mean, scale * spanned.T)
    setup.classifier.set_head(weight @ spanned / scale, bias)


def _kept(experiment: Experiment, setup: Setup, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What ``make`` returns, loaded; kept in the cache folder, named by all that it depends on."""
    path = fedrad_cache_dir() / "start" / f"{_key(experiment, setup)}.safetensors"
    if path.exists():
        with suppress(SafetensorError, OSError, ModelError):  # a damaged file is made anew
            state = load_file(path)
            setup.classifier.load_state(state)
            return state
    state = {name: tensor.contiguous() for name, tensor in make().items()}
    setup.classifier.load_state(state)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(path, save(state), durable=False, shared=True)  # two runs may start at once
    return state


def _from_notes(experiment: Experiment, setup: Setup, progress: Progress) -> dict[str, Tensor]:
    """Centring, head and LoRA from generated order notes."""
    seed = _SEED_OFFSET + experiment.train.seed
    notes = public_notes(setup.task.labels, experiment.train.warm_reports, seed)
    if setup.classifier.answers is None and experiment.model.centre:
        rows = np.arange(min(_CENTRING_REPORTS, len(notes)))
        with setup.classifier.arithmetic():
            _centre(setup, setup.task.tokenize(notes, rows, setup.base.tokenizer, setup.max_length), progress)
    with setup.classifier.arithmetic():
        return taught(experiment, setup, setup.classifier.state(), notes)


def _cold(experiment: Experiment, setup: Setup, progress: Progress) -> dict[str, Tensor]:
    """Centring and bias from generated text."""
    text = load_corpus(
        "synthetic",
        reports=_CENTRING_REPORTS,
        seed=_SEED_OFFSET + experiment.train.seed,
        uncertain=experiment.data.uncertain,
    )
    tokens = tokenize(text, np.arange(len(text)), setup.base.tokenizer, experiment.data.max_length)
    columns = np.array(positions(setup.task.findings, CHEXPERT), dtype=np.int64)
    if experiment.model.centre:
        with setup.classifier.arithmetic():
            _centre(setup, tokens, progress)
    if (columns >= 0).any():
        share = tokens.labels.sum(axis=0) / tokens.mask.sum(axis=0)  # hedges may be masked, but never all reports
        share = np.clip(share[columns], 1e-3, 0.5)
        share = np.where(columns >= 0, share, 0.05)
        log_odds = torch.from_numpy(np.log(share / (1 - share)).astype(np.float32))
        setup.classifier.set_head(setup.classifier.suffix.head.weight, log_odds)
    return setup.classifier.state()


def _key(experiment: Experiment, setup: Setup) -> str:
    flat = experiment.flat()
    notes = ("train.warm-reports", "train.warm-epochs", "privacy.gradients") if experiment.warm_start == "notes" else ()
    facts = {
        "start": experiment.warm_start,
        **{key: flat[key] for key in flat if key.startswith(("model.", "lora.")) or key in (*_DECIDE, *notes)},
        "task": [setup.task.name, setup.task.labels],
        "lora": asdict(setup.lora),  # as the strategy shapes it
        "base": setup.base.sha256,
        "kernels": replace(setup.classifier.kernels, measured={}).__dict__,
        "versions": [fedrad.__version__, torch.__version__, _source_digest()],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _source_digest() -> str:
    """Of the code and the phrases that decide the result: a change of them is never answered from the cache."""
    digest = hashlib.sha256()
    package = Path(fedrad.__file__).parent
    for part in ("corpora.py", "data", "model", "privacy", "public_base", "tasks", "training"):
        for file in sources(package / part):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _centre(setup: Setup, tokens: Tokenized, progress: Progress) -> None:
    """Sets the features' mean to 0 and their root-mean-square norm to ``FEATURE_NORM``, measured on generated text."""
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
