"""One real hospital, asked by a server that breaks the protocol: no stage is answered twice or on other terms."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrad import files
from fedrad.errors import SecureAggregationRefusal
from fedrad.federation import hospital as hospital_module
from fedrad.federation import secure_hospital
from fedrad.federation.messages import IN_CLEAR, Opening, Reply, StageRequest, content_of, read_answer
from fedrad.federation.secure_hospital import bound_run
from fedrad.secure.fixed_point import DEFAULT_BOUND
from fedrad.secure.messages import KeyAdvert, Unmasking, UnmaskRequest
from fedrad.training.site import close_round
from tests.secure_run import One, code, five, run


def test_no_stage_is_answered_twice(one: One) -> None:
    inbox = one.share()
    assert code(one.open()) == "secure-aggregation"
    assert code(one.stage(one.roster)) == "secure-aggregation"
    first = read_answer(one.train(inbox), Reply)
    assert isinstance(first, Reply)
    assert not first.adapter
    assert len(first.masked) == 8 * one.setup.entries
    assert one.charges == 1
    assert code(one.train(inbox)) == "secure-aggregation"
    assert one.charges == 1  # refused before it was charged
    revealed = read_answer(one.stage(UnmaskRequest(("ava", "bea", "cleo"), {})), Unmasking)
    assert isinstance(revealed, Unmasking)
    assert set(revealed.seed_shares) == {"ava", "bea", "cleo"}
    assert code(one.stage(UnmaskRequest(("ava", "bea"), {}))) == "secure-aggregation"
    # Whatever happens to the state, the round stays answered.
    (Path(one.mercy.node["state-dir"]) / "secure-aggregation.json").unlink()
    assert code(one.open()) == "secure-aggregation"


def test_a_hospital_reveals_no_share_for_a_sum_of_too_few(one: One) -> None:
    """Whatever the server names as survivors. The quorum is two here; a sum of one is the hospital's own adapter."""
    inbox = one.share()
    assert isinstance(read_answer(one.train(inbox), Reply), Reply)
    assert code(one.stage(UnmaskRequest(("ava",), {}))) == "secure-aggregation"
    revealed = read_answer(one.stage(UnmaskRequest(("ava", "bea"), {})), Unmasking)  # control
    assert isinstance(revealed, Unmasking)


def test_a_masked_round_is_not_answered_in_clear_afterwards(one: One) -> None:
    """The server says that there is no secure aggregation any more and asks for the round again."""
    inbox = one.share()
    off = {"privacy.secure-aggregation": False}
    assert isinstance(read_answer(one.train(inbox), Reply), Reply)
    assert code(one.train(IN_CLEAR, **off)) == "federation"
    assert code(one.train(IN_CLEAR)) == "secure-aggregation"
    # Control: in a run that never was masked, the same request is answered, and again.
    (Path(one.mercy.node["state-dir"]) / "round.safetensors").unlink()
    clear = [read_answer(one.train(IN_CLEAR, **off), Reply) for _ in range(2)]
    assert all(isinstance(reply, Reply) and reply.adapter for reply in clear)


def test_terms_that_are_not_those_of_the_configuration_are_refused(one: One) -> None:
    setup = one.setup
    other = one.sisters.experiment(train__learning_rate=3.0)
    wrong = [
        replace(setup, run=bound_run("7", other, 0.0, one.digest)),  # another hospital might have been given these
        replace(setup, run="7"),
        replace(setup, round=2),
        replace(setup, threshold=3),
        replace(setup, threshold=3, colluders=1),
        replace(setup, bound=0.37),  # a threshold of the server's choice
        replace(setup, bound=2 * DEFAULT_BOUND),
        replace(setup, run=bound_run("7", one.experiment, 0.0, "0" * 64)),  # another state than is named beside it
        replace(setup, sites=("bea", "cleo", "dora")),
    ]
    for terms in wrong:
        assert code(one.stage(Opening(terms, 0.0, one.digest))) == "secure-aggregation"
    shares_noise = replace(setup, run=bound_run("7", one.experiment, 1.0, one.digest))
    assert code(one.stage(Opening(shares_noise, 1.0, one.digest))) == "secure-aggregation"
    assert code(one.stage(Opening(setup, 0.0, one.digest), site="bea")) == "config"
    assert code(one.stage(UnmaskRequest(("ava", "bea"), {}))) == "secure-aggregation"  # of a round that wasn't opened
    assert isinstance(read_answer(one.open(), KeyAdvert), KeyAdvert)  # control: none of these spent the round


def test_a_state_for_which_the_round_was_not_opened_is_refused(one: One) -> None:
    inbox = one.share()
    first = one.mercy.state
    one.mercy.state = first | {"head.bias": first["head.bias"] + 1}
    assert code(one.train(inbox)) == "secure-aggregation"
    assert one.charges == 0
    one.mercy.state = first
    assert isinstance(read_answer(one.train(inbox), Reply), Reply)  # control


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e9, 0.0])
def test_no_answer_depends_on_what_was_trained(
    one: One, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], value: float
) -> None:
    """Training that diverged leaves masked as any other does; the hospital's own log tells of it."""

    def diverged(*given: Any) -> dict[str, Tensor]:
        return {name: torch.full_like(tensor, value) for name, tensor in close_round(*given).items()}

    inbox = one.share()
    monkeypatch.setattr(hospital_module, "close_round", diverged)
    answer = read_answer(one.train(inbox), Reply)
    assert isinstance(answer, Reply)
    assert len(answer.masked) == 8 * one.setup.entries
    assert ("clamped to 1024" in capfd.readouterr().err) == (value != 0.0)


def test_control_a_refusal_by_value_would_be_seen(one: One, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(values: NDArray[np.float32], bound: float) -> NDArray[np.uint64]:
        raise SecureAggregationRefusal("as encode once did")

    inbox = one.share()
    monkeypatch.setattr(secure_hospital, "encode", refuses)
    assert code(one.train(inbox)) == "secure-aggregation"


def test_terms_that_protect_nobody_leave_as_a_code(one: One) -> None:
    content = content_of(StageRequest("7", "ava", -1, 1, "", Opening(one.setup, 0.0, one.digest)))
    content.config_records["stage-request"]["body.setup.threshold"] = 1
    assert code(one.ask(content)) == "secure-aggregation"


def test_a_real_hospital_waits_for_the_disk(one: One, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    original = os.fsync

    def counted(descriptor: int) -> None:
        synced.append(True)
        original(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    one.open()
    assert len(synced) == 4  # the rounds and the state: file and folder each


def test_a_simulated_one_does_not(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[Path] = []
    monkeypatch.setattr(files, "sync_folder", waits.append)
    run(five(base, tmp_path / "run", train__rounds=1))
    assert waits  # the run directory's own files
    assert not [folder for folder in waits if "ledger" in folder.parts]
