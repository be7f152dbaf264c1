"""Real hospitals with labels of their own: with a test set at the server, without one, and where the labels differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, MessageType, RecordDict

from fedrad import Classifier
from fedrad.config import Experiment
from fedrad.corpora import CHEXPERT
from fedrad.errors import ConfigError
from fedrad.federation import client, server
from fedrad.federation import run as run_module
from fedrad.model.base import load_base
from fedrad.tasks.causal_lm import CausalLM
from fedrad.tasks.multi_label import MultiLabel
from fedrad.tasks.single_label import SingleLabel
from fedrad.training.corpus import read_corpus, stated_task
from tests.grid import LABELS, InProcessGrid, Mercy, federate, forget, small
from tests.model import tiny


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    forget()
    yield
    forget()


class Watched(InProcessGrid):
    """Remembers of what kind the messages were."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.kinds: list[str] = []

    def answer(self, message: Message) -> Message:
        self.kinds.append(message.metadata.message_type)
        return super().answer(message)


def run(
    folder: Path, base: str, out: str, node: dict[str, Any] | None = None, **changes: object
) -> tuple[Watched, ConfigError | None]:
    """The ServerApp with two real hospitals, each with labels edema and effusion: what passed, and how it failed."""
    nodes = []
    for name in ("grace", "mercy"):
        hospital = Mercy(folder / name, base=base)
        nodes.append(hospital.node | {"site": name} | (node or {}))
    experiment = small(base, sites__count=2, train__learning_rate=0.1, run__out=str(folder / out), **changes)
    config = experiment.flat()
    grid = Watched(client.app, nodes, config)
    try:
        server.app(grid, Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=dict(config)))
    except ConfigError as error:
        return grid, error
    return grid, None


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_server_without_a_test_set_trains_and_says_that_nothing_was_evaluated(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid, _ = run(tmp_path, base, "out", data__name="none", data__label_columns=",".join(LABELS))
    assert MessageType.TRAIN in grid.kinds
    out, said = tmp_path / "out", capsys.readouterr().out
    # What it would need is said before anybody is asked.
    before, _, after = said.partition("2 hospitals: grace, mercy")
    assert "test set: none" in before
    assert "data.name=table data.path=FILE data.text-column=TEXT data.label-columns=A,B" in before
    assert "not evaluated" in after
    assert " F1 0" not in said
    assert "nan" not in said
    result = json.loads((out / "result.json").read_text())
    assert result["evaluated"] is False
    assert result["reports"]["test"] == 0
    figures = ("weighted_f1", "micro_f1", "macro_f1")
    assert [result[key] for key in figures] == [None] * 3
    assert result["per_label"] == {}
    assert [line["round"] for line in metrics(out)] == [0, 1, 2]
    assert all(line["split"] is None and line[key] is None for line in metrics(out) for key in figures)
    assert 0 < result["epsilon"]["mercy"] == metrics(out)[-1]["epsilon"]["mercy"]
    assert Classifier.load(out).labels == LABELS
    assert Experiment.load(out / "experiment.toml").data.name == "none"


def test_one_column_of_classes(base: str, tmp_path: Path) -> None:
    for name in ("grace", "mercy"):
        (tmp_path / name).mkdir()
    table = tmp_path / "kinds.csv"
    table.write_text("text,patient,kind\n" + "".join(f"no effusion {i},p{i},{'fm'[i % 2]}\n" for i in range(30)))
    own = {"label-columns": "kind", "classes": "f,m", "data-path": str(table)}
    run(tmp_path, base, "out", own, data__name="none", data__label_columns="kind", data__classes="m, f")
    assert Classifier.load(tmp_path / "out").labels == ("f", "m")


def test_a_decoder_writes_the_class(base: str, tmp_path: Path) -> None:
    decoder = tiny.save_decoder(tmp_path / "decoder", "llama", max_position_embeddings=128)
    for name in ("grace", "mercy"):
        (tmp_path / name).mkdir()
    table = tmp_path / "kinds.csv"
    table.write_text("text,patient,kind\n" + "".join(f"no effusion {i},p{i},{'fm'[i % 2]}\n" for i in range(30)))
    own = {"data-path": str(table), "model": decoder, "model-sha256": load_base(decoder).fingerprint}
    proposed = {
        "model__name": decoder,
        "model__task": "causal-lm",
        "model__instruction": "No acute effusion.",
        "data__name": "none",
        "data__max_length": 100,
    }
    stated = {"label-columns": "kind", "classes": "f,m"}
    grid, _ = run(tmp_path, base, "out", own | stated, **proposed, data__label_columns="kind", data__classes="m, f")
    assert len(grid.trained) == 4
    classifier = Classifier.load(tmp_path / "out")
    assert classifier.task == CausalLM(("f", "m"), "No acute effusion.")
    assert classifier.predict(["no effusion"]).shape == (1, 2)
    assert json.loads((tmp_path / "out" / "result.json").read_text())["epsilon"]["mercy"] > 0


def test_several_labels_are_not_written_by_a_decoder(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mercy = Mercy(tmp_path, base=base)
    answer = mercy.ask(mercy.request(), **{"model.task": "causal-lm"})
    assert answer["failure"]["code"] == "policy"
    assert "one class for each report" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_a_public_table_with_the_same_labels_is_a_test_set(base: str, tmp_path: Path) -> None:
    public = Mercy(tmp_path / "public", base=base)
    columns = {"data__label_columns": ",".join(LABELS), "data__patient_column": "patient"}
    run(tmp_path, base, "out", data__name="table", data__path=str(public.table), **columns)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["evaluated"] is True
    assert 0 <= result["weighted_f1"] <= 1
    assert set(result["per_label"]) == set(LABELS)
    assert result["reports"]["test"] > 0


@pytest.mark.parametrize("proposed", ["the default", "another order", "one more"])
def test_other_labels_end_the_run_before_anything_is_warmed_or_asked(
    proposed: str, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took five minutes of warm start and a first round, whose failure named the reports."""
    columns = {"another order": "effusion,edema", "one more": "edema,effusion,nodule"}.get(proposed)
    changes = {} if columns is None else {"data__name": "none", "data__label_columns": columns}
    monkeypatch.setattr(run_module, "initial_state", lambda *given: pytest.fail("the warm start began"))
    grid, error = run(tmp_path, base, "out", **changes)
    assert error is not None
    (problem,) = error.problems
    assert problem.startswith("data.label-columns: grace, mercy states other labels")
    for key in ("data.name=none", "data.classes", "data.name=table data.path=FILE", "label-columns"):
        assert key in problem
    assert set(grid.kinds) == {MessageType.QUERY}
    assert not (tmp_path / "out").exists()


def test_the_labels_of_a_hospital_do_not_leave_it_in_words(base: str, tmp_path: Path) -> None:
    grid = InProcessGrid(client.app, [Mercy(tmp_path, base=base).node], {})
    (answer,) = grid.send_and_receive([Message(RecordDict(), dst_node_id=10, message_type=MessageType.QUERY)])
    assert not any(label in str(dict(answer.content["hello"])) for label in LABELS)


def test_none_is_for_the_server_of_real_hospitals(base: str, tmp_path: Path) -> None:
    experiment = small(base, data__name="none", data__label_columns="chexpert", run__out=str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="for a server of real hospitals"):
        federate(experiment)
    with pytest.raises(ConfigError, match="nothing to train on"):
        read_corpus(experiment)
    assert not (tmp_path / "out").exists()


def test_the_labels_that_a_run_states(base: str) -> None:
    own = small(base, data__name="none", data__label_columns=" b, a ")
    assert stated_task(own) == MultiLabel(("b", "a"))
    single = replace(own, data=replace(own.data, label_columns="kind", classes="z, a"))
    assert stated_task(single) == SingleLabel(("a", "z"))
    known = replace(own, data=replace(own.data, label_columns="chexpert"))
    assert stated_task(known) == MultiLabel(CHEXPERT)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"data.name": "none"}, "data.label-columns"),
        ({"data.name": "none", "data.label-columns": "a", "data.path": "/reports.csv"}, "data.path"),
        ({"data.name": "none", "data.classes": "a,b"}, "data.classes"),
        ({"data.name": "none", "data.label-columns": "a,b", "data.classes": "c,d"}, "data.classes"),
        ({"data.name": "table", "data.path": "/t", "data.label-columns": "a,b", "data.classes": "c"}, "data.classes"),
    ],
)
def test_what_contradicts_it_is_named(settings: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Experiment.from_flat(settings)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [key]
