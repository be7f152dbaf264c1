"""The probe measures, chooses by what it measured, and is asked once per machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedrad.cache import fedrad_cache_dir
from fedrad.model import probe as module
from fedrad.model.base import BaseModel
from fedrad.model.kernels import Kernels, matmul_precision
from fedrad.model.probe import kernels_for, probe
from tests.model import tiny


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BaseModel:
    monkeypatch.setenv("FEDRAD_CACHE", str(tmp_path / "cache"))
    return tiny.base_of(tmp_path / "model", "bert")


def files() -> list[Path]:
    return sorted(fedrad_cache_dir().glob("*"))


def test_it_measures_time_and_error(base: BaseModel) -> None:
    found = probe(base, "float32")
    assert 1e-6 < probe(base, "auto").measured["matmul-bfloat16-error"] < 1e-2
    measured = found.measured
    assert measured["matmul-highest-error"] < 1e-6
    assert all(value > 0 for value in measured.values())
    assert found.backbone == "float32"
    assert measured[f"matmul-{found.matmul}-error"] <= module.FLOAT32_ERROR
    assert torch.get_float32_matmul_precision() == "highest"  # put back
    assert torch.get_num_threads() == 1


def timed(times: dict[str, float]) -> Callable[..., list[float]]:
    """Stands in for the clock: a product takes as long as ``times`` says of its word or dtype."""

    def milliseconds(device: str, *runs: Any) -> list[float]:
        return [
            times["bfloat16" if run.args[1].dtype == torch.bfloat16 else run.args[0]]
            if run.func is module._product
            else 1.0
            for run in runs
        ]

    return milliseconds


@pytest.mark.parametrize(
    ("times", "errors", "precision", "matmul", "backbone"),
    [
        ({"highest": 2, "medium": 1, "bfloat16": 9}, (1e-7, 4e-7), "float32", "medium", "float32"),
        ({"highest": 2, "medium": 1, "bfloat16": 9}, (1e-7, 2e-3), "float32", "highest", "float32"),  # not accurate
        ({"highest": 2, "medium": 1.9, "bfloat16": 9}, (1e-7, 1e-7), "float32", "highest", "float32"),  # not faster
        ({"highest": 2, "medium": 2, "bfloat16": 1}, (1e-7, 1e-7), "float32", "highest", "float32"),  # not asked for
        ({"highest": 2, "medium": 2, "bfloat16": 1}, (1e-7, 1e-7), "auto", "highest", "bfloat16"),
        ({"highest": 2, "medium": 2, "bfloat16": 9}, (1e-7, 1e-7), "auto", "highest", "float32"),
        ({"highest": 2, "medium": 2, "bfloat16": 9}, (1e-7, 1e-7), "bfloat16", "highest", "bfloat16"),
    ],
)
def test_the_choice_follows_what_was_measured(
    base: BaseModel,
    monkeypatch: pytest.MonkeyPatch,
    times: dict[str, float],
    errors: tuple[float, float],
    precision: str,
    matmul: str,
    backbone: str,
) -> None:
    said = iter([*errors, 2e-3])
    monkeypatch.setattr(module, "_error", lambda found, exact: next(said))
    monkeypatch.setattr(module, "_milliseconds", timed(times))
    found = probe(base, precision)
    assert (found.matmul, found.backbone) == (matmul, backbone)


def test_attention_by_plain_products_only_where_they_are_faster(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def milliseconds(device: str, *runs: Any) -> list[float]:
        if len(runs) < 2 or runs[1].func is not module._and_back:
            return [1.0] * len(runs)
        return [1.0, 0.5 if runs[1].args[1][0].shape[2] == 32 else 2.0]

    monkeypatch.setattr(module, "_milliseconds", milliseconds)
    assert probe(base, "float32").eager_up_to == 32


def test_the_first_choice_is_kept_and_every_process_reads_it(base: BaseModel) -> None:
    first = kernels_for(base, "float32")
    assert kernels_for(base, "float32").measured == first.measured  # of the first probe; no two are the same
    (kept,) = files()
    changed = json.loads(kept.read_text()) | {"micro_tokens": 777, "matmul": "medium"}
    kept.write_text(json.dumps(changed))
    script = (
        "import torch; torch.set_num_threads(1); from fedrad.model.base import load_base;"
        " from fedrad.model.probe import kernels_for;"
        f" k = kernels_for(load_base({base.name!r}), 'float32'); print(k.micro_tokens, k.matmul)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["777", "medium"]


def test_another_precision_is_another_choice(base: BaseModel) -> None:
    kernels_for(base, "float32")
    kernels_for(base, "bfloat16")
    assert len(files()) == 2


def test_a_damaged_file_is_measured_anew(base: BaseModel) -> None:
    kernels_for(base, "float32")
    (kept,) = files()
    kept.write_text("{")
    assert kernels_for(base, "float32").measured
    assert json.loads(kept.read_text())["matmul"] in ("highest", "medium")


@pytest.mark.parametrize("wrong", [{"backbone": "bfloat16"}, {"backbone": "float8"}, {"matmul": "low"}])
def test_a_kept_file_can_not_bring_arithmetic_that_was_not_asked_for(base: BaseModel, wrong: dict[str, str]) -> None:
    kernels_for(base, "float32")
    (kept,) = files()
    kept.write_text(json.dumps(json.loads(kept.read_text()) | wrong))
    found = kernels_for(base, "float32")
    assert (found.backbone, found.matmul in ("highest", "medium")) == ("float32", True)


def test_without_a_place_to_agree_the_choice_is_the_same_everywhere(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("FEDRAD_CACHE", str(tmp_path / "a file" / "cache"))
    assert kernels_for(base, "float32") == Kernels()


def test_nothing_is_measured_if_it_is_not_wanted(base: BaseModel) -> None:
    assert kernels_for(base, "float32", probed=False) == Kernels()
    assert kernels_for(base, "auto", probed=False).backbone == "float32"
    assert files() == []


def test_matmul_precision_is_put_back() -> None:
    def fail() -> None:
        with matmul_precision("medium"):
            assert torch.get_float32_matmul_precision() == "medium"
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fail()
    assert torch.get_float32_matmul_precision() == "highest"
