"""Floors: what a result has to be above before it says anything. Most are further runs of the sweep.

prior         the label prior, which reads no text
all-negative  no finding in any report: F1 is 0
public-base   the public base before any training on these reports
few-shot      a decoder before any training, shown 8 public examples: what prompting alone gets
probe         the head alone on frozen features, without privacy, on all reports in one place
pooled        the same settings on all reports in one place
alone         each hospital by itself, with its own budget: what it would have without the federation
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedrad.config import Experiment
from fedrad.experiments.cells import CENTRALIZED, Cell
from fedrad.installed import strategy_class
from fedrad.keys import KEYS

UNTRAINED = ("public-base", "few-shot")
"""The floors whose figures are those of a run before its first step."""

_DEFAULT = {name: key.plain(key.default) for name, key in KEYS.items()}
_TRAINING = ("lora.", "privacy.", "strategy.", "train.")
# Of these, what an untrained model's figures depend on, if only by rounding.
_MACHINE = tuple(f"train.{name}" for name in ("seed", "threads", "device", "precision", "kernels", "micro-tokens"))
_MACHINE += ("privacy.noise",)
_SHOTS, _SHOT_TOKENS = 8, 128  # examples of the floor "few-shot", and the most tokens that one takes


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        cell: the run whose figures it has.
        keys: what is swept, by axis. Of a floor: of the cells that it stands under; None: they differ.
        floor: which of ``FLOORS``; empty: a cell of the grid.
        hospital: of the floor "alone", counted from 1.
    """

    cell: Cell
    keys: Mapping[str, Any]
    seed: int
    floor: str = ""
    hospital: int = 0


def floor_rows(rows: Sequence[Row], floors: Sequence[str]) -> list[Row]:
    """The rows of these floors under the cells of a grid, each once where it is the same for several of them."""
    found: dict[tuple[object, ...], Row] = {}
    for floor in floors:
        for row in rows:
            for hospital, cell in enumerate(FLOORS[floor](row.cell), start=1):
                # What reads no text depends on the test set alone.
                named: object = row.cell.experiment.data if floor in ("prior", "all-negative") else cell.name
                key = (floor, row.seed, named)
                other = found.get(key)
                keys = row.keys if other is None else _common(other.keys, row.keys)
                cell = cell if other is None else other.cell
                found[key] = Row(cell, keys, row.seed, floor, hospital if floor == "alone" else 0)
    return list(found.values())


def _common(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {axis: value if value == other[axis] else None for axis, value in one.items()}


def _as_it_is(cell: Cell) -> list[Cell]:
    return [cell]


def _probe(cell: Cell) -> list[Cell]:
    others = {name: value for name, value in _DEFAULT.items() if name.startswith(("lora.", "strategy."))}
    head = {"privacy.epsilon": 0.0, "privacy.unit": "report", "lora.targets": "", "strategy.name": "head"}
    return [_in_one_place(cell, {**others, **head})]


def _public_base(cell: Cell) -> list[Cell]:
    (probe,) = _probe(cell)
    return [Cell(_changed(probe.experiment, {"train.warm-start": "synthetic"}), CENTRALIZED)]


def _few_shot(cell: Cell) -> list[Cell]:
    """Of a cell with a decoder, where a note has as much room as in the cell. A run must train something, which is not
    read off it: one step, on a twentieth of the reports."""
    e = cell.experiment
    if not e.causal:
        return []
    changes = {name: value for name, value in _DEFAULT.items() if name.startswith(_TRAINING) and name not in _MACHINE}
    changes |= {"privacy.epsilon": 0.0, "lora.targets": "query,value", "train.warm-start": "none"}
    changes |= {"train.rounds": 1, "train.local-steps": 1, "train.batch": 1}
    if not e.model.shots:
        changes |= {"model.shots": _SHOTS, "data.max-length": e.data.max_length + _SHOTS * _SHOT_TOKENS}
    return [_in_one_place(cell, {**changes, "sites.count": 20, "sites.partition": "iid", "sites.alone": 1})]


def _pooled(cell: Cell) -> list[Cell]:
    return [_in_one_place(cell, {})]


def _alone(cell: Cell) -> list[Cell]:
    sites = cell.experiment.sites
    split = {"sites.count": sites.count, "sites.partition": sites.partition, "sites.alpha": sites.alpha}
    own = {  # what may differ from hospital to hospital
        "privacy.epsilon": sites.epsilons,
        "privacy.delta": sites.deltas,
        "train.batch": sites.batches,
        "lora.rank": sites.ranks,
    }
    return [
        _in_one_place(
            cell,
            {**split, **{key: given[index] for key, given in own.items() if given}, "sites.alone": index + 1},
        )
        for index in range(sites.count)
    ]


def _in_one_place(cell: Cell, changes: Mapping[str, object]) -> Cell:
    """The cell as a centralized run: without what only a federation has."""
    e = cell.experiment
    federated = ("privacy.secure-aggregation", "privacy.shared-noise", "privacy.colluders", "strategy.weights")
    flat = {name: value for name, value in _DEFAULT.items() if name.startswith("sites.") or name in federated}
    if strategy_class(e.strategy.name).server_state:  # an optimizer of the server's
        flat["strategy.name"] = "fedavg"
    if e.privacy.unit == "hospital":
        flat["privacy.unit"] = "report"
    return Cell(_changed(e, {**flat, **changes}), CENTRALIZED)


def _changed(experiment: Experiment, changes: Mapping[str, object]) -> Experiment:
    return Experiment.from_flat({**experiment.flat(), **changes})


FLOORS: dict[str, Callable[[Cell], list[Cell]]] = {
    "prior": _as_it_is,
    "all-negative": _as_it_is,
    "public-base": _public_base,
    "few-shot": _few_shot,
    "probe": _probe,
    "pooled": _pooled,
    "alone": _alone,
}
