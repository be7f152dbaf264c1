"""The results of a sweep as one table: a row for each cell and floor, in Parquet and CSV."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fedrad.experiments.cells import failure_of, finished
from fedrad.experiments.floors import UNTRAINED, Row
from fedrad.files import USUAL, whole_file, write_whole

FIGURES = ("weighted_f1", "micro_f1", "macro_f1")
F1, BEFORE, EPSILON = "f1:", "before:", "epsilon:"


Results = dict[str, dict[str, Any]]
"""The results of finished cells by name: a finished cell never changes, so each is read once."""


def table_of(rows: Sequence[Row], axes: Sequence[str], folder: Path, known: Results) -> pd.DataFrame:
    """The rows with what has finished so far. An epsilon without privacy is empty, as everything of a cell is that has
    not finished.

    Args:
        known: results that were read before; what is read now is added.
    """
    records = []
    for row in rows:
        name = row.cell.name
        result = known.get(name) or finished(row.cell, folder)
        if result is not None:
            known[name] = result
        failure = failure_of(row.cell, folder) if result is None else None
        record: dict[str, Any] = {**row.keys, "seed": row.seed, "floor": row.floor, "hospital": row.hospital}
        record["status"] = "finished" if result is not None else "failed" if failure is not None else "waiting"
        records.append(record | ({} if result is None else _figures(row.floor, result)) | {"run": name})
        if failure is not None:
            records[-1]["error"] = f"{failure.kind}: {failure.message}"
    first = [*axes, "seed", "floor", "hospital", "status", *FIGURES]
    table = pd.DataFrame.from_records(records)
    return table.reindex(columns=[*first, *(name for name in table.columns if name not in first)])


def _figures(floor: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """What the table says of a finished run, or of the floor that is read off it."""
    untrained = floor in UNTRAINED
    scores = (result["label_prior"] if floor == "prior" else result["before"] if untrained else result) or {}
    per_label = scores.get("per_label", {})
    figures = _of(scores)
    if floor == "all-negative":  # nothing is found, so precision or recall is 0 everywhere
        figures, per_label = dict.fromkeys(FIGURES, 0.0), dict.fromkeys(per_label, 0.0)
    record: dict[str, Any] = {**figures, **{F1 + label: value for label, value in per_label.items()}}
    if not untrained and floor not in ("prior", "all-negative"):
        record |= {BEFORE + name: value for name, value in _of(result["before"] or {}).items()}
        record |= {EPSILON + site: value for site, value in result["epsilon"].items()}
        record |= {"epsilon_max": result["epsilon_max"], "delta": result["delta"], "steps": result["steps"]}
    return record | {
        "prior:weighted_f1": (result["label_prior"] or {}).get("weighted_f1"),
        "seconds": result["seconds"],
        "version": result["versions"]["fedrad"],
        "digest": result["experiment"],
    }


def _of(scores: Mapping[str, Any]) -> dict[str, Any]:
    """What the table shows of them; of one class a report also how often it is among the three most probable."""
    names = (*FIGURES, "top_3") if "top_3" in scores else FIGURES
    return {name: scores.get(name) for name in names}


def write_results(rows: Sequence[Row], axes: Sequence[str], out: Path, known: Results) -> pd.DataFrame:
    """Writes ``results.parquet`` and ``results.csv``, each whole or not at all; the table."""
    table = table_of(rows, axes, out / "cells", known)
    # A column of numbers and words, such as a swept key whose floors have none, is text in Parquet.
    typed = table.astype({axis: "string" for axis in axes if table[axis].dtype == object})
    with whole_file(out / "results.parquet", durable=False, mode=USUAL) as file:
        typed.to_parquet(file, index=False)
    write_whole(out / "results.csv", table.to_csv(index=False).encode(), durable=False, mode=USUAL)
    return table


def write_index(rows: Sequence[Row], axes: Sequence[str], out: Path) -> None:
    """Writes ``sweep.json``: what each run of the folder stands for."""
    entries = [
        {"run": row.cell.name, "keys": dict(row.keys), "seed": row.seed, "floor": row.floor, "hospital": row.hospital}
        for row in rows
    ]
    content = json.dumps({"axes": list(axes), "rows": entries}, indent=1) + "\n"
    write_whole(out / "sweep.json", content.encode(), durable=False, mode=USUAL)
