"""A test set as a decoder is asked about it: prompts, each with the tree of all answers behind it.

The frozen layers below the adapter make the same of both in every evaluation, so it is computed once and kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from fedrad.data.batches import Tokenized, collate
from fedrad.model.answers import AnswerTree
from fedrad.model.buckets import micro_batches
from fedrad.model.encoder import ReportClassifier
from fedrad.tasks.task import Task
from fedrad.training.inputs import KEEP_AT_MOST, Batch, Inputs, prepare, shared_or_made
from fedrad.training.setup import Setup


@dataclass(frozen=True)
class Questions:
    """Prompts of n notes, ready for ``Task.predict``.

    Attributes:
        tokens: the notes with their answers and labels, to score predictions by.
        prompts: the notes without their answers.
        tree: of all answers.
        classifier: whose frozen lower part is used.
        task: what is asked.
        pad_id: the token id that pads.
        kept: what the lower part made of prompts and trees, ragged [sum of ``lengths``, d]; None if not kept.
    """

    tokens: Tokenized
    prompts: Tokenized
    tree: AnswerTree
    classifier: ReportClassifier
    task: Task
    pad_id: int
    kept: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each prompt and the tree behind it."""
        return self.prompts.lengths + len(self.tree.tokens)

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """These notes: hidden [B, T + N, d], and who attends to whom [B, T + N, T + N], as ``AnswerTree.behind``."""
        padded, device = collate(self.prompts, indices, self.pad_id), self.classifier.device
        ids, attends = self.tree.behind(padded.ids.to(device), padded.attention.to(device))
        if self.kept is None:
            hidden = self.classifier.prefix(ids, attends)
        else:
            filled = np.zeros((*ids.shape, self.kept.shape[1]), dtype=np.float32)
            ends = np.cumsum(self.lengths)
            for row, index in enumerate(indices):
                own = self.kept[ends[index] - self.lengths[index] : ends[index]]
                prompt = int(self.prompts.lengths[index])
                filled[row, :prompt], filled[row, padded.ids.shape[1] :] = own[:prompt], own[prompt:]
            hidden = torch.from_numpy(filled).to(device)
        labels, mask = padded.labels.to(device), padded.mask.to(device)
        return Batch(hidden, attends, ids, labels, mask, self.task)


def asked(setup: Setup, tokens: Tokenized) -> Inputs | Questions:
    """The reports of a test set as they are predicted; for a task with a head, as they are trained on."""
    classifier = setup.classifier
    if classifier.answers is None:
        return prepare(setup, tokens)
    ends = tokens.offsets[1:] - tokens.mask.sum(axis=1).astype(np.int64)
    pieces = [tokens.ids[start:end] for start, end in zip(tokens.offsets, ends, strict=False)]
    prompts = Tokenized.of(pieces, tokens.labels, tokens.mask)
    questions = Questions(tokens, prompts, classifier.answers.tree, classifier, setup.task, setup.pad_id)
    if classifier.prefix_layers == 0 or questions.lengths.sum() * classifier.hidden_size * 4 > KEEP_AT_MOST:
        return questions
    made = partial(_lower_part, questions)
    return replace(questions, kept=shared_or_made(setup, prompts, made, classifier.answers.ids))


def _lower_part(questions: Questions) -> NDArray[np.float32]:
    """What the frozen layers make of every prompt with the tree behind it: ragged [sum of lengths, d]."""
    classifier, tree = questions.classifier, len(questions.tree.tokens)
    kept = np.empty((int(questions.lengths.sum()), classifier.hidden_size), dtype=np.float32)
    ends = np.cumsum(questions.lengths)
    for indices in micro_batches(questions.lengths, np.arange(len(questions)), classifier.kernels.micro_tokens):
        with torch.no_grad(), classifier.arithmetic():
            hidden = questions.batch(indices).hidden.float().cpu().numpy()
        for row, index in enumerate(indices):
            prompt, end = int(questions.prompts.lengths[index]), ends[index]
            kept[end - tree - prompt : end - tree], kept[end - tree : end] = hidden[row, :prompt], hidden[row, -tree:]
    return kept
