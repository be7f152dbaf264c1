"""Privacy units: which reports one guarantee protects together, and how they get into a step together.

A unit is a report, or a patient with all reports of theirs. Sampling draws units, clipping bounds the sum of a unit's
gradients, and the accountant counts units. (A whole hospital as the unit is noised at the server: `central`.)

Who has which report is as private as the reports: nothing in here may leave the hospital.
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
        of: the unit of each report, int64 [n]: 0 .. count - 1, numbered by first appearance.
        count: how many units there are; private, as the number of reports is.
    """

    of: Indices
    count: int

    def reports(self, chosen: Indices, at_most: int, stream: Stream) -> Indices:
        """Rows of the reports of these units, ascending: of each unit all, or ``at_most`` drawn without replacement.

        Every set of ``at_most`` reports of a unit is equally likely, and each call draws afresh: a patient with many
        reports is not represented by the same few in every step.

        Guarantee: none of its own, and none is needed: what a unit's reports add up to is clipped to the plan's norm,
        whichever and however many they are. The cap bounds work and memory, and keeps the gradients of patients with
        many reports from being mostly clipped away.

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
        unit: the plan's: "report" or "patient".
        reports: how many there are.
        patients: a number for the patient of each report [n], the same for the reports of one patient.

    Raises:
        PrivacyError: patients are to be protected, but nobody said whose the reports are; or the unit is another one.
    """
    match unit:
        case "report":
            return Units(np.arange(reports, dtype=np.int64), reports)
        case "patient":
            if patients is None or len(patients) != reports:
                raise PrivacyError("Patient-level privacy needs the patient of every report, and they are not known.")
            of = numbered(patients)
            return Units(of, int(of.max(initial=-1)) + 1)
    raise PrivacyError(f'No report-by-report step protects a unit "{unit}".')


def numbered(keys: NDArray[np.int64]) -> Indices:
    """The same partition with numbers 0, 1, ... in the order of first appearance, int64 [n].

    So patients with one report each are numbered like the reports, and are drawn like them.
    """
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def sum_by_unit(grads: Mapping[str, Tensor], units: NDArray[np.int64]) -> tuple[dict[str, Tensor], Indices]:
    """Joins the gradients of each unit's reports into one vector, which is what is clipped.

    Args:
        grads: name -> [B, *shape], a row for each report.
        units: owner index of each row, [B].

    Returns:
        name -> [U, *shape], a row for each unit that occurs, float64 where anything was summed; and for each of them a
        row of ``grads`` that is theirs, [U]. Where every report is a unit of its own, ``grads`` as they are. A
        gradient that is not finite makes its own unit's sum not finite, and no other's.
    """
    distinct, first, inverse = np.unique(units, return_index=True, return_inverse=True)
    if len(distinct) == len(units):
        return dict(grads), np.arange(len(units))
    summed = {}
    for name, grad in grads.items():
        total = torch.zeros(len(distinct), *grad.shape[1:], dtype=torch.float64, device=grad.device)
        # Not a product with a 0/1 matrix, in which 0 x NaN would reach the others.
        summed[name] = total.index_add_(0, torch.from_numpy(inverse).to(grad.device), grad.double())
    return summed, first


class UnitsOfStep:
    """Which units have been added to the step's sum, so that none is clipped in two parts, which would count twice."""

    def __init__(self) -> None:
        self._added: set[int] = set()

    def add(self, units: NDArray[np.int64]) -> None:
        """Notes that the units of a micro-batch were added.

        Raises:
            PrivacyError: one of them was added before; its contribution would no longer be bounded by the clip norm.
        """
        found = set(units.tolist())
        if self._added & found:
            raise PrivacyError("A unit's reports came in two micro-batches of a step: cut them with `units`.")
        self._added |= found

    def clear(self) -> None:
        """The step is over."""
        self._added.clear()
