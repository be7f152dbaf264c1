"""The hospital's side: what it answers when things go wrong, and that nothing lives in memory between messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from fedrad import files
from fedrad.certificate.verify import read as read_certificate
from fedrad.config import Experiment
from fedrad.errors import BudgetExhausted, DataError
from fedrad.federation import client, hospital
from fedrad.federation.budget import BudgetMirror
from fedrad.federation.messages import (
    Failure,
    Hello,
    Reply,
    Request,
    StageRequest,
    content_of,
    labels_digest,
    read_answer,
)
from fedrad.federation.secure_rounds import STAGE
from fedrad.federation.state_delta import delta_of
from fedrad.ledger.ledger import Ledger
from fedrad.model.base import load_base
from fedrad.privacy.accounting import epsilon as composed_epsilon
from fedrad.privacy.filter import FILTER, MECHANISM, PLAN
from fedrad.secure.messages import UnmaskRequest
from fedrad.settings import EMBEDDED
from fedrad.simulation import client as simulated_client
from fedrad.simulation import hospitals as simulated
from fedrad.tasks.single_label import SingleLabel
from fedrad.training import corpus as corpus_module
from fedrad.training import local
from fedrad.training.corpus import read_corpus
from fedrad.training.setup import plan_for, set_up, terms_of
from tests.grid import (
    CANARY,
    LABELS,
    InProcessGrid,
    Mercy,
    federate,
    forget,
    posted,
    simulated_nodes,
    small,
    wire_bytes,
)
from tests.model import tiny


@pytest.fixture
def mercy(tmp_path: Path) -> Iterator[Mercy]:
    forget()
    yield Mercy(tmp_path)
    forget()


def code(content: RecordDict) -> str:
    answer = read_answer(content, Reply)
    assert isinstance(answer, Failure), answer
    return answer.code


def spent(mercy: Mercy) -> list[tuple[str, int, int]]:
    """The charges in the hospital's ledger: run, round, steps."""
    with ledger(mercy) as opened:
        return [(row.run, row.round, row.steps) for row in opened.rows()]


def ledger(mercy: Mercy) -> Ledger:
    node = mercy.node
    return Ledger.open(
        Path(node["state-dir"]),
        site="mercy",
        cap=node["epsilon-cap"],
        delta=node.get("delta", 1e-5),
        witness=Path(node["witness-dir"]),
    )


@pytest.mark.parametrize("inside", ["inputs_of", "read_whole_corpus", "set_up", "plan_for", "run_steps", "reply_of"])
def test_the_text_of_an_exception_stays_in_the_hospital(
    inside: str, mercy: Mercy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*args: object, **options: object) -> None:
        try:
            raise KeyError(mercy.texts[0])
        except KeyError as error:
            raise ValueError(f"can't parse {mercy.texts[1]!r}") from error

    monkeypatch.setattr(hospital if inside in ("run_steps", "reply_of") else client, inside, fails)
    left = mercy.ask(mercy.request(round=2))
    assert set(left) == {"failure"}
    assert dict(left.config_records["failure"]) == {"site": "mercy", "round": 2, "code": "internal"}
    assert CANARY.encode() not in wire_bytes(left)
    out, err = capfd.readouterr()
    assert CANARY not in out + err
    assert "lungs" not in out + err
    assert "mercy round 2: ValueError at " in err  # negative control: this is the stream that would show it
    assert "in fails" in err


def test_the_scan_of_the_log_would_find_a_text(
    mercy: Mercy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*args: object) -> None:
        raise DataError(mercy.texts[0])  # our own errors must never do that: their text is logged

    monkeypatch.setattr(client, "inputs_of", fails)
    left = mercy.ask(mercy.request())
    assert CANARY in capfd.readouterr().err
    assert CANARY.encode() not in wire_bytes(left)  # but even then it does not leave


def test_oddities_of_a_hospitals_reports_are_lines_in_its_log(mercy: Mercy, capsys: pytest.CaptureFixture[str]) -> None:
    with mercy.table.open("a") as table:
        table.write(",quux-x,0,0\n")  # a report without text
    assert isinstance(read_answer(mercy.ask(mercy.request()), Reply), Reply)
    said = [line for line in capsys.readouterr().err.splitlines() if "arning" in line]
    assert len(said) == 1
    assert said[0].startswith(f"warning: {mercy.table}: 1 report ")


def test_an_introduction_fails_as_quietly(
    mercy: Mercy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*args: object) -> None:
        raise ValueError(mercy.texts[0])

    monkeypatch.setattr(client, "read_policy", fails)
    assert read_answer(introduced(mercy.node), Reply) == Failure("", 0, "internal")
    assert CANARY not in capfd.readouterr().err


NUMBERED = {"partition-id": 0, "num-partitions": 2}


def introduced(node: dict[str, Any], app: ClientApp = client.app) -> RecordDict:
    grid = InProcessGrid(app, [node], {})
    question = posted(Message(content=RecordDict(), message_type=MessageType.QUERY, dst_node_id=10))
    (answer,) = grid.send_and_receive([question])
    return answer.content


def test_introductions(mercy: Mercy) -> None:
    assert read_answer(introduced(mercy.node), Hello) == Hello("mercy", False, 40, 0, labels_digest(LABELS))
    assert read_answer(introduced(NUMBERED, simulated_client.app), Hello) == Hello("", True, 0, 0)
    assert read_answer(introduced({}), Reply) == Failure("", 0, "config")
    # A hospital never passes for a simulated one because of a key too many.
    assert read_answer(introduced({**mercy.node, "partition-id": 0}), Reply) == Failure("", 0, "config")


def test_errors_leave_as_codes(mercy: Mercy) -> None:
    ask, request = mercy.ask, mercy.request
    assert code(ask(request(site="saint-elsewhere"))) == "config"
    assert code(ask(request(), **{"privacy.epsilon": 0.0})) == "policy"
    assert code(ask(request(), **{"privacy.delta": 1e-4})) == "policy"
    assert code(ask(request(), **{"privacy.epsilom": 1.0})) == "config"
    assert code(ask(RecordDict({"request": ConfigRecord({"site": "mercy"})}))) == "federation"
    mercy.node["allow-seeded"] = False
    assert code(ask(request())) == "policy"
    assert not Path(mercy.node["state-dir"]).exists()  # nothing of it came as far as the ledger
    mercy.node["data-path"] = str(mercy.folder / "nothing.csv")
    assert code(ask(request(), **{"privacy.noise": "system"})) == "data"
    assert spent(mercy) == []


def never(*args: object, **options: object) -> None:
    raise AssertionError("a report was read")


def test_what_the_server_proposes_is_judged_before_a_report_is_read(
    mercy: Mercy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its choice of columns or of a tokenizer was a free question about the reports; so was every later refusal."""
    monkeypatch.setattr(client, "read_whole_corpus", never)
    ask, request = mercy.ask, mercy.request
    for labels in (("patient",), ("text",), ("effusion", "edema", "nodule"), ("edema",)):
        assert code(ask(request(labels=labels))) == "policy"
    other = tiny.save(mercy.folder / "trojan", "bert", seed=3)
    assert code(ask(request(), **{"model.name": other})) == "policy"
    assert code(ask(request(), **{"model.name": "/no/such/folder"})) == "policy"
    assert code(ask(request(), **{"train.learning-rate": 1e-30})) == "preflight"
    assert code(ask(request(state=delta_of(spoiled(mercy.state, "scale", float("nan")))))) == "refused-reply"
    mercy.node["model-sha256"] = "0" * 64
    assert code(ask(request())) == "policy"
    mercy.node["model-sha256"] = ""
    assert code(ask(request())) == "config"
    del mercy.node["model-sha256"], mercy.node["model"]
    assert code(ask(request(), **{"model.name": EMBEDDED, "lora.layers": 99})) == "model"
    assert spent(mercy) == []
    # Control: a question that nothing is wrong with does come to the reports.
    mercy.node |= {
        "model": mercy.experiment.model.name,
        "model-sha256": load_base(mercy.experiment.model.name).fingerprint,
    }
    assert code(ask(request())) == "internal"


def test_an_unforeseen_error_is_answered_once(
    mercy: Mercy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(client, "inputs_of", lambda *args: 1 / 0)
        assert code(mercy.ask(mercy.request())) == "internal"
    note = Path(mercy.node["state-dir"]) / "stopped"
    assert "'run 7, round 1': ZeroDivisionError at" in note.read_text()
    assert note.stat().st_mode & 0o777 == 0o600
    with monkeypatch.context() as watched:
        watched.setattr(client, "read_whole_corpus", never)
        assert code(mercy.ask(mercy.request())) == "stopped"  # and not "internal": nothing was read
    assert "remove the file" in capfd.readouterr().err
    assert spent(mercy) == []
    note.unlink()
    assert isinstance(read_answer(mercy.ask(mercy.request()), Reply), Reply)


def test_nothing_that_the_steps_raise_is_taken_for_the_end_of_the_round(
    mercy: Mercy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(*args: object, **named: object) -> None:
        raise StopIteration

    monkeypatch.setattr(hospital, "run_steps", ends)
    assert code(mercy.ask(mercy.request())) == "internal"
    assert (Path(mercy.node["state-dir"]) / "stopped").exists()
    assert code(mercy.ask(mercy.request())) == "stopped"


def test_the_end_of_the_process_closes_the_latch_as_well(mercy: Mercy, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*args: object) -> None:
        raise SystemExit(1)

    with monkeypatch.context() as broken:
        broken.setattr(client, "inputs_of", dies)
        with pytest.raises(SystemExit):
            mercy.ask(mercy.request(run="7\nsafe to remove"))
    note = (Path(mercy.node["state-dir"]) / "stopped").read_text()
    assert len(note.splitlines()) == 1  # what the server sends is quoted
    assert "begun; if this line is the last" in note
    assert code(mercy.ask(mercy.request())) == "stopped"
    # Control: a round that ends as foreseen leaves it open.
    (Path(mercy.node["state-dir"]) / "stopped").unlink()
    assert isinstance(read_answer(mercy.ask(mercy.request()), Reply), Reply)
    assert not (Path(mercy.node["state-dir"]) / "stopped").exists()


def test_a_question_that_waited_for_the_lock_finds_the_latch_closed(
    mercy: Mercy, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = client.plan_for

    def meanwhile(*args: Any) -> Any:
        (Path(mercy.node["state-dir"]) / "stopped").write_text("by another question")
        return real(*args)

    monkeypatch.setattr(client, "plan_for", meanwhile)
    monkeypatch.setattr(client, "read_whole_corpus", never)
    assert code(mercy.ask(mercy.request())) == "stopped"


def test_the_budget_is_judged_before_a_report_is_read(mercy: Mercy, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        assert isinstance(read_answer(mercy.ask(mercy.request(round=number)), Reply), Reply)
    monkeypatch.setattr(client, "read_whole_corpus", never)
    assert code(mercy.ask(mercy.request(run="8"))) == "budget-exhausted"
    assert code(mercy.ask(mercy.request(round=1))) == "federation"  # an older round
    assert not (Path(mercy.node["state-dir"]) / "stopped").exists()


def test_a_hospital_divides_and_counts_nothing_whatever_the_server_proposes(
    mercy: Mercy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To deal 30 patients out to 31 hospitals failed before a charge: a server could count patients for nothing."""
    monkeypatch.setattr(corpus_module, "partition", never)
    monkeypatch.setattr(corpus_module, "split_by_patient", never)
    proposed = {"sites.count": 1000, "sites.alone": 1, "sites.partition": "dirichlet"}
    assert isinstance(read_answer(mercy.ask(mercy.request(), **proposed), Reply), Reply)


def test_a_hospitals_reports_are_never_in_one_pass(mercy: Mercy, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    real = local.leaf_gradients

    def watched(model: Any, trainable: Any, inputs: Any, *rest: Any) -> Any:
        rows.append(len(inputs[0]))
        return real(model, trainable, inputs, *rest)

    monkeypatch.setattr(local, "leaf_gradients", watched)
    assert isinstance(read_answer(mercy.ask(mercy.request()), Reply), Reply)
    assert set(rows) == {1}
    # Control: by default in a simulation, or where the hospital says so, they share one.
    mercy.node |= {"isolate-reports": False, "pad-passes": False}
    assert isinstance(read_answer(mercy.ask(mercy.request(round=2)), Reply), Reply)
    assert max(rows) > 1


def test_classes_that_were_not_stated(mercy: Mercy) -> None:
    """A report of a rare class must not decide, by the server's choice of classes, whether the hospital takes part."""
    mercy.table.write_text("text,patient,kind\nno effusion,a,f\nedema,b,m\nnormal,c,x\n")
    mercy.node |= {"label-columns": "kind", "classes": "f,m", "declared-size": 3, "delta": 1e-5}
    single = set_up(mercy.experiment, SingleLabel(("f", "m"))).classifier.state()
    for labels in (("f", "m"), ("f", "m", "x")):
        answer = code(mercy.ask(mercy.request(labels=labels, state=delta_of(single))))
        assert answer == ("data" if labels == ("f", "m") else "policy")
    # Nor must it decide by being the only one of its class: "o" does not occur, and 0 and 1 are names like others.
    for classes in (("f", "m", "o", "x"), ("0", "1")):
        mercy.table.write_text("text,patient,kind\nno effusion,a,0\nedema,b,0\n") if "0" in classes else None
        mercy.node["classes"] = ",".join(classes)
        state = set_up(mercy.experiment, SingleLabel(classes)).classifier.state()
        run = mercy.request(run=str(len(classes)), labels=classes, state=delta_of(state))
        assert isinstance(read_answer(mercy.ask(run), Reply), Reply)


def spoiled(state: dict[str, Tensor], name: str, value: float) -> dict[str, Tensor]:
    tensor = state[name].clone()
    tensor.view(-1)[-1] = value
    return {**state, name: tensor}


def test_the_hospital_checks_the_servers_tensors(mercy: Mercy) -> None:
    state = mercy.state
    wrong = [
        spoiled(state, "head.weight", float("nan")),
        spoiled(state, "scale", float("inf")),
        {**state, "head.bias": state["head.bias"].double()},
        {**state, "head.weight": state["head.weight"].T.contiguous()},
        {**state, "extra": torch.zeros(1)},
        {name: tensor for name, tensor in state.items() if name != "centre"},
    ]
    assert [code(mercy.ask(mercy.request(state=delta_of(state)))) for state in wrong] == ["refused-reply"] * len(wrong)
    assert not Path(mercy.node["state-dir"]).exists()


def test_a_busy_and_a_damaged_ledger(mercy: Mercy) -> None:
    with ledger(mercy):
        assert code(mercy.ask(mercy.request())) == "ledger-busy"
    assert isinstance(read_answer(mercy.ask(mercy.request()), Reply), Reply)
    (Path(mercy.node["state-dir"]) / "ledger.sqlite").unlink()
    assert code(mercy.ask(mercy.request(round=2))) == "ledger-tampered"


def opened_by(module: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of every ledger that is opened from now on."""
    seen: list[dict[str, Any]] = []
    real = module.Ledger.open
    monkeypatch.setattr(module.Ledger, "open", lambda *at, **options: (seen.append(options), real(*at, **options))[1])
    return seen


def test_a_real_hospitals_ledger_and_state_wait_for_the_disk(mercy: Mercy, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, synced = opened_by(client, monkeypatch), []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    assert isinstance(read_answer(mercy.ask(mercy.request()), Reply), Reply)
    assert [options.get("durable", True) for options in seen] == [True]
    # The state, after the witness of the charge; then the witness of the answer that may leave, and the certificate
    # with its key.
    state, witness = Path(mercy.node["state-dir"]), Path(mercy.node["witness-dir"])
    assert synced[-4:] == [state, witness, state, state]


def test_every_round_of_a_real_hospital_is_checked_and_one_of_each_kind_of_a_simulated_one(
    mercy: Mercy, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Any] = []
    real = client.check_before_first_step
    for module in (client, simulated):
        monkeypatch.setattr(
            module, "check_before_first_step", lambda *given: (checked.append(given[1:]), real(*given))[1]
        )
    for number in (1, 2):
        assert isinstance(read_answer(mercy.ask(mercy.request(round=number)), Reply), Reply)
    assert len(checked) == 2

    checked.clear()
    experiment = small(mercy.experiment.model.name, sites__count=3, run__out=str(mercy.folder / "run"))
    federate(experiment)
    plans = set(checked)
    assert len(checked) == len(plans) > 1  # once for each plan, though there are six rounds at three sites
    federate(Experiment.from_flat({**experiment.flat(), "run.out": str(mercy.folder / "again")}))
    assert len(checked) == 2 * len(plans)  # another run has a model of its own
    federate(Experiment.from_flat({**experiment.flat(), "run.out": str(mercy.folder / "rate"), "train.momentum": 0.5}))
    assert len(set(checked)) == 2 * len(plans)  # another recipe


def test_a_repeated_round_gets_the_same_bytes_and_costs_nothing(mercy: Mercy) -> None:
    first = mercy.ask(mercy.request())
    charged = spent(mercy)
    assert charged == [("7", 1, 2)]
    forget()
    assert wire_bytes(mercy.ask(mercy.request())) == wire_bytes(first)
    # For another adapter it would be a second look at the reports with the same noise.
    other = spoiled(mercy.state, "head.bias", 1.0)
    assert code(mercy.ask(mercy.request(state=delta_of(other)))) == "federation"
    assert isinstance(read_answer(mercy.ask(mercy.request(round=2)), Reply), Reply)
    assert code(mercy.ask(mercy.request())) == "federation"  # an older round
    assert spent(mercy) == [("7", 1, 2), ("7", 2, 2)]


def test_the_cap_bounds_all_runs_together(mercy: Mercy) -> None:
    """The server proposes epsilon 8 in each of two runs; the hospital's cap is 4, once and for all."""
    replies = [read_answer(mercy.ask(mercy.request(round=number)), Reply) for number in (1, 2)]
    assert all(isinstance(reply, Reply) and reply.epsilon <= 4.0 for reply in replies)
    before = spent(mercy)
    assert code(mercy.ask(mercy.request(run="8"))) == "budget-exhausted"
    assert code(mercy.ask(mercy.request(run="9"), **{"privacy.epsilon": 0.5})) == "budget-exhausted"
    assert spent(mercy) == before
    with ledger(mercy) as opened, pytest.raises(BudgetExhausted):
        opened.record_intent(
            run="8",
            round=1,
            plan=plan_for(mercy.experiment, 40, replace(terms_of(mercy.experiment), epsilon=0.5)),
            steps=2,
        )
    assert 3.9 < opened.view.epsilon <= 4.0
    # Negative control: it is the hospital's cap, and not something about these runs, that refuses.
    mercy.node["epsilon-cap"] = 20.0
    assert isinstance(read_answer(mercy.ask(mercy.request(run="8")), Reply), Reply)


def test_nothing_is_kept_in_memory_between_rounds(tmp_path: Path) -> None:
    """Two sites on one node, two rounds: with the process forgetting everything between any two messages or not."""
    experiment = small(tiny.save(tmp_path / "base", "bert"), sites__count=2, data__reports=40)
    task = read_corpus(experiment).task
    start = set_up(experiment, task).classifier.state()

    def run(folder: Path, *, forgetful: bool) -> list[bytes]:
        grid = InProcessGrid(simulated_client.app, simulated_nodes(1), experiment.flat())
        state, replies = start, []
        for number in (1, 2):
            for index in (0, 1):
                if forgetful:
                    forget()
                fields: dict[str, Any] = {"run": "1", "labels": task.labels, "directory": str(folder), "rounds": 2}
                request = Request(site=f"site-{index:03d}", index=index, round=number, state=delta_of(state), **fields)
                question = Message(content=content_of(request), message_type=MessageType.TRAIN, dst_node_id=10)
                replies.append(grid.send_and_receive([question])[0].content)
            answer = read_answer(replies[-1], Reply)
            assert isinstance(answer, Reply), answer
            state = {**state, **answer.adapter}
        return [wire_bytes(reply) for reply in replies]

    kept = run(tmp_path / "kept", forgetful=False)
    assert run(tmp_path / "forgotten", forgetful=True) == kept
    assert len(set(kept)) == 4


# Two apps: a hospital's, which has a policy, and a simulation's, which trusts the server


def messages_for(mercy: Mercy) -> dict[str, Message]:
    """What a server may ask, as it would ask a simulated hospital: with an index, and a folder of its own choice."""
    where = {"index": 0, "directory": str(mercy.folder / "chosen by the server")}
    roster = StageRequest(run="7", site="mercy", round=1, **where, body=UnmaskRequest(("mercy", "other"), {}))
    content = {
        MessageType.QUERY: RecordDict(),
        MessageType.TRAIN: content_of(mercy.request(**where)),
        STAGE: content_of(roster),
    }
    return {kind: Message(content=records, message_type=kind, dst_node_id=10) for kind, records in content.items()}


def asked(app: ClientApp, node: dict[str, Any], mercy: Mercy, kind: str) -> RecordDict:
    # Of the server's choice: reports to read, and everything else in the run configuration.
    config = mercy.experiment.flat() | {"data.path": str(mercy.table)}
    (answer,) = InProcessGrid(app, [node], config).send_and_receive([posted(messages_for(mercy)[kind])])
    return answer.content


@pytest.mark.parametrize("kind", [MessageType.QUERY, MessageType.TRAIN, STAGE])
@pytest.mark.parametrize("process", ["flwr-clientapp", "flwr-simulation", "pytest"])
def test_a_hospitals_app_refuses_a_simulations_context(
    mercy: Mercy, kind: str, process: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever the process is called: a node without a policy gets no answer from a hospital's app."""
    monkeypatch.setattr("sys.argv", [f"/usr/bin/{process}"])
    answer = read_answer(asked(client.app, NUMBERED, mercy, kind), Reply)
    assert isinstance(answer, Failure)
    assert answer.code == "policy"
    assert "this is a hospital's app, and the node is numbered as a simulation's are" in capfd.readouterr().err
    assert not (mercy.folder / "chosen by the server").exists()


@pytest.mark.parametrize("kind", [MessageType.QUERY, MessageType.TRAIN, STAGE])
def test_a_simulations_app_refuses_a_hospitals_node(
    mercy: Mercy, kind: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Flower's examples number real nodes as well; such a node would read what the server names, without a policy."""
    for node in (mercy.node, {**mercy.node, "partition-id": 0}, {}):
        answer = read_answer(asked(simulated_client.app, node, mercy, kind), Reply)
        assert isinstance(answer, Failure)
        assert answer.code == "policy"
        assert "this app simulates hospitals" in capfd.readouterr().err
    monkeypatch.setattr("sys.argv", ["/usr/bin/flwr-clientapp", "--token", "x"])
    answer = read_answer(asked(simulated_client.app, NUMBERED, mercy, kind), Reply)
    assert isinstance(answer, Failure)
    assert answer.code == "policy"
    assert not (mercy.folder / "chosen by the server").exists()


def test_a_second_run_that_the_server_chose_is_counted_by_the_filter_and_the_server_agrees(mercy: Mercy) -> None:
    mirror = BudgetMirror()
    for run, epsilon, rule in (("7", 1.0, PLAN), ("8", 0.5, FILTER)):
        reply = read_answer(mercy.ask(mercy.request(run=run), **{"privacy.epsilon": epsilon}), Reply)
        assert isinstance(reply, Reply)
        assert reply.rule == rule
        mirror = mirror.book(reply, 1e-5)
    with ledger(mercy) as opened:
        assert mirror.charges == {"mercy": opened.view.account}
        assert mirror.booked == {"mercy": opened.view.epsilon}
        assert opened.view.epsilon > composed_epsilon(opened.view.events, 1e-5)


def test_a_hospital_with_fixed_noise_answers_every_run_with_it(mercy: Mercy) -> None:
    mercy.node |= {"batch": 8, "noise-multiplier": 4.0}
    for run, epsilon in (("7", 1.0), ("8", 3.0)):
        reply = read_answer(mercy.ask(mercy.request(run=run), **{"privacy.epsilon": epsilon}), Reply)
        assert isinstance(reply, Reply)
        assert reply.rule == MECHANISM
        assert {(e.sampling_rate, e.noise_multiplier) for e in reply.events} == {(8 / 40, 4.0)}
    assert code(mercy.ask(mercy.request(run="9"), **{"privacy.epsilon": 1e-3})) == "plan"
    del mercy.node["noise-multiplier"]  # the ledger knows better than a policy that was changed
    assert code(mercy.ask(mercy.request(run="9"))) == "ledger"
    assert len(spent(mercy)) == 2


def test_a_hospital_trains_on_privatised_texts_by_its_own_choice(mercy: Mercy, monkeypatch: pytest.MonkeyPatch) -> None:
    state, seen = Path(mercy.node["state-dir"]), []
    read = client.inputs_of
    monkeypatch.setattr(
        client, "inputs_of", lambda *given: (seen.append(given[1].reports.select(given[2])["text"][:]), read(*given))[1]
    )
    mercy.node |= {"privatise": "uniform", "privatise-epsilon": 20.0}
    for number in (1, 2):
        assert isinstance(read_answer(mercy.ask(mercy.request(round=number)), Reply), Reply)
        forget()
    (file,) = (state / "privatised").glob("*.arrow")
    kept = Dataset.from_file(str(file))["text"][:]
    assert seen == [kept, kept]
    assert CANARY not in " ".join(kept)
    (certificate,) = state.glob("certificate-*.json")
    assert read_certificate(certificate)[1]["texts"]["in_all_runs"]

    # The server proposes seeded noise here, and must not know the randomness of the texts.
    (draw,) = json.loads((state / "privatised" / "draws.json").read_text())["draws"].values()
    assert draw["figures"]["noise"] == "system"
    for changed in ({"privatise-epsilon": 30.0}, {"privatise-task": "heart"}):  # not within a run
        mercy.node, before = mercy.node | changed, mercy.node
        assert code(mercy.ask(mercy.request(round=2))) == "federation"
        mercy.node = before

    file.write_bytes(file.read_bytes()[:-8])
    assert code(mercy.ask(mercy.request(round=2))) == "data"


def test_a_new_site_on_the_same_reports_is_no_new_budget(
    mercy: Mercy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Once by the path, before a report is read; once by the texts, in a copy that was exported anew."""
    assert isinstance(read_answer(mercy.ask(mercy.request()), Reply), Reply)
    renamed = {**mercy.node, "site": "grace", "state-dir": str(mercy.folder / "grace")}
    mercy.node = renamed
    with monkeypatch.context() as watched:
        watched.setattr(client, "read_whole_corpus", never)
        assert code(mercy.ask(mercy.request(site="grace"))) == "ledger"
    assert not Path(renamed["state-dir"], "ledger.sqlite").exists()

    copy = mercy.folder / "copy.csv"
    header, *rows = mercy.table.read_text().splitlines()
    copy.write_text("\n".join([header, *(row.upper() for row in reversed(rows))]))
    mercy.node = {**renamed, "data-path": str(copy)}
    assert code(mercy.ask(mercy.request(site="grace"))) == "ledger"
    said = capfd.readouterr().err
    assert said.count("of site 'mercy', whose ledger is in") == 2
    assert CANARY not in said
    with Ledger.open(Path(renamed["state-dir"]), site="grace", cap=4.0, delta=1e-5) as opened:
        assert opened.rows() == []  # refused before it was charged
    assert not Path(renamed["state-dir"], "stopped").exists()

    mercy.node = {**mercy.node, "state-dir": str(mercy.folder / "agreed"), "shares-reports-with": "mercy"}
    assert isinstance(read_answer(mercy.ask(mercy.request(site="grace")), Reply), Reply)
    # Where a site named its reports once, it goes on under its name, wherever they move.
    moved = mercy.table.rename(mercy.folder / "moved.csv")
    mercy.node = {**renamed, "site": "mercy", "state-dir": str(mercy.folder / "state"), "data-path": str(moved)}
    assert isinstance(read_answer(mercy.ask(mercy.request(round=2)), Reply), Reply)
