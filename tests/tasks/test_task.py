"""A third task, of another kind: what it takes is in this file, and nothing else of fedrad knows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from datasets import Dataset
from numpy.typing import DTypeLike, NDArray
from rich.console import Console
from torch import Tensor

from fedrad.data.batches import Indices, Tokenized
from fedrad.model.base import BaseModel
from fedrad.model.encoder import ReportClassifier
from fedrad.planning.noise_to_signal import Noise
from fedrad.planning.notes import after_training, notes_on_plan
from fedrad.privacy.plan import declared_size
from fedrad.report.scores import label_table, score_table
from fedrad.tasks.metrics import Comparison, Evaluation, Scores
from fedrad.training.evaluation import evaluate, predictions
from fedrad.training.inputs import Inputs, prepare
from fedrad.training.local import TrainingState, run_steps
from fedrad.training.preflight import check_before_first_step
from fedrad.training.recipe import Recipe
from fedrad.training.run_directory import append_metrics, create_run_directory, finish
from fedrad.training.setup import Setup, plan_for, set_up
from fedrad.training.strategy import strategy_of
from fedrad.training.warm_start import initial_state
from tests import small


@dataclass(frozen=True)
class Answer:
    """Each report has an answer: a text. Its labels are whole numbers, [n, 1], as token ids are."""

    labels: tuple[str, ...]

    name: ClassVar[str] = "answer"
    figures: ClassVar[tuple[str, ...]] = ("exact match",)
    dtype: ClassVar[DTypeLike] = object
    findings: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[tuple[str, ...]] = ("answer",)

    def outputs(self) -> int:
        return len(self.labels)

    def tokenize(self, reports: Dataset, rows: Indices, tokenizer: Any, max_length: int) -> Tokenized:
        return self.made_up(list(reports.select(rows)["text"]), tokenizer, max_length)

    def answers(self, tokenizer: Any) -> None:
        return None

    def made_up(self, texts: Sequence[str], tokenizer: Any, max_length: int) -> Tokenized:
        return self.numbered(tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"])

    def numbered(self, ids: Sequence[Sequence[int]]) -> Tokenized:
        answers = np.array([[len(row) % len(self.labels)] for row in ids], dtype=np.int64)
        offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
        return Tokenized(np.concatenate(ids).astype(np.int32), offsets, answers, np.ones((len(ids), 1), np.float32))

    def targets(self, ids: Tensor, attention: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return labels, mask

    def losses(self, outputs: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(outputs.float(), labels[:, 0], reduction="none") * mask[:, 0]

    def wanted(self, mask: Tensor) -> Tensor | None:
        return None

    def predict(
        self, model: ReportClassifier, hidden: Tensor, attention: Tensor, ids: Tensor, mask: Tensor
    ) -> NDArray[Any]:
        found = model.suffix(hidden, attention).argmax(-1).tolist()
        return np.array([[self.labels[answer]] for answer in found], dtype=object)

    def cell(self, value: Any) -> str:
        return str(value)

    def matrices(self, tokens: Tokenized) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        raise NotImplementedError("texts are no labels of 0 and 1")

    def positives(self, tokens: Tokenized) -> dict[str, int]:
        return {}

    def evaluate(self, predictions: NDArray[Any], tokens: Tokenized) -> Evaluation:
        right = predictions[:, 0] == np.array(self.labels, dtype=object)[tokens.labels[:, 0]]
        return Evaluation(Scores({"exact match": float(right.mean())}, {}), predictions)

    def compare(self, before: Evaluation, after: Evaluation, tokens: Tokenized) -> Comparison:
        prior = np.full_like(before.decisions, self.labels[0])
        changed = int((before.decisions != after.decisions).sum())
        return Comparison(before.scores, self.evaluate(prior, tokens).scores, len(prior), changed)

    def export(
        self, model: ReportClassifier, base: BaseModel, directory: Path, *, max_length: int, privacy_statement: str
    ) -> None:
        directory.mkdir()
        (directory / "answers.txt").write_text("\n".join(self.labels))


TASK = Answer(("CT head", "CT chest", "MRI knee"))
EXPERIMENT = small.experiment(privacy__epsilon=0.0, train__learning_rate=0.5)


def ready() -> tuple[Setup, Inputs, dict[str, Tensor]]:
    setup = set_up(EXPERIMENT, TASK)
    state = initial_state(EXPERIMENT, setup)
    tokens = small.tokens()
    answers = TASK.numbered(
        [tokens.ids[a:b].tolist() for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)]
    )
    return setup, prepare(setup, answers), {name: state[name] for name in setup.classifier.adapter()}


def test_it_is_trained_and_scored_by_its_own_rules() -> None:
    setup, inputs, adapter = ready()
    plan, recipe = plan_for(EXPERIMENT, declared_size(len(inputs))), Recipe.of(EXPERIMENT)
    check_before_first_step(setup, recipe, plan)
    before = evaluate(inputs)
    after = run_steps(inputs, plan, recipe, TrainingState(adapter), 6, site="site-000").adapter
    found = evaluate(inputs)

    assert not small.same(after, adapter)
    assert {value for (value,) in predictions(inputs)} <= set(TASK.labels)
    assert TASK.compare(before, found, inputs.tokens).changed == int((before.decisions != found.decisions).sum())
    notes = notes_on_plan(EXPERIMENT, setup, strategy_of(EXPERIMENT), Noise([plan], 1), inputs)
    assert not any("F1" in note or "warm start" in note for note in notes)


def test_what_a_run_shows_and_writes_are_its_own_figures(tmp_path: Path) -> None:
    setup, inputs, _ = ready()
    start = evaluate(inputs)
    compared = TASK.compare(start, start, inputs.tokens)
    result = replace(small.result({"s": float("inf")}), scores=start.scores, comparison=compared)
    console = Console(width=80, record=True, quiet=True)
    console.print(score_table(result), label_table(start.scores, compared))
    (note,) = (n for n in after_training(EXPERIMENT, replace(start.scores), compared, epsilon=1.0, warm=False))
    directory = create_run_directory(small.experiment(run__out=str(tmp_path / "run")), tmp_path)
    append_metrics(directory, TASK, round=0, step=0, scores=None, epsilon={})
    append_metrics(directory, TASK, round=1, step=6, scores=start.scores, epsilon={})
    finish(directory, EXPERIMENT, setup, result, lambda: None)
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]

    assert "changed nothing" in note
    assert [line["exact_match"] for line in lines] == [None, start.scores.main]
    assert json.loads((directory / "result.json").read_text())["exact_match"] == start.scores.main
    assert (directory / "adapter" / "answers.txt").read_text().split("\n") == list(TASK.labels)
    assert not any("f1" in key for key in lines[0])


def test_control_the_loss_is_asked_of_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    _, inputs, _ = ready()
    monkeypatch.setattr(Answer, "losses", lambda self, outputs, labels, mask: outputs.sum(-1) * 0 + 7)

    assert inputs.batch(np.arange(3)).losses(torch.zeros(3, 3)).tolist() == [7, 7, 7]
