"""Dummy passes on a public text, so that the amount of a hospital's work depends on public figures alone."""

from __future__ import annotations

from dataclasses import dataclass

from fedrad.data.batches import Tokenized
from fedrad.privacy.passes import most_units, passes_of_step
from fedrad.privacy.plan import PrivacyPlan
from fedrad.training.setup import Setup

FILLER = "the heart is normal in size . the lungs are clear . there is no effusion or pneumothorax . "
# Word-pieces of the filler where reports keep their own length: about those of a chest report. For a decoder, of the
# note in it.
FILLER_LENGTH = 64


@dataclass(frozen=True, eq=False)
class Padding:
    """How many passes are run, whatever the shard holds and a step samples. All of it is public.

    Guarantee: the number of forward and backward passes of a round is a function of these figures, with the
    probability that ``privacy.passes`` states. Nothing is promised of how long a pass takes, unless ``full``.
    Assumption: each unit has a pass of its own (``train.micro-tokens = 1``).

    Attributes:
        step: passes of a step, or the next multiple.
        reading: passes of the frozen lower part over all reports at the start of a round, or the next multiple.
        filler: one text that stands in for a report, as ``Tokenized``.
        longest: ``data.max-length``, tokens.
        rows: reports of one unit in a pass, at most.
        full: every pass has the shape [``rows``, ``longest``], of which the surplus is masked or dropped.
    """

    step: int
    reading: int
    filler: Tokenized
    longest: int
    rows: int
    full: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and tokens that every pass has at least."""
        return (self.rows, self.longest) if self.full else (1, 1)


def padding_for(setup: Setup, plan: PrivacyPlan, *, reports_per_patient: int, full: bool) -> Padding:
    """The padding of a hospital's rounds under a plan.

    Args:
        reports_per_patient: with the patient as unit, how many reports per patient the hospital plans to read; its own
            figure and not the server's, which could ask with several for the number of reports.
        full: pad every pass to the longest report, too.
    """
    each = reports_per_patient if plan.unit == "patient" else 1
    length = setup.max_length if full else min(FILLER_LENGTH + _around(setup), setup.max_length)
    return Padding(
        step=passes_of_step(plan.declared_size, plan.sampling_rate, plan.delta),
        reading=most_units(plan.declared_size) * each,
        filler=_filler(setup, length),
        longest=setup.max_length,
        rows=plan.reports_per_patient,
        full=full,
    )


def _filler(setup: Setup, length: int) -> Tokenized:
    """A text of ``length`` tokens; for a decoder, if its answer were the longest."""
    return setup.task.made_up([FILLER * length], setup.base.tokenizer, length)


def _around(setup: Setup) -> int:
    """Tokens that a decoder reads beside a note: instruction and answer may be longer than the filler is to be."""
    if setup.classifier.answers is None:
        return 0
    empty = setup.task.made_up([""] * len(setup.task.labels), setup.base.tokenizer, setup.max_length)
    return int(empty.lengths.max())
