"""The ServerApp: finds the hospitals, starts from a public adapter, aggregates, evaluates on public text."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace

from flwr.app import Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

from fedrad.certificate.issue import certify_run
from fedrad.config import Experiment
from fedrad.data.report import warnings_as_lines
from fedrad.errors import ConfigError
from fedrad.federation.arrays import to_arrays
from fedrad.federation.flower_internals import replace_dead_actors
from fedrad.federation.hospital_unit import SERVER, CentralRounds, central_plan
from fedrad.federation.participants import Federation, Participant, connect, refuse_other_labels
from fedrad.federation.resume import record, refuse_other_hospitals, restore
from fedrad.federation.rounds import Rounds
from fedrad.federation.run import Run
from fedrad.federation.secure_rounds import SecureRounds
from fedrad.model.base import load_base
from fedrad.planning.noise_to_signal import Noise
from fedrad.privacy.plan import declared_size
from fedrad.report.terminal import final_table, round_line, show_notes, test_set_lines
from fedrad.rules import DEPLOYED, FEDERATED, refuse
from fedrad.training.corpus import hospital_shares, read_corpus
from fedrad.training.result import Result
from fedrad.training.setup import local_plan_for, shared_plans, terms_of, units_in

app = ServerApp()


@app.main()
@warnings_as_lines()
def main(grid: Grid, context: Context) -> None:
    """One run, from the hospitals' introductions to the run directory.

    Raises:
        FedradError: the run fails, loudly; Flower marks it as failed.
    """
    experiment = _experiment(context)
    refuse(experiment, FEDERATED)
    if experiment.data.name == "none":
        refuse_to_build(experiment)  # before minutes of building: without reports the hospitals are real ones
    # Not a terminal of the user's: what is printed here reaches the user through `flwr run --stream`, as plain lines.
    with FederatedRun(experiment, Console(width=110, force_terminal=False)) as run:
        run.set_up(None if experiment.data.name == "none" else read_corpus(experiment))
        run.find_hospitals(grid)
        run.begin()
        run.plan(str(context.run_id))
        run.train(grid)
        run.close()


class FederatedRun(Run):
    """A run with hospitals, in the order of the picture in README.md.

    ``Rounds`` asks, checks, books and aggregates; after each round the server evaluates, checkpoints and draws.

    Attributes:
        simulated: whether the hospitals are.
        hospitals: who takes part.
        plans: what each hospital's own steps follow, as the server knows it.
        central: the server's own plan, where the hospital is the privacy unit.
    """

    def find_hospitals(self, grid: Grid) -> None:
        """Waits for the hospitals, and refuses those that do not fit the run."""
        experiment, labels = self.experiment, self.setup.task.labels
        shown = test_set_lines(experiment, labels, self.tested)
        self.console.print(shown, highlight=False, markup=False, soft_wrap=True)
        if self.resumed is not None and not self.resumed.hospitals:
            raise ConfigError("run.resume: this run has no hospitals; use `fedrad centralized --resume`")
        known = {} if self.resumed is None else self.resumed.hospitals["declared"]
        self.simulated, hospitals = connect(grid, experiment, known)
        if not self.simulated:
            refuse_to_build(experiment)
            refuse(experiment, DEPLOYED)
            refuse_other_labels(hospitals, labels)
        elif self.corpus is None:
            raise ConfigError("data.name: none is for a server of real hospitals; simulated ones have no reports then")
        else:
            replace_dead_actors()
            shards = hospital_shares(experiment, self.corpus)
            sizes = [declared_size(units_in(experiment, self.corpus.reports, rows)) for rows in shards]
            hospitals = tuple(replace(hospital, declared_weight=sizes[hospital.index]) for hospital in hospitals)
        if self.resumed is not None:
            refuse_other_hospitals(self.resumed, hospitals)
        self.hospitals: tuple[Participant, ...] = hospitals
        self.declared = {hospital.site: hospital.declared_weight for hospital in hospitals}
        first = ", ".join(hospital.site for hospital in hospitals[:8])
        self.console.print(f"{len(hospitals)} hospitals: {first}", highlight=False)

    def plan(self, run_id: str) -> None:
        """Settles by which plans and with whom the rounds go, and shows it.

        Args:
            run_id: the run's name in the ledgers; a resumed one keeps the name that they know it by.
        """
        self.console.print(f"run directory: {self.directory}", highlight=False, soft_wrap=True)
        experiment = self.experiment
        self.central = central_plan(experiment) if experiment.privacy.unit == "hospital" else None
        plans = {
            h.site: local_plan_for(experiment, h.declared_weight, terms_of(experiment, h.index)) for h in self.hospitals
        }
        self.plans = shared_plans(experiment, plans) if experiment.privacy.shared_noise else plans
        noise = {site: plan.noise_multiplier for site, plan in self.plans.items()}
        if self.central is not None:
            noise = {SERVER: self.central.noise_multiplier}
        self.announce(self.declared, noise, Noise(list(self.plans.values()), experiment.asked))
        self.rounds = self._rounds(
            Federation(
                run=run_id if self.resumed is None else self.resumed.run,
                experiment=experiment,
                labels=self.setup.task.labels,
                hospitals=self.hospitals,
                directory=str(self.directory / "ledger") if self.simulated else "",
                trainable=frozenset(self.trainable),
                lora=self.setup.lora,
            )
        )
        if self.resumed is not None:
            restore(self.rounds, self.resumed)
        if not self.rounds.asks_again:
            self.rounds.before_asking = lambda round: self._keep(round - 1, begun=round)

    def _rounds(self, federation: Federation) -> Rounds:
        strategy, privacy = self.strategy, self.experiment.privacy
        if self.central is not None:
            return CentralRounds(strategy, federation, self.state, self.central, self.directory / "ledger" / SERVER)
        if not privacy.secure_aggregation:
            return Rounds(strategy, federation, self.state)
        sigma = max(plan.noise_multiplier for plan in self.plans.values()) if privacy.shared_noise else 0.0
        return SecureRounds(strategy, federation, self.state, sigma)

    def train(self, grid: Grid) -> None:
        """All rounds."""
        self.asked_at = time.monotonic()
        timeout, rounds = self.experiment.sites.timeout, self.experiment.train.rounds - self.rounds.finished
        start = to_arrays(self.rounds.state)
        self.rounds.start(grid, start, num_rounds=rounds, timeout=timeout, evaluate_fn=self.after_round)

    def after_round(self, number: int, arrays: object) -> MetricRecord | None:
        """Checkpoints, evaluates and draws.

        Args:
            number: of the round, as Flower counts in this process; 0 is the start, or where the run goes on.
        """
        rounds, last, round = self.rounds, self.experiment.train.rounds, number + self.rounds.finished
        self._keep(round)
        rounds.published(round)
        scores = self.evaluate(round, rounds.state, rounds.spent.booked)
        absent = rounds.outcomes[-1].absent if rounds.outcomes else {}
        left = (time.monotonic() - self.asked_at) / number * (last - round) if number else None
        self.console.print(round_line(round, last, scores, rounds.spent.booked, absent, left), highlight=False)
        return None

    def _keep(self, round: int, begun: int = 0) -> None:
        rounds = self.rounds
        run, hospitals = rounds.federation.run, record(rounds)
        self.keep(round, run, rounds.state, rounds.memory, begun=begun, hospitals=hospitals)

    def close(self) -> Result:
        """Writes and shows the result."""
        rounds, outcomes = self.rounds, self.rounds.outcomes
        result = self.finish(
            rounds.state,
            # Real hospitals write their own, beside their ledgers.
            lambda: certify_run(self.directory, "simulation") if self.simulated else (),
            epsilon=dict(sorted(rounds.spent.booked.items())),
            declared=self.declared,
            sizes_stated=not self.simulated,
            unconfirmed=tuple(sorted(rounds.unconfirmed)),
            bytes_up=tuple(outcome.bytes_up for outcome in outcomes),
            bytes_down=tuple(outcome.bytes_down for outcome in outcomes),
            charges=rounds.spent.charges,
            # The server's own ledger, where the hospital is the unit, is at the run's delta.
            delta=max(h.delta for h in self.hospitals) if self.central is None else self.central.delta,
            missed={
                site: tuple(outcome.round for outcome in outcomes if site in outcome.absent)
                for site in sorted({site for outcome in outcomes for site in outcome.absent})
            },
        )
        # What the simulated hospitals had received: of no more use.
        shutil.rmtree(self.directory / "public", ignore_errors=True)
        self.console.print(final_table(self.experiment, result, self.directory))
        show_notes(self.console, result.notes)
        return result


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


def _experiment(context: Context) -> Experiment:
    """The run's configuration. A relative path would be taken from the SuperLink's working directory, which is not the
    caller's, so it is refused."""
    experiment = Experiment.from_flat(context.run_config)
    if relative := experiment.relative_paths():
        raise ConfigError(
            [f"{key}: give an absolute path; this process does not run where you called `flwr run`" for key in relative]
        )
    return experiment
