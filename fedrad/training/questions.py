"""A test set as a decoder is asked about it: prompts, each with the tree of all answers behind it.

The frozen layers below the adapter make the same of both in every evaluation, so it is computed once and kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    """What the frozen layers make of every prompt with the tree behind it: ragged [sum of lengths, d].

    All prompts begin alike, with the instruction and its examples. A pass reads that beginning once, and behind it
    several notes with their trees, each of which attends to the beginning and to itself.
    """
    classifier, begin = questions.classifier, _common_beginning(questions.prompts)
    kept = np.empty((int(questions.lengths.sum()), classifier.hidden_size), dtype=np.float32)
    ends, own = np.cumsum(questions.lengths), questions.lengths - begin
    for indices in micro_batches(own, np.arange(len(questions)), classifier.kernels.micro_tokens):
        with torch.no_grad(), classifier.arithmetic():
            hidden = classifier.prefix(*_behind_one_beginning(questions, indices, begin))[0].float().cpu().numpy()
        stops = begin + np.cumsum(own[indices])
        for index, stop in zip(indices, stops, strict=True):
            end, size = ends[index], own[index]
            kept[end - size - begin : end - size], kept[end - size : end] = hidden[:begin], hidden[stop - size : stop]
    return kept


def _common_beginning(prompts: Tokenized) -> int:
    """How many tokens all prompts begin with."""
    shortest = int(prompts.lengths.min(initial=int(prompts.offsets[-1])))
    places = prompts.offsets[:-1, None] + np.arange(shortest)
    differ = (prompts.ids[places] != prompts.ids[:shortest]).any(axis=0)
    return int(np.append(differ, True).argmax())


def _behind_one_beginning(questions: Questions, indices: NDArray[np.int64], begin: int) -> tuple[Tensor, Tensor]:
    """The common beginning, these notes and their trees behind it: ids [1, T], and who attends to whom [1, T, T]."""
    prompts, device = questions.prompts, questions.classifier.device
    parts = []
    for index in indices:
        ids = torch.from_numpy(prompts.ids[prompts.offsets[index] : prompts.offsets[index + 1]].astype(np.int64))[None]
        parts.append(questions.tree.behind(ids, torch.ones_like(ids)))
    ids = torch.cat([parts[0][0][:, :begin], *(part[:, begin:] for part, _ in parts)], dim=1)
    attends = torch.zeros(1, ids.shape[1], ids.shape[1], dtype=torch.int64)
    attends[:, :begin, :begin] = parts[0][1][:, :begin, :begin]
    stop = begin
    for _, seen in parts:
        start, stop = stop, stop + seen.shape[1] - begin
        attends[:, start:stop, :begin] = seen[:, begin:, :begin]
        attends[:, start:stop, start:stop] = seen[:, begin:, begin:]
    return ids.to(device), attends.to(device)
