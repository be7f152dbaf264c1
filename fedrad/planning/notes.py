"""What the user should know about a run's plan and about its result: for each finding, what to do.

Nothing here is computed from a training report. Counts come from the test set, which is public or, in a simulation and
a centralized run, outside the guarantee anyway. Sizes are the declared ones, and the noise is the plan's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fedrad.config import Experiment
from fedrad.corpora import COLLECTIONS
from fedrad.data.label_names import nearest, positions
from fedrad.planning.expected_gain import ExpectedGain, expected_gain
from fedrad.planning.noise_to_signal import DOMINATED, Noise, most_at_once, noise_to_signal_of_label, verdict
from fedrad.public_base.choice import collection_of, starts_warm, unknown_labels
from fedrad.tasks.metrics import Comparison, Scores
from fedrad.training.inputs import Inputs
from fedrad.training.questions import Questions
from fedrad.training.result import rounded_up
from fedrad.training.setup import Setup
from fedrad.training.strategy import Strategy

# With fewer test reports, a single decision moves F1 by several points.
_FEW_REPORTS = 30
# With fewer changed decisions, a sign test stays above 5% even if every change is for the better.
_WITHIN_CHANCE = 5
_LISTED = 6


def notes_on_plan(
    experiment: Experiment, setup: Setup, strategy: Strategy, noise: Noise, test: Inputs | Questions | None
) -> tuple[str, ...]:
    """`before_training` for a run that is set up; ``test`` is None where nothing is evaluated."""
    sizes = {name: tensor.numel() for name, tensor in setup.classifier.adapter().items()}
    return before_training(
        experiment,
        setup.task.findings,
        noise=noise,
        trainable=most_at_once(strategy, sizes),
        row=setup.classifier.features + 1,
        positives={} if test is None else setup.task.positives(test.tokens),
        reports=0 if test is None else len(test),
        expected=_expected(experiment, setup, noise),
    )


def _expected(experiment: Experiment, setup: Setup, noise: Noise) -> ExpectedGain | None:
    if not (noise.private and starts_warm(experiment, setup.task.findings)):
        return None
    noisiest = max(noise.plans, key=lambda plan: plan.noise_multiplier / plan.divisor)
    return expected_gain(experiment, noisiest, noise.averaged)


def before_training(
    experiment: Experiment,
    findings: Sequence[str],
    *,
    noise: Noise,
    trainable: int,
    row: int,
    positives: Mapping[str, int],
    reports: int,
    expected: ExpectedGain | None = None,
) -> tuple[str, ...]:
    """Notes on the plan, before a step is charged.

    Args:
        findings: labels of the run's task.
        trainable: how many numbers a step trains.
        row: how many numbers of the head belong to one label: hidden size + 1.
        positives, reports: counts of the test set; empty and 0 where nothing is evaluated.
        expected: the measured gain, where there is one. It then replaces the noise-to-signal notes, because noise does
            not destroy what the start already knows.
    """
    unknown = unknown_labels(findings)
    found = _unknown(experiment, findings, unknown)
    if expected is not None:
        new = {name: positives[name] for name in unknown if name in positives}
        found += [f"Expected: {expected}.", *_rare(noise, row, new, reports)]
    elif noise.private:
        found += _loud(experiment, noise, trainable) + _rare(noise, row, positives, reports)
    return (*found, *(_small_test(positives, reports) if reports else ()))


def after_training(
    experiment: Experiment, scores: Scores, comparison: Comparison, *, epsilon: float, warm: bool
) -> tuple[str, ...]:
    """Notes on the result, compared with the start and with the label prior.

    Args:
        epsilon: the largest that a hospital spent; infinite without privacy.
        warm: whether the run started from an adapter trained on generated reports.
    """
    name, before, prior, after = scores.name, comparison.before.main, comparison.prior.main, scores.main
    phase = "The private phase" if math.isfinite(epsilon) else "Training"
    spent = f"Epsilon {rounded_up(epsilon, 4)} was spent for nothing. " if math.isfinite(epsilon) else ""
    more = "Take more reports, train.rounds or train.local-steps."
    remedy = _against_noise(experiment) if math.isfinite(epsilon) else more
    cautious = warm and math.isfinite(epsilon) and not experiment.train.learning_rate
    found = []
    if comparison.changed == 0:
        why = "After a warm start the step size falls with the noise, so that the start isn't lost. "
        found.append(
            f"{phase} changed nothing: all decisions on the {comparison.reports} evaluated reports are the same as"
            f" before it. {spent}{why if cautious else ''}{remedy}"
        )
    elif after <= before:
        found.append(
            f"{phase} gained nothing: {name} went from {before:.4f} before training to {after:.4f}. {spent}{remedy}"
        )
    elif comparison.changed < _WITHIN_CHANCE:
        found.append(
            f"What {phase[0].lower()}{phase[1:]} changed may be chance: of the decisions on the {comparison.reports}"
            f" evaluated reports, only {comparison.changed} differ from those before it. {remedy}"
        )
    if after <= prior and any(scores.positives.values()):
        found.append(
            f"The result is no better than the label prior, which reads no text ({name} {after:.4f} against"
            f" {prior:.4f}): don't use it. {remedy}"
        )
    return tuple(found)


def _against_noise(experiment: Experiment) -> str:
    fewer = "" if not experiment.adapted.targets else " fewer trained numbers (lora.targets=[]),"
    return f"Take more reports or hospitals,{fewer} or a larger privacy.epsilon; `fedrad plan` shows what each brings."


def _unknown(experiment: Experiment, names: Sequence[str], unknown: Sequence[str]) -> list[str]:
    """A note on labels that the warm start does not know, if the run starts warm."""
    if experiment.warm_start != "synthetic" or not unknown:
        return []
    these = "that label starts" if len(unknown) == 1 else "these labels start"
    starts = "the run starts" if len(unknown) == len(names) else these
    found = f"The warm start does not know {_listed(unknown)}, so {starts} cold."
    if experiment.corpus is None or not experiment.corpus.columns:
        return [found]  # a published corpus's names are not the user's to change
    known = COLLECTIONS[collection_of(names)]
    free = [label for label, place in zip(known, positions(known, names), strict=True) if place < 0]
    offers = [f'{name} is meant as "{label}"' for name in unknown if (label := nearest(name, free))]
    if offers:
        return [f"{found} If {_listed(offers, ' and ')}, rename the column so, in the file and in label-columns."]
    return [f"{found} It knows {', '.join(known)}: rename a column that means one of these."]


def _loud(experiment: Experiment, noise: Noise, trainable: int) -> list[str]:
    rho = noise.to_signal(trainable)
    if verdict(rho) != "noise-dominated":
        return []
    unit = experiment.privacy.unit
    return [
        f"Noise-dominated: with {noise.declared:,} declared {unit}{'' if noise.declared == 1 else 's'} the noise is"
        f" {rho:.3g} times the largest signal (noise / signal), so the result will be mostly noise."
        f" {_against_noise(experiment)}"
    ]


def _rare(noise: Noise, row: int, positives: Mapping[str, int], reports: int) -> list[str]:
    whole = noise.to_signal(row)
    if whole >= DOMINATED:
        return []  # this holds for every label, and ``_loud`` says so
    prevalence = {name: count / reports for name, count in positives.items() if count}
    rare = {name: noise_to_signal_of_label(fraction, whole) for name, fraction in prevalence.items()}
    rare = {name: rho for name, rho in rare.items() if rho >= DOMINATED}
    if not rare:
        return []
    each = [
        f"{name} (about {prevalence[name] * noise.batch:.2g} in a step, noise / signal {rho:.3g})"
        for name, rho in rare.items()
    ]
    needed = math.ceil(whole * noise.batch)
    without = f", or leave {'it' if len(rare) == 1 else 'them'} out" if len(rare) < len(positives) else ""
    return [
        f"Too few positives to be learnt at this noise: {_listed(each)}. A label needs about {needed} positives in a"
        f" step of {noise.batch:.0f} (estimated from the evaluated reports). Take more reports or a larger"
        f" privacy.epsilon{without}."
    ]


def _small_test(positives: Mapping[str, int], reports: int) -> list[str]:
    found = []
    if reports < _FEW_REPORTS:
        found.append(
            f"Scores are of {reports} report{'' if reports == 1 else 's'} only, too few to tell runs apart: take more"
            " reports, or a larger data.test-fraction."
        )
    absent = [name for name, count in positives.items() if not count]
    if absent and len(absent) == len(positives):
        found.append(
            "No evaluated report is positive for any label: F1 is 0 whatever is predicted. Take more reports, or a"
            " larger data.test-fraction."
        )
    elif absent:
        found.append(
            f"No evaluated report is positive for {_listed(absent)}: F1 is 0 there whatever is predicted. Take a larger"
            " data.test-fraction, or leave the label out."
        )
    return found


def _listed(items: Sequence[str], joint: str = ", ") -> str:
    more = len(items) - _LISTED
    return joint.join(items[:_LISTED]) + (f" and {more} more" if more > 0 else "")
