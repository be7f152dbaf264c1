"""What a run ends with: its figures, and what it guarantees in words that can stand beside the adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Context
from typing import Any

from fedrad.config import Experiment
from fedrad.privacy.filter import FILTER, Account
from fedrad.privacy.groups import patients_in_words
from fedrad.privatise.local import figures_of, in_words
from fedrad.tasks.metrics import Comparison, Scores


@dataclass(frozen=True)
class Result:
    """The final figures of a run.

    Attributes:
        scores: on the test set, of the adapter that was written; None: there was no test set.
        epsilon: of each ledger at its delta, by site; infinite for a run without privacy. Where the hospital is the
            unit there is one ledger, the server's.
        steps: noisy steps of the site that took the most.
        declared: declared shard sizes by site.
        sizes_stated: whether they are public statements of the hospitals; else they were rounded from the actual
            numbers, as a simulation does.
        test_reports: reports of the public or simulated test set.
        seconds: wall time of the run.
        unconfirmed: sites whose last answer was lost: their ledgers may hold more than ``epsilon`` says.
        bytes_up, bytes_down: of the tensors that travelled, round by round, all sites together; none for a centralized
            run.
        charges: what each ledger's epsilon comes from, by site: its charges, and the rule that counts them.
        delta: the largest that a ledger's epsilon was composed at.
        missed: the rounds in which a hospital did not count, by site, of those who missed any.
        comparison: the start and the label prior, on the same test set.
        notes: what the user should know about these figures, a sentence each (``training.findings``).
    """

    scores: Scores | None
    epsilon: Mapping[str, float]
    steps: int
    declared: Mapping[str, int]
    sizes_stated: bool
    test_reports: int
    seconds: float
    unconfirmed: tuple[str, ...] = ()
    bytes_up: tuple[int, ...] = ()
    bytes_down: tuple[int, ...] = ()
    charges: Mapping[str, Account] = field(default_factory=dict)
    delta: float = field(kw_only=True)
    missed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    comparison: Comparison | None = None
    notes: tuple[str, ...] = ()

    @property
    def epsilon_max(self) -> float:
        return max(self.epsilon.values())  # none at all is an error: it must not read as epsilon 0


def privacy_statement(
    experiment: Experiment,
    result: Result,
    backbone: str = "float32",
    draws: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """What the run guarantees.

    Args:
        backbone: dtype of the frozen base model in this process.
        draws: as of ``local_guarantee``.
    """
    return " ".join([_of_steps(experiment, result, backbone), *local_guarantee(experiment, draws)])


def local_guarantee(experiment: Experiment, draws: Sequence[Mapping[str, Any]] | None = None) -> list[str]:
    """What privatised texts add, in words; nothing if the hospitals train on their texts as they are.

    Args:
        draws: that were made (``training.privatised.draws_of_run``); None: the one that is planned.
    """
    planned = figures_of(experiment)
    if planned is None:
        return []
    if draws is not None and not draws:
        return ["Of privatised texts nothing is promised: of some steps it is not known that they were on such texts."]
    return [in_words([planned] if draws is None else draws)]


def _of_steps(experiment: Experiment, result: Result, backbone: str) -> str:
    """What the noise of the steps guarantees."""
    privacy = experiment.privacy
    if privacy.epsilon == 0:
        return "Trained WITHOUT differential privacy. The adapter may reveal training reports."
    guarantee = _central(experiment, result) if privacy.unit == "hospital" else _local(experiment, result)
    # With "auto" every hospital's own machine decides, and the server does not know.
    if backbone == "bfloat16" or (experiment.train.precision == "auto" and result.bytes_up):
        guarantee += (
            " The base model ran, or at some hospital may have run, in bfloat16: its rounding lets reports of a batch"
            " change each other's gradients a little, which this figure does not cover."
        )
    if privacy.secure_aggregation:
        guarantee += f" {secure_aggregation_in_words(experiment)}"
    if result.unconfirmed:
        guarantee += (
            f" NOT CONFIRMED for {', '.join(result.unconfirmed)}: an answer was lost after these may have charged their"
            " ledgers, so the figure is a lower bound for them; ask them what their ledgers say."
        )
    if not result.sizes_stated:
        guarantee += " Simulated: the shard sizes were rounded from the actual ones, not stated in public."
    if privacy.noise == "seeded":
        return f"Seeded noise: simulation only. Whoever knows the seed can remove the noise. Otherwise: {guarantee}"
    return guarantee


def _accounted(result: Result) -> str:
    """How the figure was computed, and what it covers."""
    filtered = any(account.rule == FILTER for account in result.charges.values())
    how = (
        " Accounted with a Renyi filter where a ledger holds plans that were chosen one after another, and elsewhere"
        " with privacy loss distributions"
        if filtered
        else " Accounted with privacy loss distributions"
    )
    return (
        f"{how} (pessimistic estimate); Gaussian noise in floating point. Covers the training reports, not the test"
        " reports behind the scores."
    )


def _local(experiment: Experiment, result: Result) -> str:
    """Where every hospital noises its own steps."""
    unit, delta = experiment.privacy.unit, result.delta
    figure = f"{unit}-level ({rounded_up(result.epsilon_max)}, {rounded_up(delta)})-differential privacy"
    if experiment.privacy.shared_noise:
        return figure + _only_sums(experiment, result)
    words = f"{figure}, adding or removing one {unit}, against everyone who sees every message of the run."
    words += _accounted(result)
    if len(result.epsilon) > 1:
        total = sum(result.epsilon.values())
        words += (
            f" The figure is the largest over {len(result.epsilon)} hospitals and assumes that no patient is in two of"
            f" them; for a patient with one {unit} in each, basic composition gives at most"
            f" ({rounded_up(total)}, {rounded_up(len(result.epsilon) * delta)})."
        )
    if result.charges:
        words += f" {patients_in_words(unit, list(result.charges.values()), delta)}"
    return words


def _only_sums(experiment: Experiment, result: Result) -> str:
    """Of whom the figure speaks where hospitals share their noise.

    A patient with a report in each of two hospitals is in one sum twice, under one noise: the figures of the hospitals
    do not compose as those of independent mechanisms do, so no composed one is given.
    """
    from fedrad.training.setup import shared_noise_terms  # here, so that `fedrad ledger` does without torch

    unit, delta = experiment.privacy.unit, result.delta
    terms = shared_noise_terms(experiment)
    words = (
        f", adding or removing one {unit}, against everyone who sees of the hospitals' adapters only sums over"
        f" {terms.quorum} or more; a single adapter had less noise. {terms.statement[0].upper()}{terms.statement[1:]}."
        " A hospital knows its own share, so one that looks at the sum for itself is on that side too. This rests on"
        f" the other hospitals having added theirs, and falls with secure aggregation.{_accounted(result)}"
        f" The figure is the largest over {len(result.epsilon)} hospitals and says nothing of a patient with reports in"
        " two of them."
    )
    if result.charges:
        words += f" {patients_in_words(unit, list(result.charges.values()), delta, pairs=False)}"
    return words


def secure_aggregation_in_words(experiment: Experiment) -> str:
    """What the server did not see in a run with secure aggregation."""
    quorum, colluders = experiment.sites.quorum, experiment.privacy.colluders
    return (
        f"Secure aggregation: the server learned sums over {quorum} hospitals or more and no single adapter, also if"
        f" {colluders} of the hospitals helped it; this binds a server that follows the protocol, and one that lies"
        " only where the hospitals pin each other's identity keys."
    )


def _central(experiment: Experiment, result: Result) -> str:
    """Where the server noises the sum of whole updates."""
    return (
        f"hospital-level ({rounded_up(result.epsilon_max)}, {rounded_up(result.delta)})-differential privacy, adding or"
        " removing one hospital with all its reports, against everyone BUT THE SERVER: it received every hospital's"
        f" update without noise, and is trusted to have noised what it published and to forget the rest."
        f"{_accounted(result)} Who took part is not hidden, and nothing is gained from drawing hospitals by lot."
    )


def rounded_up(value: float, digits: int = 6) -> str:
    """A privacy figure to so many significant digits, never below what it is: ``float`` of the text is >= value."""
    # repr, the shortest text that reads back as the same float, so that 0.001 stays 0.001.
    return f"{float(Context(prec=digits, rounding=ROUND_CEILING).create_decimal(repr(value))):.{digits}g}"
