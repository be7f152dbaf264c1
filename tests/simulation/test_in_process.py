"""``fedrad simulate`` in one process: its own apps, honest ends, and nothing that stays for the next run."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from safetensors.torch import load_file

from fedrad import Classifier
from fedrad.config import Experiment
from fedrad.corpora import CT_RATE
from fedrad.errors import ConfigError, DataError, FederationError, QuorumLost
from fedrad.federation import hospital, server
from fedrad.simulation import centralized, simulate
from fedrad.simulation import client as simulated_client
from fedrad.simulation.apps import app_defaults, importable, load_apps
from fedrad.simulation.grid import InProcessGrid
from fedrad.simulation.in_process import SignsOfLife, run_in_process
from fedrad.training import warm_start
from fedrad.training.site import open_round
from tests import small

SECRET = "zyzzyva"
FILES = ("adapter_model.safetensors", "head.safetensors")


@pytest.fixture(autouse=True)
def _few_centring_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_start, "_CENTRING_REPORTS", 40)


def settings(**changes: object) -> dict[str, object]:
    """Three hospitals, two rounds of two steps, a tiny model."""
    flat: dict[str, object] = {
        "model.name": small.model_folder(),
        "data.bank": "chest-xray",
        "data.reports": 90,
        "data.max-length": 40,
        "lora.rank": 2,
        "privacy.noise": "seeded",
        "train.rounds": 2,
        "train.local-steps": 2,
        "train.batch": 8,
        "train.threads": 1,
        "train.warm-start": "none",
        "sites.count": 3,
    }
    return flat | {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}


def run(out: Path, app: str = "mimic", **changes: object) -> Path:
    simulate.simulate(app, [f"{key}={json.dumps(value)}" for key, value in settings(**changes).items()], out)
    return out


def read(out: Path, name: str) -> Any:
    return json.loads((out / name).read_text())


# What comes out


def test_the_hospitals_read_the_reports_of_the_bank(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "run", data__bank="chest_ct")

    assert f"labels: {', '.join(CT_RATE)}" in capfd.readouterr().out
    assert list(read(tmp_path / "run", "result.json")["positives"]) == list(CT_RATE)


def test_a_run_says_what_flwr_run_says_and_no_more(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "run")

    said, warned = capfd.readouterr()
    lines = said.splitlines()
    assert lines[0].startswith("test set: ")
    assert lines[1] == "3 hospitals: site-000, site-001, site-002"
    assert f"run directory: {tmp_path / 'run'}" in lines
    assert [line[:9] for line in lines if line.startswith("round")] == ["round 0/2", "round 1/2", "round 2/2"]
    assert all(word in said for word in ("weighted F1", "epsilon site-002", "seeded: simulation only"))
    assert "ROUND" not in said + warned
    assert sorted(read(tmp_path / "run", "result.json")["epsilon"]) == ["site-000", "site-001", "site-002"]


def test_all_hospitals_in_one_pass_by_the_same_command(tmp_path: Path) -> None:
    changes = [f"{key}={json.dumps(value)}" for key, value in settings().items()]
    simulate.simulate("mimic", changes, tmp_path / "fused", grid="fused")
    assert sorted(read(tmp_path / "fused", "result.json")["epsilon"]) == ["site-000", "site-001", "site-002"]


def test_a_long_round_gives_signs_of_life(capsys: pytest.CaptureFixture[str]) -> None:
    tell = SignsOfLife(every=0.0)
    for done in (1, 2, 3):
        tell(done, 3)
    assert capsys.readouterr().out == "  1 of 3 hospitals have answered\n  2 of 3 hospitals have answered\n"
    patient = SignsOfLife(every=1e9)
    patient(1, 3)
    assert capsys.readouterr().out == ""


def test_one_hospital_is_centralized_to_the_last_bit(tmp_path: Path) -> None:
    """However the steps are cut into rounds; ``flwr run`` comes to the same bits as this (``test_real_runs.py``)."""
    warm = {"train__warm_start": "synthetic", "train__warm_reports": 64, "train__warm_epochs": 1}
    one = run(tmp_path / "one", sites__count=1, **warm)
    texts = ["Large left pleural effusion, edema.", "No acute effusion.", "Heart size is normal."]
    predicted = Classifier.load(one).predict(texts)

    for name, cut in (("same", {}), ("together", {"train__rounds": 1, "train__local_steps": 4})):
        changes = {"sites__count": 1, "run__out": str(tmp_path / name), **warm, **cut}
        central, directory = centralized.train(Experiment.from_flat(settings(**changes)))

        for file in FILES:
            assert small.same(load_file(one / "adapter" / file), load_file(directory / "adapter" / file))
        assert read(one, "result.json")["epsilon"] == central.epsilon
        assert np.array_equal(Classifier.load(directory).predict(texts), predicted)


def test_two_runs_in_one_process_know_nothing_of_each_other(tmp_path: Path) -> None:
    """Another run in between, of another shape and with other seeds, changes nothing."""
    path, level = list(sys.path), logging.getLogger("flwr").level
    first = run(tmp_path / "first")
    run(tmp_path / "between", sites__count=2, lora__rank=4, train__seed=3, train__momentum=0.5, data__seed=5)
    again = run(tmp_path / "again")

    for file in FILES:
        assert small.same(load_file(first / "adapter" / file), load_file(again / "adapter" / file))
        assert not small.same(load_file(first / "adapter" / file), load_file(tmp_path / "between" / "adapter" / file))
    assert (first / "metrics.jsonl").read_text() == (again / "metrics.jsonl").read_text()
    assert [name for name in sys.modules if name.partition(".")[0] == "mimic"] == []
    assert (sys.path, logging.getLogger("flwr").level) == (path, level)


# How it ends when something fails


def failing(site: str, error: Exception) -> Callable[..., Any]:
    def fails(directory: Path, *rest: Any) -> Any:
        if directory.name == site:
            raise error
        return open_round(directory, *rest)

    return fails


def test_a_failed_hospital_is_absent_and_its_text_stays_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hospital, "open_round", failing("site-001", ValueError(SECRET)))

    run(tmp_path / "run", sites__quorum=2)

    said, warned = capfd.readouterr()
    assert sorted(read(tmp_path / "run", "result.json")["epsilon"]) == ["site-000", "site-002"]
    assert "site-001" in said
    assert "ValueError at" in warned
    assert SECRET not in said + warned


def test_a_lost_quorum_ends_the_run_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hospital, "open_round", failing("site-001", DataError("a row of the table is gone")))

    with pytest.raises(QuorumLost, match=r"round 1: 2 of 3 .*site-001: data"):
        run(tmp_path / "run", sites__quorum=3)

    assert not (tmp_path / "run" / "result.json").exists()


def test_a_run_that_could_not_begin_leaves_nothing(tmp_path: Path) -> None:
    missing = {"data__name": "table", "data__path": str(tmp_path / "no.csv"), "data__label_columns": "edema"}
    with pytest.raises(DataError, match=r"no\.csv: is not there"):
        run(tmp_path / "run", **missing)
    assert not (tmp_path / "run").exists()


def test_the_exit_code_of_a_run_that_fails(tmp_path: Path) -> None:
    sets = [f"--set={key}={json.dumps(value)}" for key, value in settings(strategy__name="nonexistent").items()]
    command = [sys.executable, "-m", "fedrad", "simulate", "mimic", *sets, "--out", "results"]

    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert ended.returncode == ConfigError.exit_code
    assert 'strategy.name = "nonexistent": must be one of' in ended.stderr
    assert "Traceback" not in ended.stderr


# Other people's apps


THEIR_CLIENT = "from fedrad.simulation.client import app"


def app(folder: Path, *, server: str, client: str = "", components: str | None = None) -> Path:
    """An app folder with two modules at its top, as small apps have them."""
    folder.mkdir()
    (folder / "their_server.py").write_text(textwrap.dedent(server))
    (folder / "their_client.py").write_text(textwrap.dedent(client or THEIR_CLIENT))
    named = components or 'serverapp = "their_server:app"\nclientapp = "their_client:app"\n'
    text = f"[tool.flwr.app.components]\n{named}\n[tool.flwr.app.config]\n"
    values = app_defaults(Path(__file__).parents[2] / "simulations" / "mimic")
    (folder / "pyproject.toml").write_text(text + "".join(f"{key} = {json.dumps(v)}\n" for key, v in values.items()))
    return folder


MINE = """
    from flwr.serverapp import ServerApp
    app = ServerApp()
    @app.main()
    def main(grid, context):
        {body}
"""


def test_the_apps_own_modules_are_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = 'print("{0}", len(list(grid.get_node_ids())), context.run_config["privacy.epsilon"])'
    for name in ("one", "two"):  # with modules of the same names
        folder = app(tmp_path / name, server=MINE.format(body=body.format(name)))
        simulate.simulate(str(folder), ["sites.count=5", "privacy.epsilon=3"], tmp_path / "out")

    assert capsys.readouterr().out == "one 5 3.0\ntwo 5 3.0\n"


def test_a_shipped_app_is_the_librarys() -> None:
    folder = Path(__file__).parents[2] / "simulations" / "openi"
    with importable(folder):
        assert load_apps(folder) == (server.app, simulated_client.app)


@pytest.mark.parametrize(
    ("components", "problem"),
    [
        ('serverapp = "their_server:app"', "clientapp: must name a module and an object"),
        ('serverapp = "their_server"', "serverapp: must name a module and an object"),
        ("serverapp = 3", "serverapp: must name a module and an object"),
        ('serverapp = "missing_module:app"', "there is no module missing_module"),
        ('serverapp = "their_client:app"', "their_client:app is no ServerApp"),
        ('serverapp = "their_server:other"', "their_server:other is no ServerApp"),
        ('serverapp = "broken:app"', r"broken can't be imported: ValueError at .*broken.py:1"),
        ('serverapp = "ends:app"', r"ends can't be imported: SystemExit at"),
        ('serverapp = "no python:app"', r"there is no module no python"),
    ],
)
def test_an_app_that_cant_be_loaded_says_why(tmp_path: Path, components: str, problem: str) -> None:
    folder = app(tmp_path / "app", server=MINE.format(body="pass"), components=components)
    (folder / "broken.py").write_text(f"raise ValueError({SECRET!r})")
    (folder / "ends.py").write_text("import sys\nsys.exit(0)")

    with pytest.raises(ConfigError, match=problem) as raised:
        simulate.simulate(str(folder), out=tmp_path / "out")

    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("text", ["", "[tool.flwr]", "[[", "[tool.flwr.app]\nconfig = 3"])
def test_a_folder_that_is_no_flower_app_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)

    with pytest.raises(ConfigError, match=r"pyproject\.toml"):
        simulate.simulate(str(tmp_path))


@pytest.mark.parametrize(
    ("body", "kind"), [(f"raise KeyError({SECRET!r})", "KeyError"), ("raise SystemExit(0)", "SystemExit")]
)
def test_a_server_that_breaks_is_a_failed_run(tmp_path: Path, body: str, kind: str) -> None:
    folder = app(tmp_path / "app", server=MINE.format(body=body))

    with pytest.raises(FederationError, match=rf"{kind} in the ServerApp at .*their_server\.py:6") as raised:
        run_in_process(folder, Experiment())

    assert SECRET not in str(raised.value)


# The grid itself


def asked(grid: InProcessGrid, content: RecordDict, node: int, kind: str = MessageType.TRAIN) -> Message:
    (reply,) = grid.send_and_receive([Message(content, node, kind)])
    return reply


def counting() -> ClientApp:
    """Counts in its context, changes what it was sent, and fails at the word."""
    their = ClientApp()

    @their.train()
    def train(message: Message, context: Context) -> Message:
        fields = message.content.config_records["fields"]
        before = context.state.config_records.get("count", ConfigRecord({"n": 0}))
        context.state["count"] = ConfigRecord({"n": int(before["n"]) + 1})  # type: ignore[arg-type]
        context.run_config["mine"] = 1
        fields["list"].append(9)  # type: ignore[union-attr]
        if fields["fail"]:
            raise ValueError(SECRET)
        told = {"n": context.state.config_records["count"]["n"], "part": context.node_config["partition-id"]}
        return Message(RecordDict({"told": ConfigRecord(told)}), reply_to=message)

    return their


def content(fail: bool = False) -> RecordDict:
    return RecordDict({"fields": ConfigRecord({"fail": fail, "list": [1, 2]})})


def test_a_node_keeps_its_state_as_flowers_do_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    grid = InProcessGrid(counting(), [{"partition-id": 0}, {"partition-id": 1}], {})
    first, second = grid.get_node_ids()
    sent = content()

    replies = [asked(grid, sent, node) for node in (first, second, first)]
    failed = asked(grid, content(fail=True), first)
    last = asked(grid, sent, first)

    told = [dict(reply.content.config_records["told"]) for reply in [*replies, last]]
    assert told == [{"n": 1, "part": 0}, {"n": 1, "part": 1}, {"n": 2, "part": 0}, {"n": 3, "part": 0}]
    assert sent == content()  # the nodes changed copies of their own
    assert (failed.error.code, failed.metadata.src_node_id) == (2, first)
    assert SECRET not in str(failed) + "".join(capfd.readouterr())
    assert grid.run_config == {}


def test_a_node_that_is_not_there_answers_with_an_error() -> None:
    grid = InProcessGrid(counting(), [], {})

    assert asked(grid, content(), 99).error.code == 5
    assert list(grid.get_node_ids()) == list(grid.get_nodes()) == []


def test_replies_are_pulled_once_and_the_run_is_named() -> None:
    grid = InProcessGrid(counting(), [{"partition-id": 0}], {}, run_id=77)
    question = grid.create_message(content(), MessageType.TRAIN, grid.get_node_ids()[0], "1")

    (number,) = grid.push_messages([question])

    assert [reply.metadata.reply_to_message_id for reply in grid.pull_messages([number, "unknown"])] == [number]
    assert grid.pull_messages([number]) == []
    assert (question.metadata.run_id, grid.run.run_id) == (77, 77)


def test_one_hospital_alone_is_no_federation(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sites.alone: for `fedrad centralized`"):
        run(tmp_path / "run", sites__alone=1)
    assert not (tmp_path / "run").exists()
