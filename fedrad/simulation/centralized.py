"""Centralized DP-LoRA: a federation of one hospital with all reports, which skips the messages and the averaging."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedrad.certificate.issue import certify_run
from fedrad.config import Experiment
from fedrad.data.report import warnings_as_lines
from fedrad.errors import ConfigError, FedradError
from fedrad.federation.hospital import inputs_of
from fedrad.federation.run import Run
from fedrad.ledger.ledger import Ledger
from fedrad.planning.noise_to_signal import Noise
from fedrad.privacy.accounting import epsilon as composed_epsilon
from fedrad.privacy.plan import declared_size
from fedrad.public_base.choice import starts_warm
from fedrad.report.terminal import StepView, final_table, show_notes
from fedrad.rules import CENTRALIZED, refuse
from fedrad.training.corpus import Corpus, read_corpus, site_name
from fedrad.training.local import StepReport
from fedrad.training.preflight import check_before_first_step
from fedrad.training.privatised import trained_on
from fedrad.training.recipe import Recipe
from fedrad.training.result import Result
from fedrad.training.setup import plan_for, units_in
from fedrad.training.site import RoundRequest, Site, train_round
from fedrad.training.unfinished import experiment_of, telling_how_to_go_on

RUN = "centralized"  # the run's name in the ledger, which is the run's own


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
    experiment = experiment.resolve_paths(Path.cwd())
    refuse(experiment, CENTRALIZED)
    if experiment.run.resume and experiment.run.app:
        raise ConfigError(
            f"run.resume: `fedrad simulate` began this run; `fedrad simulate --resume {experiment.run.out}`"
        )
    with Run(experiment, console if console is not None else Console(quiet=True)) as run:
        corpus = read_corpus(experiment)
        run.set_up(corpus)
        run.console.print(f"reading {len(corpus.train)} training and {len(corpus.test)} test reports", highlight=False)
        run.begin()
        with telling_how_to_go_on(run.directory, "python -m fedrad.centralized"):
            return _train(run, corpus), run.directory


def _train(run: Run, corpus: Corpus) -> Result:
    """The run from its directory on."""
    experiment, setup, train = run.experiment, run.setup, run.experiment.train
    name, steps = site_name(0), run.experiment.local_steps
    plan = plan_for(
        experiment, experiment.data.declared_size or declared_size(units_in(experiment, corpus.reports, corpus.train))
    )
    recipe = Recipe.of(experiment, warm=starts_warm(experiment, setup.task.findings))
    directory = run.directory / "ledger" / name
    inputs = inputs_of(setup, *trained_on(experiment, corpus, corpus.train, directory, site=name, run=RUN))
    site = Site(name, directory, setup.classifier, inputs, plan, recipe)
    declared = {name: plan.declared_size}
    run.announce(declared, {name: plan.noise_multiplier}, Noise([plan], averaged=1))
    check_before_first_step(setup, recipe, plan)
    delta, cap = experiment.privacy.delta, experiment.privacy.epsilon if plan.private else float("inf")
    view = StepView(run.console, recipe.total_steps, experiment.privacy.epsilon, plan.private)
    state = run.state if run.resumed is None else dict(run.resumed.state)
    adapter = {name: state[name] for name in run.trainable}

    def spent_after(round: int) -> float:
        # A whole round is charged when it starts, so this is what its steps have spent.
        return composed_epsilon([plan.event(round * steps)], delta) if round else 0.0

    def evaluate(round: int, spent: float) -> None:
        if scores := run.evaluate(round, state, {name: spent}):
            view.evaluated(scores)

    with Ledger.open(site.directory, site=name, cap=cap, delta=delta, witness=None) as ledger, view.showing():
        run.keep(run.finished, RUN, state)
        evaluate(run.finished, spent_after(run.finished))
        for round in range(run.finished + 1, train.rounds + 1):
            charged = spent_after(round)

            def show(report: StepReport, spent: float = charged) -> None:
                view.step(report.step, epsilon=spent, noise_to_signal=report.noise_to_signal, reports=report.reports)

            request = RoundRequest.of(
                run.strategy,
                adapter.keys(),
                run=RUN,
                round=round,
                steps=steps,
                last=round == train.rounds,
                settings=experiment.training_digest(),
            )
            adapter |= train_round(site, ledger, request, adapter, show)
            state = {**state, **adapter}
            run.keep(round, RUN, state)
            evaluate(round, charged)
        account = ledger.view.account
    return run.finish(
        state,
        lambda: certify_run(run.directory, "centralized"),
        epsilon={name: account.epsilon(delta)},
        declared=declared,
        sizes_stated=experiment.data.declared_size > 0,
        charges={name: account},
        delta=delta,
    )


def main(
    config: Annotated[Path | None, typer.Argument(help="a TOML file; without one, the defaults")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, as often as needed")] = None,
    out: Annotated[Path | None, typer.Option(help="run directory; default runs/<time>-<name>")] = None,
    resume: Annotated[Path | None, typer.Option(help="go on with the unfinished run in this directory")] = None,
) -> None:
    """Train on all reports in one place, with differential privacy."""
    console = Console()
    overrides = list(set_ or [])
    try:
        experiment = Experiment.load(config, overrides) if resume is None else experiment_of(resume)
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
