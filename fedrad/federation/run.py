"""What every run does, whoever trains: set the model up, open the run directory, evaluate, write the result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from fedrad.config import Experiment
from fedrad.federation.hospital import inputs_of
from fedrad.planning.noise_to_signal import Noise
from fedrad.planning.notes import after_training, notes_on_plan
from fedrad.public_base.choice import starts_warm
from fedrad.report.terminal import plan_lines, progress_lines, show_notes
from fedrad.tasks.metrics import Evaluation, Scores
from fedrad.training.corpus import Corpus, stated_task
from fedrad.training.evaluation import evaluate
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
            self.evaluations.append(evaluate(replace(self.test, classifier=classifier)))
            scores = self.evaluations[-1].scores
        step = round * self.experiment.local_steps
        append_metrics(self.directory, self.setup.task, round=round, step=step, scores=scores, epsilon=epsilon)
        return scores

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
        return result
