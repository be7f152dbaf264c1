"""What the trainable part of the model reads: tokens, or the frozen lower part's output for them, computed once.

Layers below the lowest adapted one never change, so their output for a report never changes either. Keeping it turns
each step's cost from the whole encoder into the adapted layers only. The copy is as private as the reports and
stays in the process (or, for a hospital, in nothing at all: it is made anew for each process and never written).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrad.data.batches import Tokenized, collate
from fedrad.model.buckets import micro_batches
from fedrad.model.encoder import ReportClassifier
from fedrad.privacy.passes import padded
from fedrad.privacy.units import Units, units_of
from fedrad.tasks.task import Task
from fedrad.training.padding import Padding
from fedrad.training.setup import Setup

# Above this many bytes the lower part is run again in every step instead of being kept.
KEEP_AT_MOST = 2 << 30


class SharedLowerParts:
    """What frozen layers made of whole sets of reports, for the runs of a sweep that differ in other things.

    Args:
        at_most: bytes; what was kept first goes first.
    """

    def __init__(self, at_most: int = KEEP_AT_MOST) -> None:
        self.at_most = at_most
        self._kept: dict[str, NDArray[np.float32]] = {}

    def found(self, key: str) -> NDArray[np.float32] | None:
        """What is kept under this key."""
        return self._kept.get(key)

    def keep(self, key: str, kept: NDArray[np.float32]) -> None:
        """Keeps it, and drops what has no room beside it."""
        kept.flags.writeable = False
        self._kept[key] = kept
        while sum(part.nbytes for part in self._kept.values()) > self.at_most:
            del self._kept[next(iter(self._kept))]


_SHARED: ContextVar[SharedLowerParts | None] = ContextVar("shared lower parts", default=None)


@contextmanager
def sharing(parts: SharedLowerParts) -> Iterator[None]:
    """Within it, ``prepare`` looks into ``parts`` before it runs the frozen layers; the results have the same bits.

    For the runs of a sweep in one process. Nothing at a real hospital opens it, and work that is padded is never looked
    up.
    """
    token = _SHARED.set(parts)
    try:
        yield
    finally:
        _SHARED.reset(token)


@dataclass(frozen=True)
class Batch:
    """A micro-batch of B reports, ready for ``classifier.suffix``: hidden [B, T, d] or [B, d], attention [B, T].

    All of it is on the classifier's device. What labels and mask [B, ...] mean is the task's to say. ids [B, T] are
    the tokens. ``all_outputs``: the work must not depend on how many of its outputs the task reads.
    """

    hidden: Tensor
    attention: Tensor
    ids: Tensor
    labels: Tensor
    mask: Tensor
    task: Task
    all_outputs: bool = False

    @property
    def read(self) -> tuple[Tensor, ...]:
        """The arguments of ``classifier.suffix`` for ``losses``."""
        wanted = None if self.all_outputs else self.task.wanted(self._targets[1])
        return (self.hidden, self.attention) if wanted is None else (self.hidden, self.attention, wanted)

    def losses(self, outputs: Tensor) -> Tensor:
        """The loss of each report, [B], of what ``classifier.suffix`` made of the batch."""
        return self.task.losses(outputs, *self._targets)

    @property
    def _targets(self) -> tuple[Tensor, Tensor]:
        return self.task.targets(self.ids, self.attention, self.labels, self.mask)


@dataclass(frozen=True)
class Inputs:
    """The reports of one shard or test set as the trainable part reads them.

    Attributes:
        tokens: the tokenized reports with their labels.
        classifier: whose frozen lower part is used.
        task: what the labels are for.
        kept: its output, ragged [sum of lengths, d] or, if the head alone is trained, [n, k]; None if not kept.
        pad_id: the token id that pads.
        padding: a hospital's fixed amount of work; None: no more work than there is.
        filler: its text, as the trainable part reads it; there if ``padding`` is.
    """

    tokens: Tokenized
    classifier: ReportClassifier
    task: Task
    kept: NDArray[np.float32] | None
    pad_id: int
    padding: Padding | None = None
    filler: Inputs | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Cost of each report in a micro-batch: its length, or 1 where one pooled vector stands for the report."""
        if self._pooled:
            return np.ones(len(self), dtype=np.int64)
        return self.tokens.lengths

    def units(self, unit: str, start: int = 0, stop: int | None = None) -> Units:
        """The privacy units among the reports ``start`` to ``stop`` (all of them by default), which are one hospital's.

        Raises:
            PrivacyError: the unit is the patient, and the reports name no patients.
        """
        patients = self.tokens.patients
        rows = range(len(self))[start:stop]
        return units_of(unit, len(rows), None if patients is None else patients[rows.start : rows.stop])

    @property
    def _pooled(self) -> bool:
        return self.kept is not None and len(self.kept) == len(self.tokens) and self.classifier.head_only

    def passes(self, cuts: Sequence[NDArray[np.int64]]) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        """Each micro-batch of a step with its rows; then, if work is padded, batches of filler, which have no rows.

        A batch may have more reports than rows; drop the gradients of the surplus.
        """
        for rows in cuts:
            yield rows, self.batch(rows)
        if self.padding is not None and self.filler is not None:
            for _ in range(padded(len(cuts), self.padding.step) - len(cuts)):
                yield np.empty(0, dtype=np.int64), self.filler.batch(np.zeros(1, dtype=np.int64))

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """The micro-batch of these reports, padded to its longest, or to the shape that every pass has.

        Surplus rows repeat the same unit's reports, so that no other unit's reports share the pass.
        """
        at_least, width = (1, 1) if self.padding is None else self.padding.shape
        if 0 < len(indices) < at_least:
            indices = np.resize(indices, at_least)
        tokens, device = collate(self.tokens, indices, self.pad_id, width), self.classifier.device
        ids, attention = tokens.ids.to(device), tokens.attention.to(device)
        if self.kept is None:
            with torch.no_grad():
                hidden = self.classifier.prefix(ids, attention)
        elif self._pooled:
            hidden = torch.from_numpy(self.kept[indices])
        else:
            hidden = torch.zeros(*tokens.ids.shape, self.kept.shape[1])
            filled = hidden.numpy()
            for row, index in enumerate(indices):
                start, stop = self.tokens.offsets[index], self.tokens.offsets[index + 1]
                filled[row, : stop - start] = self.kept[start:stop]
        labels, mask = tokens.labels.to(device), tokens.mask.to(device)
        fixed = self.padding is not None and self.padding.full
        return Batch(hidden.to(device), attention, ids, labels, mask, self.task, fixed)


def prepare(
    setup: Setup,
    tokens: Tokenized,
    on_part: Callable[[int, int], None] | None = None,
    padding: Padding | None = None,
) -> Inputs:
    """Runs the frozen lower part over all reports once, in a fixed order, and keeps what it gives if it fits.

    Args:
        on_part: called with (reports done, reports in all) after each micro-batch; for a local progress line only.
        padding: a hospital's. Public figures then decide whether the lower part's output is kept, and how often it is
            run.
    """
    classifier, task, pad_id = setup.classifier, setup.task, setup.pad_id
    if padding is None:
        rows = len(tokens) if classifier.head_only else int(tokens.offsets[-1])
    else:
        rows = padding.reading * (1 if classifier.head_only else padding.longest)
    if classifier.prefix_layers == 0 or rows * classifier.hidden_size * 4 > KEEP_AT_MOST:
        filler = None if padding is None else Inputs(padding.filler, classifier, task, None, pad_id, padding)
        return Inputs(tokens, classifier, task, None, pad_id, padding, filler)
    if padding is None:
        kept = shared_or_made(setup, tokens, partial(_lower_part, classifier, tokens, pad_id, 1, on_part))
        return Inputs(tokens, classifier, task, kept, pad_id)
    width = padding.shape[1]
    kept = _lower_part(classifier, tokens, pad_id, width, on_part)
    for _ in range(padded(len(tokens), padding.reading) - len(tokens)):
        _lower_part(classifier, padding.filler, pad_id, width)
    of_filler = _lower_part(classifier, padding.filler, pad_id, width)
    filler = Inputs(padding.filler, classifier, task, of_filler, pad_id, padding)
    return Inputs(tokens, classifier, task, kept, pad_id, padding, filler)


def shared_or_made(
    setup: Setup, tokens: Tokenized, make: Callable[[], NDArray[np.float32]], behind: object = None
) -> NDArray[np.float32]:
    """What the lower part makes of these texts: from the run before within ``sharing``, else from ``make``.

    Args:
        behind: what it reads behind each text, if anything; named by its repr.
    """
    shared = _SHARED.get()
    if shared is None:
        return make()
    key = _facts(setup, tokens, behind)
    kept = shared.found(key)
    if kept is None:
        kept = make()
        shared.keep(key, kept)
    return kept


def _facts(setup: Setup, tokens: Tokenized, behind: object) -> str:
    """A digest of all that decides what the lower part makes of these texts."""
    classifier = setup.classifier
    digest = hashlib.sha256(repr([setup.base.fingerprint, setup.spec, classifier.prefix_layers, behind]).encode())
    # No gradient is taken of the lower part, so checkpointing is nothing to it.
    arithmetic = [replace(classifier.kernels, measured={}, checkpointing=False), torch.get_num_threads()]
    digest.update(repr([classifier.head_only, *arithmetic]).encode())
    for part in (tokens.ids, tokens.offsets):
        digest.update(part.tobytes())
    if classifier.head_only:  # then the features are a function of the centring or the basis as well
        trained = classifier.adapter().keys()
        for name, tensor in sorted(classifier.state().items()):
            if name not in trained:
                digest.update(f"{name}|{tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _lower_part(
    classifier: ReportClassifier,
    tokens: Tokenized,
    pad_id: int,
    width: int,
    on_part: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """What the frozen layers make of every report: [n, k] for the head alone, else ragged [sum of lengths, d]."""
    rows = len(tokens) if classifier.head_only else int(tokens.offsets[-1])
    width_kept = classifier.features if classifier.head_only else classifier.hidden_size
    kept, device = np.empty((rows, width_kept), dtype=np.float32), classifier.device
    done = 0
    for indices in micro_batches(tokens.lengths, np.arange(len(tokens)), classifier.kernels.micro_tokens):
        batch = collate(tokens, indices, pad_id, width)
        with torch.no_grad(), classifier.arithmetic():
            hidden = classifier.prefix(batch.ids.to(device), batch.attention.to(device)).float().cpu().numpy()
        if classifier.head_only:
            kept[indices] = hidden
        else:
            for row, index in enumerate(indices):
                start, stop = tokens.offsets[index], tokens.offsets[index + 1]
                kept[start:stop] = hidden[row, : stop - start]
        done += len(indices)
        if on_part is not None:
            on_part(done, len(tokens))
    return kept
