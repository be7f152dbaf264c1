"""The model on another device: the same bits as on the CPU, nothing left behind, no waiting inside a step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks import check, gpu, problems
from benchmarks.peers import PEERS
from fedrad.errors import ConfigError
from fedrad.model import adapter, block, lora_product
from fedrad.model.base import load_base
from fedrad.model.block import eager_attention as plain
from fedrad.model.kernels import device_for
from fedrad.model.lora_product import is_dense as dense
from fedrad.model.probe import probe
from fedrad.privacy.gradients import leaf_gradients
from fedrad.privacy.optimizer import PrivateOptimizer
from fedrad.privacy.randomness import stream
from fedrad.simulation import centralized, simulate
from fedrad.simulation.flower_run import _federation
from fedrad.tasks.classifier import Classifier
from fedrad.training import warm_start
from fedrad.training.evaluation import predictions
from fedrad.training.local import Member, TrainingState, run_steps, run_steps_together
from fedrad.training.preflight import check_before_first_step
from fedrad.training.recipe import torch_optimizer
from fedrad.training.setup import pin_arithmetic
from tests import small
from tests.device import stand_in

FILES = ("adapter_model.safetensors", "head.safetensors")


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``train.device=auto`` finds the stand-in."""
    for place in ("training.setup", "tasks.classifier"):
        monkeypatch.setattr(f"fedrad.{place}.device_for", lambda name: stand_in.NAME if name == "auto" else "cpu")
    # Torch's fused attention is another kernel on every device; plain products are the same.
    monkeypatch.setattr(block, "scaled_dot_product_attention", lambda q, k, v, attn_mask: plain(q, k, v, attn_mask))
    # A parameter on a real device is of type Parameter; on this one it is of the stand-in's.
    for module in (lora_product, adapter, block):
        monkeypatch.setattr(
            module, "is_dense", lambda layer: isinstance(layer.weight, stand_in.StandIn) or dense(layer)
        )
    monkeypatch.setattr(warm_start, "_CENTRING_REPORTS", 40)
    yield
    torch.use_deterministic_algorithms(False)


def on(device: str, **changes: object) -> small.Ready:
    here = small.ready(small.experiment(train__device=device, **changes))
    assert here.setup.classifier.device.type == ("cpu" if device == "cpu" else stand_in.NAME)
    return here


def trained(here: small.Ready, blocks: tuple[frozenset[str], ...] = ()) -> TrainingState:
    first = run_steps(here.inputs, here.plan, here.recipe, here.state, 3, site="site-000", blocks=blocks)
    return run_steps(here.inputs, here.plan, here.recipe, first, 3, site="site-000", blocks=blocks)


def equal(left: TrainingState, right: TrainingState) -> bool:
    return all(small.same(getattr(left, part), getattr(right, part)) for part in ("adapter", "moments", "average_sum"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train__optimizer": "adam", "train__average": 0.5},
        {"model__pooling": "cls", "lora__targets": "all-linear", "lora__layers": 0},
        {"lora__targets": ""},  # the head alone
        {"strategy__name": "fedsb"},
        {"train__precision": "bfloat16"},
        {"privacy__gradients": "opacus"},
        {"privacy__epsilon": 0.0},
    ],
    ids=lambda changes: " ".join(changes.values()) if all(isinstance(v, str) for v in changes.values()) else None,
)
def test_steps_give_the_same_bits_wherever_the_model_is(changes: dict[str, object]) -> None:
    here, there = on("cpu", **changes), on("auto", **changes)
    before, after = trained(here), trained(there)
    assert equal(before, after)
    assert {tensor.device.type for tensor in after.adapter.values()} == {"cpu"}
    assert not small.same(after.adapter, there.state.adapter)  # and they were steps


def test_turns_give_the_same_bits_too() -> None:
    def blocks(here: small.Ready) -> tuple[frozenset[str], ...]:
        names = here.setup.classifier.adapter()
        return tuple(frozenset(n for n in names if not n.endswith(left)) for left in ("lora_A", "lora_B"))

    here, there = on("cpu"), on("auto")
    assert equal(trained(here, blocks(here)), trained(there, blocks(there)))


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_many_hospitals_in_one_pass_give_the_same_bits(optimizer: str) -> None:
    def together(here: small.Ready) -> list[TrainingState]:
        members = [
            Member("site-000", 0, 15, here.plan, here.state),
            Member("site-001", 15, 15, here.plan, here.state),
            Member("site-002", 15, 40, replace(here.plan, clip=0.5), here.state),
        ]
        first = run_steps_together(here.inputs, members, here.recipe, 2)
        members = [replace(member, state=state) for member, state in zip(members, first, strict=True)]
        return run_steps_together(here.inputs, members, here.recipe, 2)

    changes: dict[str, object] = {"train__optimizer": optimizer, "train__average": 0.5}
    for left, right in zip(together(on("cpu", **changes)), together(on("auto", **changes)), strict=True):
        assert equal(left, right)


def test_a_step_never_waits_for_the_device() -> None:
    """From the sample to the optimizer's step; the noise and the batch travel there, nothing comes back."""
    here = on("auto")
    classifier, parameters = here.setup.classifier, here.setup.classifier.adapter()
    optimizer = PrivateOptimizer(torch_optimizer(parameters, here.recipe, 0.1), here.plan)
    with stand_in.host_reads() as read:
        for rows in (np.arange(10), np.arange(10, 25)):
            batch = here.inputs.batch(rows)
            _, gradients = leaf_gradients(
                classifier.suffix,
                parameters,
                (batch.hidden, batch.attention),
                batch.losses,
            )
            optimizer.accumulate(gradients, np.arange(len(rows)) + rows[0])
        optimizer.step_noisy(stream("seeded", 0, "noise"))
        assert read == []
        assert optimizer.snr >= 0  # control: asking for a number is seen
        assert read == ["_local_scalar_dense"]


def test_the_stand_in_refuses_what_a_gpu_refuses() -> None:
    """Control of all tests here: a tensor that was left behind is an error."""
    there = torch.ones(3).to(stand_in.NAME)
    with pytest.raises(RuntimeError, match="tensors on"):
        there + torch.ones(3)
    here = on("auto")
    batch = here.inputs.batch(np.arange(3))
    with pytest.raises(RuntimeError, match="tensors on"):
        here.setup.classifier.suffix(batch.hidden, batch.attention.cpu())


def test_what_is_scored_and_checked_is_the_same() -> None:
    here, there = on("cpu"), on("auto")
    for ready in (here, there):
        check_before_first_step(ready.setup, ready.recipe, ready.plan)
    left, right = (predictions(r.inputs) for r in (here, there))
    assert left.tobytes() == right.tobytes()


def files(folder: Path) -> dict[str, Tensor]:
    return {name: t for file in FILES for name, t in load_file(folder / "adapter" / file).items()}


def test_a_whole_run_and_its_predictions_are_the_same(tmp_path: Path) -> None:
    for device in ("cpu", "auto"):
        settings = {"train__warm_start": "synthetic", "train__device": device, "run__out": str(tmp_path / device)}
        centralized.train(small.experiment(**settings))
    assert small.same(files(tmp_path / "cpu"), files(tmp_path / "auto"))
    told = json.loads((tmp_path / "auto" / "result.json").read_text())
    assert told["kernels"]["device"] == stand_in.NAME

    texts = ["No acute effusion.", "Large left pleural effusion, edema.", ""]
    here, there = (Classifier.load(tmp_path / "auto", device=device).predict(texts) for device in ("cpu", "auto"))
    assert np.allclose(here, there, atol=1e-6)  # their micro-batches differ


@pytest.mark.parametrize(("strategy", "grid"), [("fedavg", "inprocess"), ("fedex", "fused")])
def test_a_federation_gives_the_same_bits(tmp_path: Path, strategy: str, grid: simulate.GridName) -> None:
    for device in ("cpu", "auto"):
        settings = small.experiment(
            train__device=device, train__warm_start="none", sites__count=2, strategy__name=strategy
        ).flat()
        settings.pop("run.out")
        simulate.simulate("mimic", [f"{k}={json.dumps(v)}" for k, v in settings.items()], tmp_path / device, grid=grid)
    assert small.same(files(tmp_path / "cpu"), files(tmp_path / "auto"))


def test_the_probe_measures_the_device() -> None:
    found = probe(load_base(small.model_folder()), "float32", stand_in.NAME)
    assert found.device == stand_in.NAME
    assert found.measured["matmul-highest-error"] < 1e-6
    assert found.micro_tokens >= 1024


def test_a_gpu_that_is_not_there_is_said_to_be_missing() -> None:
    with patch("torch.cuda.is_available", return_value=False):
        assert device_for("auto") == device_for("cpu") == "cpu"
        with pytest.raises(ConfigError, match=r"'cuda'.*finds no CUDA device.*use cpu"):
            device_for("cuda")
    with patch("torch.cuda.is_available", return_value=True):
        assert (device_for("auto"), device_for("cuda"), device_for("cpu")) == ("cuda", "cuda", "cpu")
        with pytest.raises(ConfigError, match="use cpu, cuda or auto"):
            device_for("tpu")


def test_rays_processes_share_the_gpus() -> None:
    """Ray hides a GPU from a process that has no share of it."""
    with patch("torch.cuda.device_count", return_value=1), patch("os.cpu_count", return_value=8):
        assert "client-resources-num-gpus=0.25" in _federation(small.experiment(train__device="auto", train__threads=2))
        assert "gpus" not in _federation(small.experiment(train__device="cpu"))


def test_a_seeded_run_on_a_gpu_asks_for_deterministic_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for device, expected in (("cpu", False), ("cuda", True)):
        pin_arithmetic(small.experiment(train__device=device))
        assert torch.are_deterministic_algorithms_enabled() is expected


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
def test_the_engines_of_the_benchmark_agree_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "rate", lambda device: 1e9)
    monkeypatch.setattr(problems, "corpus", lambda model, openi: problems.random_reports(model, [20] * 40, 0))
    problem = problems.Problem("tiny-bert", device=stand_in.NAME)
    names = ("opacus hooks", "fedrad, same kernels", "fedrad, everything on")
    found = check.verdicts(problem, [PEERS[name] for name in names])
    assert [verdict.agrees for verdict in found] == [True] * 3
    rows = {row.engine: row for row in gpu.measure(problem, problems.Workload(8), 2)}
    for name in (*names, "peft, not private"):
        assert rows[name].reason == ""
        assert rows[name].speed > 0
        assert rows[name].share > 0
    assert "peft, not private" in gpu.show(list(rows.values()))
