"""A sweep's TOML file: which runs it asks for, with every mistake at once and before any of them starts."""

from __future__ import annotations

import difflib
import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fedrad import rules
from fedrad.config import Experiment
from fedrad.errors import ConfigError
from fedrad.experiments.cells import CENTRALIZED, SIMULATE, TRANSPORTS, Cell
from fedrad.experiments.floors import FLOORS, Row, floor_rows
from fedrad.keys import KEYS, flatten, shown, unknown
from fedrad.simulation.apps import app_defaults, app_folder

_ENTRIES = {
    "command": str,
    "app": str,
    "transport": str,
    "seeds": list,
    "seed-keys": list,
    "floors": list,
    "memory-gb": (int, float),
    "base": dict,
    "grid": dict,
}
_WORDS = {"command": (CENTRALIZED, SIMULATE), "transport": TRANSPORTS}
_OURS = ("run.out", "run.name", "run.predictions", "run.resume")


@dataclass(frozen=True)
class Sweep:
    """What a sweep runs, and the rows of its table.

    Attributes:
        axes: names of what is swept, in the file's order.
        seeds: how many.
        rows: every line of the table, those of the floors last.
        memory: bytes that a cell needs, as stated; 0: to be measured.
        text: the file.
    """

    axes: tuple[str, ...]
    seeds: int
    rows: tuple[Row, ...]
    memory: int
    text: bytes

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The runs behind the rows, each once."""
        return tuple({row.cell.name: row.cell for row in self.rows}.values())


class _Value(NamedTuple):
    """One value of an axis: as the table shows it, and the keys that it sets."""

    shown: Any
    keys: Mapping[str, object]


def read_sweep(file: Path) -> Sweep:
    """Reads a sweep's file and plans its cells. Relative paths are taken from the working directory.

    Raises:
        ConfigError: with every problem, of the file and of each cell.
    """
    try:
        text = file.read_bytes()
        said = tomllib.loads(text.decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: {getattr(error, 'strerror', None) or error}") from None
    problems = _entries(said)
    if problems:
        raise ConfigError(problems)
    command, seeds = said.get("command", CENTRALIZED), said.get("seeds", [0])
    seed_keys, floors = said.get("seed-keys", ["train.seed"]), said.get("floors", [])
    base, problems = _base(said.get("base", {}), seed_keys)
    axes, more = _axes(said.get("grid", {}), seed_keys)
    problems += more + _seeds(seeds, seed_keys) + _floors(floors, command)
    app = said.get("app", "mimic") if command == SIMULATE else ""
    if app:
        try:
            base = {**app_defaults(app_folder(app)), **base}
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    transport = said.get("transport", TRANSPORTS[0]) if command == SIMULATE else ""
    rows, problems = _rows(base, axes, seeds, seed_keys, Cell(Experiment(), command, app, transport))
    if problems:
        raise ConfigError(problems)
    return Sweep(
        axes=tuple(axes),
        seeds=len(seeds),
        rows=(*rows, *floor_rows(rows, floors)),
        memory=int(said.get("memory-gb", 0) * 2**30),
        text=text,
    )


def _entries(said: Mapping[str, object]) -> list[str]:
    """Unknown names, wrong types and wrong words at the top of the file."""
    found = []
    for name, value in said.items():
        if name not in _ENTRIES:
            section = any(key.startswith(f"{name}.") for key in KEYS)
            close = difflib.get_close_matches(name, _ENTRIES, n=1)
            hint = f"did you mean base.{name}?" if section else f"did you mean {close[0]}?" if close else ""
            found.append(f"{name}: no entry of a sweep; {hint or 'there are ' + ', '.join(_ENTRIES)}")
        elif not isinstance(value, _ENTRIES[name]) or isinstance(value, bool):  # type: ignore[arg-type]
            found.append(f"{name}: {shown(value)} is of the wrong type")
        elif name in _WORDS and value not in _WORDS[name]:
            close = difflib.get_close_matches(str(value), _WORDS[name], n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            found.append(f"{name} = {shown(value)}: must be one of {', '.join(_WORDS[name])}{hint}")
    if isinstance(said.get("memory-gb"), int | float) and said["memory-gb"] <= 0:  # type: ignore[operator]
        found.append("memory-gb: must be above 0")
    return found


def _base(tables: Mapping[str, Any], seed_keys: Sequence[object]) -> tuple[dict[str, object], list[str]]:
    base = flatten(tables)
    return base, [problem for key in base if (problem := _trouble(key, "base", seed_keys))]


def _trouble(key: str, where: str, seed_keys: Sequence[object]) -> str:
    if key not in KEYS:
        return f"{where}: {unknown(key)}"
    if key in _OURS:
        return f"{where}: {key}: the sweep sets it itself; leave it out"
    return f"{where}: {key}: is set from the seeds (seed-keys); leave it out" if key in seed_keys else ""


def _axes(grid: Mapping[str, Any], seed_keys: Sequence[object]) -> tuple[dict[str, list[_Value]], list[str]]:
    """Each axis with its values: a key's values, or groups of keys that go together."""
    axes: dict[str, list[_Value]] = {}
    problems = []
    for name, values in flatten(grid).items():
        if not isinstance(values, list) or not values:
            problems.append(f"grid: {name}: write a list of values, or of groups of keys ([[grid.{name}]])")
        elif any(isinstance(value, dict) for value in values):
            axes[name], more = _groups(name, values, seed_keys)
            problems += more
        else:
            problems += [problem] if (problem := _trouble(name, "grid", seed_keys)) else []
            axes[name] = [_Value(value, {name: value}) for value in values]
        names = [str(value.shown) for value in axes.get(name, [])]
        twice = sorted({value for value in names if names.count(value) > 1})
        problems += [f"grid: {name}: {value} stands there twice" for value in twice]
    owners: dict[str, str] = {}
    for name, group in axes.items():
        for key in {key for value in group for key in value.keys}:
            if owners.setdefault(key, name) != name:
                problems.append(f"grid: {key}: is set by {owners[key]} and by {name}")
    return axes, problems


def _groups(name: str, groups: Sequence[Any], seed_keys: Sequence[object]) -> tuple[list[_Value], list[str]]:
    values, problems = [], []
    if name in KEYS:
        problems.append(f"grid: {name}: is a key; name the groups otherwise")
    for group in groups:
        if not isinstance(group, dict) or not isinstance(group.get("name"), str):
            problems.append(f'grid: {name}: each group needs a name, as in name = "small"')
            continue
        keys = flatten({key: value for key, value in group.items() if key != "name"})
        problems += [problem for key in keys if (problem := _trouble(key, f"grid: {group['name']}", seed_keys))]
        values.append(_Value(group["name"], keys))
    return values, problems


def _seeds(seeds: Sequence[object], keys: Sequence[object]) -> list[str]:
    found = []
    if not seeds or any(not isinstance(seed, int) or isinstance(seed, bool) for seed in seeds):
        found.append(f"seeds = {shown(seeds)}: write whole numbers")
    elif len(set(seeds)) < len(seeds):
        found.append(f"seeds = {shown(seeds)}: one stands there twice, and the same run is no second run")
    allowed = ("train.seed", "data.seed")
    if not keys or any(key not in allowed for key in keys):
        found.append(f"seed-keys = {shown(keys)}: take {' and '.join(allowed)}, or one of them")
    return found


def _floors(floors: Sequence[object], command: str) -> list[str]:
    found = []
    for floor in floors:
        if floor not in FLOORS:
            close = difflib.get_close_matches(str(floor), FLOORS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(FLOORS)}"
            found.append(f"floors: {shown(floor)}: unknown; {hint}")
    if command == CENTRALIZED and {"alone", "pooled"} & set(map(str, floors)):
        found.append('floors: alone and pooled go with command = "simulate": in one place there are no hospitals')
    return found


def _rows(
    base: Mapping[str, object],
    axes: Mapping[str, Sequence[_Value]],
    seeds: Sequence[int],
    seed_keys: Sequence[str],
    like: Cell,
) -> tuple[list[Row], list[str]]:
    """A row for each cell of the grid, or what is wrong with the cells: a problem once, with where it arises."""
    rows: list[Row] = []
    wrong: dict[str, list[str]] = {}
    names: set[str] = set()
    for values in itertools.product(*axes.values()):
        keys = {axis: value.shown for axis, value in zip(axes, values, strict=True)}
        for seed in seeds:
            where = ", ".join([*(f"{axis}={value}" for axis, value in keys.items()), f"seed {seed}"])
            flat = {**base, **{k: v for value in values for k, v in value.keys.items()}}
            flat |= dict.fromkeys(seed_keys, seed) | {"run.predictions": True}
            try:
                experiment = Experiment.from_flat(flat).resolve_paths(Path.cwd())
                cell = Cell(experiment, like.command, like.app, like.transport)
                problems = _refusals(cell)
            except ConfigError as error:
                problems = list(error.problems)
            for problem in problems:
                wrong.setdefault(problem, []).append(where)
            if not problems:
                if cell.name in names:
                    wrong.setdefault("the same run as an earlier cell", []).append(where)
                names.add(cell.name)
                rows.append(Row(cell, keys, seed))
    count = len(seeds)
    for group in axes.values():
        count *= len(group)
    return rows, [
        problem if len(places) == count else f"{problem} ({len(places)} of {count} cells, first: {places[0]})"
        for problem, places in wrong.items()
    ]


def _refusals(cell: Cell) -> list[str]:
    """Why this cell can't be run in its way."""
    ways = [rules.CENTRALIZED] if cell.command == CENTRALIZED else [rules.FEDERATED]
    ways += [rules.FUSED] if cell.transport == "fused" else []
    return [problem for way in ways for problem in rules.refusals(cell.experiment, way)]
