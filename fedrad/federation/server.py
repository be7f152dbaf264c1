"""The ServerApp: finds the hospitals, starts from a public adapter, aggregates, evaluates on public text."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from flwr.app import Context, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

from fedrad.config import Experiment
from fedrad.data.report import warnings_as_lines
from fedrad.errors import ConfigError, RefusedReply, SitesMissing
from fedrad.federation.actors import replace_dead_actors
from fedrad.federation.arrays import to_arrays
from fedrad.federation.hospital_unit import SERVER, CentralRounds, central_plan
from fedrad.federation.messages import Hello, labels_digest, read_hello
from fedrad.federation.rounds import Federation, Hospital, RoundOutcome, Rounds
from fedrad.federation.secure_rounds import SecureRounds
from fedrad.model.base import load_base
from fedrad.planning.notes import Noise, after_training, notes_on_plan
from fedrad.privacy.plan import declared_size
from fedrad.public_base.choice import starts_warm
from fedrad.report.terminal import final_table, plan_lines, progress_lines, round_line, show_notes, test_set_lines
from fedrad.rules import DEPLOYED, refuse
from fedrad.tasks.metrics import Evaluation
from fedrad.training.corpus import Corpus, hospital_shares, read_corpus, site_name, stated_task
from fedrad.training.evaluation import evaluate
from fedrad.training.inputs import Inputs, prepare
from fedrad.training.result import Result
from fedrad.training.run_directory import append_metrics, create_run_directory, finish, refuse_used, write_checkpoint
from fedrad.training.setup import (
    Setup,
    exported,
    local_plan_for,
    pin_arithmetic,
    set_up,
    shared_plans,
    terms_of,
    units_in,
)
from fedrad.training.strategy import strategy_of
from fedrad.training.warm_start import initial_state

app = ServerApp()


@app.main()
@warnings_as_lines()
def main(grid: Grid, context: Context) -> None:
    """One run, from the hospitals' introductions to the run directory.

    Raises:
        FedradError: the run fails, loudly; Flower marks it as failed.
    """
    started = time.monotonic()
    experiment = _experiment(context)
    # Not a terminal of the user's: what is printed here reaches the user through `flwr run --stream`, as plain lines.
    console = Console(width=110, force_terminal=False)
    pin_arithmetic(experiment)
    strategy = strategy_of(experiment)
    refuse_used(experiment)
    corpus = None if experiment.data.name == "none" else read_corpus(experiment)
    task = stated_task(experiment) if corpus is None else corpus.task
    tested = 0 if corpus is None else len(corpus.test)
    console.print(test_set_lines(experiment, task.labels, tested), highlight=False, markup=False, soft_wrap=True)
    if corpus is None:
        refuse_to_build(experiment)  # before minutes of building: without reports the hospitals are real ones
    setup = set_up(experiment, task)  # a base model that is no good is found before anyone is asked
    simulated, hospitals = connect(grid, experiment)
    if not simulated:
        refuse_to_build(experiment)
        refuse(experiment, DEPLOYED)
        _refuse_other_labels(hospitals, task.labels)
    elif corpus is None:
        raise ConfigError("data.name: none is for a server of real hospitals; simulated ones have no reports then")
    else:
        replace_dead_actors()
        sizes = [
            declared_size(units_in(experiment, corpus.reports, rows)) for rows in hospital_shares(experiment, corpus)
        ]
        hospitals = tuple(replace(hospital, declared_weight=sizes[hospital.index]) for hospital in hospitals)
    console.print(f"{len(hospitals)} hospitals: {', '.join(h.site for h in hospitals[:8])}", highlight=False)

    state = initial_state(experiment, setup, progress_lines(console))
    directory = create_run_directory(experiment, Path.cwd())
    console.print(f"run directory: {directory}", highlight=False, soft_wrap=True)
    test = None if corpus is None else _test_set(setup, corpus)
    trainable = {name: state[name] for name in setup.classifier.adapter()}
    declared = {h.site: h.declared_weight for h in hospitals}
    central = central_plan(experiment) if experiment.privacy.unit == "hospital" else None
    plans = {h.site: local_plan_for(experiment, h.declared_weight, terms_of(experiment, h.index)) for h in hospitals}
    if experiment.privacy.shared_noise:
        plans = shared_plans(experiment, plans)
    console.print(
        plan_lines(
            experiment,
            declared=declared,
            trainable=sum(tensor.numel() for tensor in trainable.values()),
            noise={site: plan.noise_multiplier for site, plan in plans.items()}
            if central is None
            else {SERVER: central.noise_multiplier},
        ),
        highlight=False,
    )
    early = notes_on_plan(experiment, setup, strategy, Noise(list(plans.values()), experiment.asked), test)
    show_notes(console, early)
    outcomes: list[RoundOutcome] = []
    federation = Federation(
        run=str(context.run_id),
        rounds=experiment.train.rounds,
        labels=task.labels,
        hospitals=hospitals,
        directory=str(directory / "ledger") if simulated else "",
        trainable=frozenset(trainable),
        lora=setup.lora,
        seed=experiment.train.seed,
        weights=experiment.strategy.weights,
        quorum=experiment.quorum,
        asked=experiment.asked,
        timeout=experiment.sites.timeout,
    )
    rounds = Rounds(strategy, federation, state, outcomes.append)
    if central is not None:
        rounds = CentralRounds(strategy, federation, state, outcomes.append, central, directory / "ledger" / SERVER)
    if experiment.privacy.secure_aggregation:
        sigma = max(plan.noise_multiplier for plan in plans.values()) if experiment.privacy.shared_noise else 0.0
        rounds = SecureRounds(strategy, federation, state, outcomes.append, experiment, sigma)
    evaluations: list[Evaluation] = []  # the first is that of the start
    asked_at = time.monotonic()

    def evaluate_fn(round: int, arrays: object) -> MetricRecord | None:
        scores, last = None, experiment.train.rounds
        if round % experiment.train.evaluate_every == 0 or round == last:
            if test is not None:
                classifier = exported(setup, strategy, rounds.state).classifier
                evaluations.append(evaluate(replace(test, classifier=classifier)))
                scores = evaluations[-1].scores
            append_metrics(
                directory,
                task,
                round=round,
                step=round * experiment.local_steps,
                scores=scores,
                epsilon=rounds.spent,
            )
        if round:
            write_checkpoint(directory, rounds.state, round, rounds.memory)
        absent = outcomes[-1].absent if outcomes else {}
        left = (time.monotonic() - asked_at) / round * (last - round) if round else None
        console.print(round_line(round, last, scores, rounds.spent, absent, left), highlight=False)
        return None

    rounds.start(
        grid,
        to_arrays(state),
        num_rounds=experiment.train.rounds,
        timeout=experiment.sites.timeout,
        evaluate_fn=evaluate_fn,
    )
    comparison = None
    if test is not None:
        comparison = task.compare(evaluations[0], evaluations[-1], test.tokens)
    result = Result(
        scores=evaluations[-1].scores if evaluations else None,
        epsilon=dict(sorted(rounds.spent.items())),
        steps=experiment.train.rounds * experiment.local_steps,
        declared=declared,
        sizes_stated=not simulated,
        unconfirmed=tuple(sorted(rounds.unconfirmed)),
        test_reports=tested,
        seconds=time.monotonic() - started,
        bytes_up=tuple(outcome.bytes_up for outcome in outcomes),
        bytes_down=tuple(outcome.bytes_down for outcome in outcomes),
        charges=rounds.charges,
        # The server's own ledger, where the hospital is the unit, is at the run's delta.
        delta=max(h.delta for h in hospitals) if central is None else central.delta,
        missed=_missed(outcomes),
        comparison=comparison,
    )
    late = _notes_on_rounds(result.missed, experiment.train.rounds)
    if result.scores is not None and comparison is not None:
        warm = starts_warm(experiment, task.findings)
        late += after_training(experiment, result.scores, comparison, epsilon=result.epsilon_max, warm=warm)
    result = replace(result, notes=early + late)
    finish(directory, experiment, exported(setup, strategy, rounds.state), result)
    # What the simulated hospitals had received: of no more use.
    shutil.rmtree(directory / "public", ignore_errors=True)
    console.print(final_table(experiment, result, directory))
    show_notes(console, result.notes)


def _missed(outcomes: Sequence[RoundOutcome]) -> dict[str, tuple[int, ...]]:
    """The rounds in which a hospital did not count, by site, of those who missed any."""
    sites = sorted({site for outcome in outcomes for site in outcome.absent})
    return {site: tuple(outcome.round for outcome in outcomes if site in outcome.absent) for site in sites}


def _notes_on_rounds(missed: Mapping[str, tuple[int, ...]], rounds: int) -> tuple[str, ...]:
    return tuple(
        f"{site} is missing from {len(numbers)} of {rounds} rounds: {', '.join(map(str, numbers))}"
        for site, numbers in missed.items()
    )


def connect(grid: Grid, experiment: Experiment) -> tuple[bool, tuple[Hospital, ...]]:
    """Asks the connected nodes who they are, until enough hospitals are there.

    Nodes of Flower's simulation stand for any hospital, so ``sites.count`` hospitals are dealt out to as many nodes as
    there are. Real nodes name their hospital.

    Returns:
        Whether the hospitals are simulated, and the hospitals, sorted by site.

    Raises:
        SitesMissing: not enough within ``sites.connect-timeout`` seconds; says who was there.
        ConfigError: two nodes claim the same hospital, or some are simulated and some are not.
    """
    count, limit = experiment.sites.count, experiment.sites.connect_timeout
    deadline = time.monotonic() + limit
    known: dict[int, Hello] = {}
    while True:
        nodes = sorted(grid.get_node_ids())
        known = {node: known[node] for node in nodes if node in known}
        known |= _introductions(grid, [node for node in nodes if node not in known], deadline)
        simulated = sorted(node for node, hello in known.items() if hello.simulated)
        if simulated and len(simulated) < len(known):
            raise ConfigError("simulated nodes and real hospitals are connected to the same SuperLink; keep them apart")
        if simulated:
            return True, tuple(
                _simulated_hospital(experiment, index, simulated[index % len(simulated)]) for index in range(count)
            )
        real = {
            hello.site: Hospital(
                site=hello.site,
                node=node,
                index=-1,
                declared_weight=hello.declared_weight,
                rank=hello.rank or experiment.lora.rank,
                delta=experiment.privacy.delta,
                labels=hello.labels,
            )
            for node, hello in known.items()
        }
        if len(real) < len(known):
            raise ConfigError("two nodes claim the same hospital; give each its own site in its node configuration")
        if len(real) >= count:
            return False, tuple(real[site] for site in sorted(real)[:count])
        if time.monotonic() > deadline:
            there = ", ".join(sorted(real)) or "none"
            raise SitesMissing(
                f"{len(real)} of {count} hospitals connected within {limit:g} s ({there}). Start the missing ones,"
                " or change sites.count or sites.connect-timeout."
            )
        print(f"waiting for hospitals: {len(real)} of {count} connected", flush=True)
        time.sleep(min(3.0, max(0.1, limit / 20)))


def _test_set(setup: Setup, corpus: Corpus) -> Inputs:
    tokens = setup.task.tokenize(corpus.reports, corpus.test, setup.base.tokenizer, setup.max_length)
    return prepare(setup, tokens)


def refuse_to_build(experiment: Experiment) -> None:
    """Each real hospital would refuse, and only its own log would say why (``policy.accept_model``).

    Raises:
        ConfigError: the run would start from a public base that has to be built.
    """
    base = load_base(experiment.base_name, experiment.model.revision)
    if experiment.warm_start == "synthetic" and base.public_head is None:
        raise ConfigError(
            f"model.name: a warm start needs a public base that all hospitals have, and {base.name!r} is none. Make one"
            " with `fedrad base build` and give it to all, or set train.warm-start=none"
        )


def _refuse_other_labels(hospitals: Sequence[Hospital], names: Sequence[str]) -> None:
    """Before the warm start, and before any hospital is asked to train: each would refuse."""
    if other := [hospital.site for hospital in hospitals if hospital.labels != labels_digest(names)]:
        raise ConfigError(
            [
                f"data.label-columns: {', '.join(other)} states other labels, or another order, than this run's"
                f" ({', '.join(names)}). Either set the hospitals' labels, without a test set: data.name=none"
                " data.label-columns=A,B (and data.classes, for one column of class names); or give the server public"
                " reports that have them: data.name=table data.path=FILE data.text-column=TEXT data.label-columns=A,B."
                " A hospital states its own in its node configuration: label-columns, classes"
            ]
        )


def _simulated_hospital(experiment: Experiment, index: int, node: int) -> Hospital:
    terms = terms_of(experiment, index)
    return Hospital(site_name(index), node, index, declared_weight=0, rank=terms.rank, delta=terms.delta)


def _introductions(grid: Grid, nodes: list[int], deadline: float) -> Mapping[int, Hello]:
    if not nodes:
        return {}
    questions = [Message(content=RecordDict(), message_type=MessageType.QUERY, dst_node_id=node) for node in nodes]
    introduced = {}
    for answer in grid.send_and_receive(questions, timeout=max(1.0, deadline - time.monotonic())):
        if answer.has_error():
            print(f"node {answer.metadata.src_node_id} could not introduce itself", flush=True)
            continue
        try:
            introduced[answer.metadata.src_node_id] = read_hello(answer.content)
        except RefusedReply:
            node = answer.metadata.src_node_id
            print(f"node {node}: its node configuration is wrong, or is for another app; see its log", flush=True)
    return introduced


def _experiment(context: Context) -> Experiment:
    """The run's configuration. A relative path would be taken from the SuperLink's working directory, which is not the
    caller's, so it is refused."""
    experiment = Experiment.from_flat(context.run_config)
    if relative := experiment.relative_paths():
        raise ConfigError(
            [f"{key}: give an absolute path; this process does not run where you called `flwr run`" for key in relative]
        )
    return experiment
