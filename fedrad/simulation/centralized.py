"""Centralized DP-LoRA: everything in one place, through the same loop that every hospital runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from torch import Tensor

from fedrad.config import Experiment
from fedrad.data.report import warnings_as_lines
from fedrad.errors import FedradError
from fedrad.ledger.ledger import Ledger
from fedrad.planning.notes import Noise, after_training, notes_on_plan
from fedrad.privacy.accounting import epsilon as composed_epsilon
from fedrad.privacy.plan import declared_size
from fedrad.public_base.choice import starts_warm
from fedrad.report.terminal import StepView, final_table, plan_lines, progress_lines, show_notes
from fedrad.rules import CENTRALIZED, refuse
from fedrad.tasks.metrics import Evaluation
from fedrad.training.corpus import Corpus, read_corpus, site_name
from fedrad.training.evaluation import evaluate
from fedrad.training.inputs import prepare
from fedrad.training.local import Recipe, StepReport
from fedrad.training.preflight import check_before_first_step
from fedrad.training.result import Result
from fedrad.training.run_directory import (
    CHECKPOINT,
    append_metrics,
    create_run_directory,
    finish,
    refuse_used,
    write_checkpoint,
)
from fedrad.training.setup import Setup, exported, pin_arithmetic, plan_for, set_up, units_in
from fedrad.training.site import RoundRequest, Site, train_round
from fedrad.training.strategy import strategy_of
from fedrad.training.warm_start import initial_state


def train(experiment: Experiment, console: Console | None = None) -> tuple[Result, Path]:
    """Trains on all reports in one place.

    The run is one site, ``site-000``, with every training report as its shard, its own ledger and the same random
    streams as the hospital of a one-hospital federation: the two give the same bits when the noise is seeded.

    Args:
        experiment: relative paths are taken from the working directory.
        console: where to show progress; nothing is shown if it is None.

    Returns:
        The final figures and the run directory.

    Raises:
        FedradError: see ``fedrad.errors``; a run directory without ``result.json`` is what an unfinished run leaves.
    """
    console = console if console is not None else Console(quiet=True)
    started = time.monotonic()
    experiment = experiment.resolve_paths(Path.cwd())
    refuse(experiment, CENTRALIZED)
    pin_arithmetic(experiment)
    refuse_used(experiment)
    corpus = read_corpus(experiment)
    setup = set_up(experiment, corpus.task)
    console.print(f"reading {len(corpus.train)} training and {len(corpus.test)} test reports", highlight=False)
    state = initial_state(experiment, setup, progress_lines(console))
    directory = create_run_directory(experiment, Path.cwd())
    with _telling_what_is_left(directory):
        return _train(experiment, console, directory, corpus, setup, state, started), directory


def _train(
    experiment: Experiment,
    console: Console,
    directory: Path,
    corpus: Corpus,
    setup: Setup,
    state: Mapping[str, Tensor],
    started: float,
) -> Result:
    """The run from its directory on, with the model in its first state."""
    strategy = strategy_of(experiment)
    task, tokenizer = setup.task, setup.base.tokenizer
    train_tokens = task.tokenize(corpus.reports, corpus.train, tokenizer, setup.max_length)
    test = prepare(setup, task.tokenize(corpus.reports, corpus.test, tokenizer, setup.max_length))
    warm = starts_warm(experiment, task.findings)
    recipe = Recipe.of(experiment, warm=warm)
    units = units_in(experiment, corpus.reports, corpus.train)
    plan = plan_for(experiment, experiment.data.declared_size or declared_size(units))
    name = site_name(0)
    site = Site(
        name=name,
        directory=directory / "ledger" / name,
        classifier=setup.classifier,
        inputs=prepare(setup, train_tokens),
        plan=plan,
        recipe=recipe,
    )
    adapter = {key: state[key] for key in setup.classifier.adapter()}
    console.print(
        plan_lines(
            experiment,
            declared={name: plan.declared_size},
            trainable=sum(tensor.numel() for tensor in adapter.values()),
            noise={name: plan.noise_multiplier},
        ),
        highlight=False,
        soft_wrap=True,
    )
    early = notes_on_plan(experiment, setup, strategy, Noise([plan], averaged=1), test)
    show_notes(console, early)
    check_before_first_step(setup, recipe, plan)
    cap = experiment.privacy.epsilon if plan.private else float("inf")
    view = StepView(console, recipe.total_steps, experiment.privacy.epsilon, plan.private)

    def score(round: int, step: int, spent: float) -> Evaluation:
        evaluation = evaluate(test)
        append_metrics(directory, task, round=round, step=step, scores=evaluation.scores, epsilon={name: spent})
        view.evaluated(evaluation.scores)
        return evaluation

    with (
        Ledger.open(site.directory, site=name, cap=cap, delta=experiment.privacy.delta, witness=None) as ledger,
        view.showing(),
    ):
        start = last = score(0, 0, 0.0)
        rounds, steps = experiment.train.rounds, experiment.local_steps
        for round in range(1, rounds + 1):
            # The whole round is charged when it starts, so this is what its steps have spent.
            charged = composed_epsilon([plan.event(round * steps)], experiment.privacy.delta)

            def show(report: StepReport, spent: float = charged) -> None:
                view.step(report.step, epsilon=spent, noise_to_signal=report.noise_to_signal, reports=report.reports)

            request = RoundRequest.of(
                strategy,
                adapter.keys(),
                run="centralized",
                round=round,
                steps=steps,
                last=round == rounds,
                settings=experiment.digest(),
            )
            adapter |= train_round(site, ledger, request, adapter, show)
            if round % experiment.train.evaluate_every == 0 or round == rounds:
                setup.classifier.load_state({**state, **adapter})
                last = score(round, round * steps, charged)
            write_checkpoint(directory, {**state, **adapter}, round)
        account = ledger.account()
        spent = account.epsilon(experiment.privacy.delta)
    comparison = task.compare(start, last, test.tokens)
    result = Result(
        scores=last.scores,
        epsilon={name: spent},
        steps=recipe.total_steps,
        declared={name: plan.declared_size},
        sizes_stated=experiment.data.declared_size > 0,
        test_reports=len(corpus.test),
        seconds=time.monotonic() - started,
        charges={name: account},
        delta=experiment.privacy.delta,
        comparison=comparison,
        notes=early + after_training(experiment, last.scores, comparison, epsilon=spent, warm=warm),
    )
    finish(directory, experiment, exported(setup, strategy, {**state, **adapter}), result)
    return result


@contextmanager
def _telling_what_is_left(directory: Path) -> Iterator[None]:
    """Notes on a Ctrl-C what it leaves behind; ``main`` prints it."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if (directory / "result.json").exists():
            raise
        left = f"The adapter after the last whole round is in {CHECKPOINT}. " * (directory / CHECKPOINT).exists()
        interrupt.add_note(
            f"The run is not finished and can't be resumed: {directory} has no adapter/ and no result.json. {left}"
            "What was charged is in ledger/, the scores so far in metrics.jsonl."
        )
        raise


def main(
    config: Annotated[Path | None, typer.Argument(help="a TOML file; without one, the defaults")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, as often as needed")] = None,
    out: Annotated[Path | None, typer.Option(help="run directory; default runs/<time>-<name>")] = None,
) -> None:
    """Train on all reports in one place, with differential privacy."""
    console = Console()
    overrides = list(set_ or [])
    try:
        experiment = Experiment.load(config, overrides)
        if out is not None:
            experiment = Experiment.from_flat({**experiment.flat(), "run.out": str(out)})
        if any(text.split("=")[0].strip().startswith("sites.") for text in overrides):
            console.print("note: sites.* has no effect here: centralized training is one site", style="yellow")
        with warnings_as_lines():
            result, directory = train(experiment, console)
    except FedradError as error:
        Console(stderr=True).print(f"fedrad: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt as interrupt:
        left = getattr(interrupt, "__notes__", ["No step was taken: nothing was charged or written."])
        Console(stderr=True).print(
            "fedrad: interrupted.", *left, style="red", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(130)
    console.print(final_table(experiment, result, directory))
    show_notes(console, result.notes)
