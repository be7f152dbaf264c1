"""What every run does, whoever trains: set the model up, open the run directory or go on in it, evaluate, write the
result."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from fedrad.config import Experiment
from fedrad.errors import ConfigError, place_of
from fedrad.evidence.predictions import Predictions, write_predictions
from fedrad.federation.hospital import tokens_of
from fedrad.planning.noise_to_signal import Noise
from fedrad.planning.notes import after_training, notes_on_plan
from fedrad.public_base.choice import starts_warm
from fedrad.report.terminal import plan_lines, progress_lines, show_notes
from fedrad.report.tracking import Tracker, tracker_of
from fedrad.tasks.metrics import Evaluation, Scores
from fedrad.training.checkpoint import (
    Checkpoint,
    keep_metrics_before,
    read_checkpoint,
    read_start,
    write_checkpoint,
    write_start,
)
from fedrad.training.corpus import Corpus, stated_task
from fedrad.training.evaluation import predictions
from fedrad.training.inputs import Inputs
from fedrad.training.questions import Questions, asked
from fedrad.training.result import Result
from fedrad.training.run_directory import append_metrics, create_run_directory, finish, refuse_used
from fedrad.training.setup import exported, pin_arithmetic, set_up
from fedrad.training.strategy import strategy_of
from fedrad.training.unfinished import alone_in, refuse_other_settings
from fedrad.training.warm_start import initial_state


class Run:
    """One run: federated (``server``) or in one place (``fedrad.simulation.centralized``).

    A context manager: it holds the lock of the run directory, so that a run is not resumed while it is still going on.

    Attributes:
        corpus: None where the server of real hospitals has none; then nothing is evaluated.
        evaluations: the first is that of the start.
        state: all public tensors, as the run starts.
        directory: of the run.
        resumed: the checkpoint that the run goes on from; None: it starts at round 1.

    Raises:
        FedradError: the run can't begin; nothing is written then.
    """

    def __init__(self, experiment: Experiment, console: Console) -> None:
        self.started = time.monotonic()
        self.experiment = experiment
        self.console = console
        pin_arithmetic(experiment)
        refuse_other_settings(experiment) if experiment.run.resume else refuse_used(experiment)
        self.strategy = strategy_of(experiment)  # one that can't be had is refused before anything is read
        self.tracker = tracker_of(experiment)
        self.evaluations: list[Evaluation] = []
        self.resumed: Checkpoint | None = None
        self._early: tuple[str, ...] = ()
        self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            killed = not issubclass(kind, Exception)  # by Ctrl-C, say
            self._track(lambda tracker: tracker.stopped(killed=killed))
        if self._lock >= 0:
            os.close(self._lock)

    def set_up(self, corpus: Corpus | None) -> None:
        """Builds the model, and finds what the run goes on from. A base model that is no good is found here, before any
        hospital is asked."""
        self.corpus = corpus
        self.setup = set_up(self.experiment, stated_task(self.experiment) if corpus is None else corpus.task)
        if self.experiment.run.resume:
            directory = Path(self.experiment.run.out)
            self._lock = alone_in(directory)
            self.resumed = read_checkpoint(directory, self.setup.base.fingerprint)

    @property
    def tested(self) -> int:
        """Reports of the test set."""
        return 0 if self.corpus is None else len(self.corpus.test)

    def begin(self) -> None:
        """Warms the model and makes the run directory, or finds both as an earlier process left them."""
        experiment, resume = self.experiment, self.experiment.run.resume
        start = read_start(Path(experiment.run.out)) if resume else None
        if start is not None:
            self.setup.classifier.load_state(start)
        self.state = start or initial_state(experiment, self.setup, progress_lines(self.console))
        self.directory = Path(experiment.run.out) if resume else create_run_directory(experiment, Path.cwd())
        if start is None:
            write_start(self.directory, self.state)
        if not resume:
            self._lock = alone_in(self.directory)
        self.test: Inputs | Questions | None = None
        if corpus := self.corpus:
            self.test = asked(self.setup, tokens_of(self.setup, corpus, corpus.test))
        self.trainable = {name: self.state[name] for name in self.setup.classifier.adapter()}
        if resume:
            self._clear_what_comes_again()
        if self.tracker is not None:
            try:
                self.tracker.start(self.experiment, self.directory)
            except Exception as error:
                problem = f"{self.experiment.run.track} can't be written to ({type(error).__name__})"
                raise ConfigError(f"run.tracking-uri: {problem}: {str(error).partition(chr(10))[0]}") from None

    def _clear_what_comes_again(self) -> None:
        """The last finished round is evaluated again, and so is the start, which the result is compared with."""
        keep_metrics_before(self.directory, self.finished)
        shutil.rmtree(self.directory / "adapter", ignore_errors=True)  # without a result.json it may be half written
        if self.finished and self.test is not None:
            self.evaluations.append(self._evaluation(self.test, self.state, 0))
        self.console.print(f"going on after round {self.finished} in {self.directory}", highlight=False, soft_wrap=True)

    @property
    def finished(self) -> int:
        """Rounds that earlier processes finished, or began and must not repeat."""
        return 0 if self.resumed is None else self.resumed.passed

    @property
    def seconds(self) -> float:
        """That the run has taken, those of earlier processes included."""
        return time.monotonic() - self.started + (0 if self.resumed is None else self.resumed.seconds)

    def keep(
        self,
        round: int,
        run: str,
        state: Mapping[str, Tensor],
        memory: Mapping[str, Tensor] | None = None,
        **server: Any,
    ) -> None:
        """Keeps a finished round, so that the run can go on from it. Nothing of the round leaves the server before."""
        base = self.setup.base.fingerprint
        write_checkpoint(self.directory, Checkpoint(round, run, state, memory or {}, base, self.seconds, **server))

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
            self.evaluations.append(self._evaluation(self.test, state, round))
            scores = self.evaluations[-1].scores
        step = round * self.experiment.local_steps
        record = append_metrics(self.directory, self.setup.task, round=round, step=step, scores=scores, epsilon=epsilon)
        self._track(lambda tracker: tracker.evaluated(record))
        return scores

    def _evaluation(self, test: Inputs | Questions, state: Mapping[str, Tensor], round: int) -> Evaluation:
        """Of this state, which is that of this round; with ``run.predictions`` the first and the last are kept."""
        classifier = exported(self.setup, self.strategy, state).classifier
        found = predictions(replace(test, classifier=classifier))
        if self.experiment.run.predictions and round in (0, self.experiment.train.rounds):
            self._write_predictions("predictions.parquet" if round else "predictions-before.parquet", found)
        return self.setup.task.evaluate(found, test.tokens)

    def _write_predictions(self, name: str, found: NDArray[Any]) -> None:
        """Patients are numbered: who they are is of no use to a paired test."""
        if self.corpus is None or self.test is None:
            return
        tokens, rows, file = self.test.tokens, self.corpus.test + 1, self.directory / name
        labels, mask = self.setup.task.matrices(tokens)
        table = Predictions(
            rows=rows,
            patients=[str(number) for number in (rows if tokens.patients is None else tokens.patients)],
            names=self.setup.task.labels,
            labels=np.where(mask > 0, labels > 0.5, -1).astype(np.int8),
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

    def finish(self, state: Mapping[str, Tensor], certify: Callable[[], object], **figures: Any) -> Result:
        """Writes the adapter, its certificates and, last, the result.

        Args:
            certify: writes the certificates.
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
            seconds=self.seconds,
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
        begun = Experiment.load(self.directory / "experiment.toml")  # a resumed run has the digest that it began with
        finish(self.directory, begun, exported(self.setup, self.strategy, state), result, certify)
        self._track(lambda tracker: tracker.finish(self.directory))
        return result
