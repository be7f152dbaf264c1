"""A hospital's whole round on neighbouring shards, recorded: what leaves, what is kept and what is run are the same.

Only the noised numbers differ. Two shards are neighbours if one has one report more (or one patient more)."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord

import fedrad
from fedrad.model.base import load_base
from fedrad.tasks.causal_lm import CausalLM
from fedrad.training.setup import set_up
from tests.counted import Passes
from tests.grid import Mercy, forget, small, wire_bytes
from tests.model import tiny

PACKAGE = str(Path(fedrad.__file__).parent)
Lines = set[tuple[str, int]]


@dataclass(frozen=True)
class Record:
    """All of a round that is not a noised number."""

    fields: dict[str, dict[str, Any]]
    tensors: dict[str, list[tuple[str, str, tuple[int, ...]]]]
    length: int
    kept: dict[str, int]
    shapes: list[list[tuple[int, ...]]]
    passes: tuple[int, list[int]]
    lines: Lines
    numbers: bytes


@contextmanager
def lines_of_ours(into: Lines) -> Iterator[None]:
    """Every line of fedrad that runs: two runs with the same set took the same branches."""

    def line(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            into.add((frame.f_code.co_filename, frame.f_lineno))
        return line

    def call(frame: FrameType, event: str, _: Any) -> Any:
        return line if frame.f_code.co_filename.startswith(PACKAGE) else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield
    finally:
        sys.settrace(before)


def record(folder: Path, base: str, units: int, counted: Passes, unit: str, **node: Any) -> Record:
    """The first round of a hospital with so many units; 40 are declared."""
    # By this seed the 38th unit is in every step.
    proposed = {"privacy__unit": unit, "data__patient_column": "patient", "train__seed": 2}
    mercy = Mercy(folder, reports=units, base=base, train__batch=20, train__local_steps=4, **proposed)
    mercy.node |= {"unit": unit, "max-sampling-rate": 1.0} | node
    return recorded(mercy, counted)


TASK = CausalLM(("edema", "no acute effusion"), "No acute effusion.")


def record_of_decoder(folder: Path, decoder: str, units: int, counted: Passes, loss: str, **node: Any) -> Record:
    """Likewise of a hospital that trains a decoder. The last report is the only one with the long answer."""
    mercy = Mercy(folder, reports=units)
    with mercy.table.open("w", newline="") as file:
        rows = [[text, f"quux-{i}", TASK.labels[i == 37]] for i, text in enumerate(mercy.texts)]
        csv.writer(file).writerows([["text", "patient", "kind"], *rows])
    proposed = {"model.task": "causal-lm", "model.instruction": TASK.instruction, "data.max-length": 100}
    proposed["model.loss"] = loss
    mercy.experiment = small(
        decoder,
        data__name="none",
        data__label_columns="kind",
        data__classes=",".join(TASK.labels),
        train__batch=20,
        train__seed=2,
        **{key.replace(".", "__").replace("-", "_"): value for key, value in proposed.items()},
    )
    mercy.node |= {"max-sampling-rate": 1.0, "label-columns": "kind", "classes": ",".join(TASK.labels)}
    mercy.node |= {"model": decoder, "model-sha256": load_base(decoder).fingerprint} | node
    mercy.state = set_up(mercy.experiment, TASK).classifier.state()
    return recorded(mercy, counted, labels=TASK.labels)


def recorded(mercy: Mercy, counted: Passes, **request: Any) -> Record:
    forget()
    counted.counts()
    lines: Lines = set()
    with lines_of_ours(lines):
        content = mercy.ask(mercy.request(**request))
    state = Path(mercy.node["state-dir"])
    return Record(
        fields={name: dict(part) for name, part in content.items() if isinstance(part, ConfigRecord)},
        tensors={
            name: [(key, str(array.dtype), tuple(array.shape)) for key, array in part.items()]
            for name, part in content.items()
            if isinstance(part, ArrayRecord)
        },
        length=len(wire_bytes(content)),
        kept={str(file.relative_to(state)): file.stat().st_size for file in sorted(state.rglob("*")) if file.is_file()},
        shapes=counted.steps,
        passes=counted.counts(),
        lines=lines,
        numbers=wire_bytes(content),
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save(tmp_path_factory.mktemp("base"), "bert")


@pytest.mark.parametrize("unit", ["report", "patient"])
def test_neighbouring_shards_make_the_same_round(
    unit: str, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Passes(monkeypatch)
    record(tmp_path / "warm", base, 30, counted, unit)  # what a process does once, such as finding a noise multiplier
    left, right = (record(tmp_path / str(units), base, units, counted, unit) for units in (37, 38))
    same_round(left, right)
    # Controls: the additional report was in it; and where passes are not padded, each of these measures tells.
    assert left.numbers != right.numbers
    bare = [record(tmp_path / f"bare-{n}", base, n, counted, unit, **{"pad-passes": False}) for n in (37, 38)]
    assert bare[0].passes != bare[1].passes
    assert bare[0].lines ^ left.lines != set()


@pytest.mark.parametrize("loss", ["answer", "text"])
def test_neighbouring_shards_make_the_same_round_of_a_decoder(
    loss: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One hospital has a report more, whose answer is another and longer one. With lengths padded as well, not even the
    shapes of the passes or the number of outputs that are computed tell."""
    counted = Passes(monkeypatch)
    decoder = tiny.save_decoder(tmp_path / "decoder", "llama", max_position_embeddings=128)

    def of(units: int, name: str, **node: Any) -> Record:
        return record_of_decoder(tmp_path / f"{name}-{units}", decoder, units, counted, loss, **node)

    padded = {"pad-lengths": True}
    of(30, "warm", **padded)
    left, right = (of(units, "padded", **padded) for units in (37, 38))
    same_round(left, right)
    assert left.shapes == right.shapes
    assert left.numbers != right.numbers
    bare = [of(units, "bare") for units in (37, 38)]
    if loss == "text":
        assert not any(record.tensors for record in bare)  # refused: memory would tell more than the shapes
    else:
        assert bare[0].passes == bare[1].passes
        assert bare[0].shapes != bare[1].shapes  # where lengths are not padded they tell, as is documented


def same_round(left: Record, right: Record) -> None:
    assert set(left.fields) == {"reply"}  # it answered
    assert left.fields == right.fields
    assert left.tensors == right.tensors
    assert left.tensors["adapter"]
    assert left.length == right.length
    assert left.kept == right.kept
    assert left.kept
    assert left.passes == right.passes
    assert left.lines ^ right.lines == set()
