"""Privacy units: which reports one guarantee protects together, and how they enter a step together.

A unit is a report, or a patient with all their reports. Sampling draws units, clipping bounds the sum of a unit's
gradients, and the accountant counts units. (If the unit is the hospital, the server adds the noise: `hospital_unit`.)

Which report belongs to whom is as private as the reports: nothing in this module may leave the hospital.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrad.errors import PrivacyError
from fedrad.privacy.randomness import Stream

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Units:
    """The privacy units of n reports.

    Attributes:
        of: index of each report's unit, int64 [n]: 0 .. count - 1, numbered by first appearance.
        count: number of units; private, like the number of reports.
    """

    of: Indices
    count: int

    def reports(self, chosen: Indices, at_most: int, stream: Stream) -> Indices:
        """Indices of the reports of these units, ascending: for each unit all, or ``at_most`` without replacement.

        Every set of ``at_most`` reports of a unit is equally likely, and each call draws anew, so that a patient with
        many reports is not represented by the same few in every step.

        Guarantee: none is needed, because the sum of a unit's gradients is clipped to the plan's norm, whichever and
        however many its reports are. The cap bounds work and memory, and it keeps the gradients of patients with many
        reports from being mostly clipped away.

        Args:
            chosen: units, each once (`poisson_sample` of ``count``).
            at_most: the plan's ``reports_per_patient``, public.
            stream: the step's stream, after it has drawn the units.
        """
        drawn = np.zeros(self.count, dtype=bool)
        drawn[chosen] = True
        rows = np.flatnonzero(drawn[self.of])
        if len(rows) == len(chosen):  # one report each: nothing to draw
            return rows
        shuffled = rows[stream.permutation(len(rows))]
        by_unit = shuffled[np.argsort(self.of[shuffled], kind="stable")]
        unit = self.of[by_unit]
        begins = np.flatnonzero(np.diff(unit, prepend=-1))
        place = np.arange(len(unit)) - np.repeat(begins, np.diff(begins, append=len(unit)))
        return np.sort(by_unit[place < at_most])


def units_of(unit: str, reports: int, patients: NDArray[np.int64] | None) -> Units:
    """The units of a shard.

    Args:
        unit: the plan's unit, "report" or "patient".
        reports: number of reports.
        patients: a number for the patient of each report [n], equal for the reports of one patient.

    Raises:
        PrivacyError: the unit is the patient but ``patients`` is missing; or the unit is another one.
    """
    match unit:
        case "report":
            return Units(np.arange(reports, dtype=np.int64), reports)
        case "patient":
            if patients is None or len(patients) != reports:
                raise PrivacyError("Patient-level privacy needs the patient of every report, which is not known.")
            of = numbered(patients)
            return Units(of, int(of.max(initial=-1)) + 1)
    raise PrivacyError(f'No report-by-report step protects a unit "{unit}".')


def numbered(keys: NDArray[np.int64]) -> Indices:
    """The keys as numbers 0, 1, ... in the order of first appearance, int64 [n].

    So patients with one report each are numbered, and therefore sampled, like the reports.
    """
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def sum_by_unit(grads: Mapping[str, Tensor], units: NDArray[np.int64]) -> tuple[dict[str, Tensor], Indices]:
    """Sums the gradients of each unit's reports. The sum is what is clipped.

    Args:
        grads: name -> [B, *shape], a row for each report.
        units: index of each row's unit, [B].

    Returns:
        name -> [U, *shape], a row for each unit that occurs; and the index of a row of ``grads`` for each unit, [U].
        Sums are float64. If every report is a unit, ``grads`` are returned unchanged. A non-finite gradient makes only
        its own unit's sum non-finite.
    """
    distinct, first, inverse = np.unique(units, return_index=True, return_inverse=True)
    if len(distinct) == len(units):
        return dict(grads), np.arange(len(units))
    summed = {}
    for name, grad in grads.items():
        total = torch.zeros(len(distinct), *grad.shape[1:], dtype=torch.float64, device=grad.device)
        # A product with a 0/1 matrix would spread NaN to other units, because 0 x NaN is NaN.
        summed[name] = total.index_add_(0, torch.from_numpy(inverse).to(grad.device), grad.double())
    return summed, first


class UnitsOfStep:
    """The units already added to the step's sum. A unit clipped in two parts would contribute up to twice the norm."""

    def __init__(self) -> None:
        self._added: set[int] = set()

    def add(self, units: NDArray[np.int64], hospital: NDArray[np.int64] | None = None) -> None:
        """Notes that the units of a micro-batch are added.

        Args:
            units: index of each row's unit, [B].
            hospital: index of each row's hospital, [B]; None if there is one.

        Raises:
            PrivacyError: a unit has reports at two hospitals, or was added before, so that the clip norm would not
                bound its contribution.
        """
        if hospital is not None:
            at_one = np.unique(np.stack([units, hospital]), axis=1).shape[1]
            if at_one != len(np.unique(units)):
                raise PrivacyError("A unit has reports at two hospitals: number the units of each hospital apart.")
        found = set(units.tolist())
        if self._added & found:
            raise PrivacyError("A unit's reports are in two micro-batches of a step: pass `units` when you cut them.")
        self._added |= found

    def clear(self) -> None:
        """The step is over."""
        self._added.clear()
