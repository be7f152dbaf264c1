"""What every run does, whoever trains: set the model up, open the run directory, evaluate, write the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from fedrad.config import Experiment
from fedrad.errors import ConfigError, place_of
from fedrad.evidence.predictions import Predictions, write_predictions
from fedrad.federation.hospital import inputs_of
from fedrad.planning.notes import Noise, after_training, notes_on_plan
from fedrad.public_base.choice import starts_warm
from fedrad.report.terminal import plan_lines, progress_lines, show_notes
from fedrad.report.tracking import Tracker, tracker_of
from fedrad.tasks.metrics import Evaluation, Scores
from fedrad.training.corpus import Corpus, stated_task
from fedrad.training.evaluation import predictions
from fedrad.training.result import Result
from fedrad.training.run_directory import append_metrics, create_run_directory, finish, refuse_used
from fedrad.training.setup import exported, pin_arithmetic, set_up
from fedrad.training.strategy import strategy_of
from fedrad.training.warm_start import initial_state


class Run:
    """One run: federated (``server``) or in one place (``fedrad.simulation.centralized``).

    Attributes:
        corpus: None where the server of real hospitals has none; then nothing is evaluated.
        evaluations: the first is that of the start.
        state: all public tensors, as the run starts.
        directory: of the run.

    Raises:
        FedradError: the run can't begin; nothing is written then.
    """

    def __init__(self, experiment: Experiment, console: Console) -> None:
        self.started = time.monotonic()
        self.experiment = experiment
        self.console = console
        pin_arithmetic(experiment)
        refuse_used(experiment)
        self.strategy = strategy_of(experiment)  # one that can't be had is refused before anything is read
        self.tracker = tracker_of(experiment)
        self.evaluations: list[Evaluation] = []
        self._early: tuple[str, ...] = ()

    def set_up(self, corpus: Corpus | None) -> None:
        """Builds the model. A base model that is no good is found here, before any hospital is asked."""
        self.corpus = corpus
        self.setup = set_up(self.experiment, stated_task(self.experiment) if corpus is None else corpus.task)

    @property
    def tested(self) -> int:
        """Reports of the test set."""
        return 0 if self.corpus is None else len(self.corpus.test)

    def begin(self) -> None:
        """Warms the model and makes the run directory."""
        self.state = initial_state(self.experiment, self.setup, progress_lines(self.console))
        self.directory = create_run_directory(self.experiment, Path.cwd())
        self.test = None if self.corpus is None else inputs_of(self.setup, self.corpus, self.corpus.test)
        self.trainable = {name: self.state[name] for name in self.setup.classifier.adapter()}
        if self.tracker is not None:
            try:
                self.tracker.start(self.experiment, self.directory)
            except Exception as error:
                problem = f"{self.experiment.run.track} can't be written to ({type(error).__name__})"
                raise ConfigError(f"run.tracking-uri: {problem}: {str(error).partition(chr(10))[0]}") from None

    def announce(self, declared: Mapping[str, int], noise: Mapping[str, float], plans: Noise) -> None:
        """Shows the plan, and what is odd about it, before a step is charged."""
        numbers = sum(tensor.numel() for tensor in self.trainable.values())
        lines = plan_lines(self.experiment, declared=declared, trainable=numbers, noise=noise)
        self.console.print(lines, highlight=False, soft_wrap=True)
        self._early = notes_on_plan(self.experiment, self.setup, self.strategy, plans, self.test)
        show_notes(self.console, self._early)

    def evaluate(self, round: int, state: Mapping[str, Tensor], epsilon: Mapping[str, float]) -> Scores | None:
        """Adds a round to ``metrics.jsonl`` if its turn has come (``train.evaluate-every``); its scores."""
        train = self.experiment.train
        if round % train.evaluate_every and round != train.rounds:
            return None
        scores = None
        if self.test is not None:
            classifier = exported(self.setup, self.strategy, state).classifier
            test = replace(self.test, classifier=classifier)
            found = predictions(test)
            self.evaluations.append(test.task.evaluate(found, test.tokens))
            scores = self.evaluations[-1].scores
            if self.experiment.run.predictions and round in (0, train.rounds):
                self._write_predictions("predictions.parquet" if round else "predictions-before.parquet", found)
        step = round * self.experiment.local_steps
        record = append_metrics(self.directory, self.setup.task, round=round, step=step, scores=scores, epsilon=epsilon)
        self._track(lambda tracker: tracker.evaluated(record))
        return scores

    def _write_predictions(self, name: str, found: NDArray[Any]) -> None:
        """Patients are numbered: who they are is of no use to a paired test."""
        if self.corpus is None or self.test is None:
            return
        tokens, rows, file = self.test.tokens, self.corpus.test + 1, self.directory / name
        table = Predictions(
            rows=rows,
            patients=[str(number) for number in (rows if tokens.patients is None else tokens.patients)],
            names=self.setup.task.labels,
            labels=np.where(tokens.mask > 0, tokens.labels > 0.5, -1).astype(np.int8),
            probabilities=found.astype(np.float64),
        )
        file.unlink(missing_ok=True)
        write_predictions(table, file)

    def _track(self, tell: Callable[[Tracker], None]) -> None:
        """Steps were charged, so a tracking server that is down does not end the run; what it missed is said."""
        if self.tracker is None:
            return
        try:
            tell(self.tracker)
        except Exception as error:
            note = f"{self.experiment.run.track} missed something: {type(error).__name__} at {place_of(error)}"
            show_notes(self.console, [note])

    def finish(self, state: Mapping[str, Tensor], **figures: Any) -> Result:
        """Writes the adapter and, last, the result.

        Args:
            figures: the fields of ``Result`` that the caller knows.
        """
        experiment, task = self.experiment, self.setup.task
        scores = comparison = None
        if self.test is not None:
            scores = self.evaluations[-1].scores
            comparison = task.compare(self.evaluations[0], self.evaluations[-1], self.test.tokens)
        result = Result(
            scores=scores,
            steps=experiment.train.rounds * experiment.local_steps,
            test_reports=self.tested,
            seconds=time.monotonic() - self.started,
            comparison=comparison,
            **figures,
        )
        late = tuple(
            f"{site} is missing from {len(numbers)} of {experiment.train.rounds} rounds: {', '.join(map(str, numbers))}"
            for site, numbers in result.missed.items()
        )
        if scores is not None and comparison is not None:
            warm = starts_warm(experiment, task.findings)
            late += after_training(experiment, scores, comparison, epsilon=result.epsilon_max, warm=warm)
        result = replace(result, notes=self._early + late)
        finish(self.directory, experiment, exported(self.setup, self.strategy, state), result)
        self._track(lambda tracker: tracker.finish(self.directory))
        return result
