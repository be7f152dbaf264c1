"""Sweeps that are really run: their table, what survives a kill, and that one cell's failure is its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest
from rich.console import Console

from fedrad.config import Experiment
from fedrad.errors import ConfigError
from fedrad.experiments import cells as cells_module
from fedrad.experiments.cells import Cell, Failure, finished, locked, note_failure, run_cell
from fedrad.experiments.clusters import sbatch
from fedrad.experiments.plan import read_sweep
from fedrad.experiments.pool import free_memory, run_pool
from fedrad.experiments.sweep import run_one, sweep
from fedrad.experiments.table import table_of
from fedrad.model.folder import MANIFEST
from fedrad.simulation import centralized
from tests import small
from tests.model import tiny

SECRET = "zyzzyva"
CAUSAL = '"causal-lm"'


def write(folder: Path, *, head: str = "", grid: str = "privacy.epsilon = [1.0, 8.0]", **base: str) -> Path:
    """A sweep of centralized runs of a tiny model."""
    settings = {
        "data.bank": '"chest-xray"',
        "data.reports": "60",
        "data.max-length": "40",
        "model.name": json.dumps(small.model_folder()),
        "lora.targets": '""',
        "privacy.noise": '"seeded"',
        "privacy.delta": "1e-3",
        "train.rounds": "2",
        "train.local-steps": "2",
        "train.batch": "16",
        "train.threads": "1",
        "train.warm-start": '"none"',
        **base,
    }
    lines = "\n".join(f"{key} = {value}" for key, value in settings.items())
    file = folder / "small.toml"
    file.write_text(f"{head}\n[base]\n{lines}\n[grid]\n{grid}\n")
    return file


def run(file: Path, out: Path, jobs: int = 1) -> int:
    return sweep(file, out, Console(quiet=True), jobs=jobs)


def times(out: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("cells/*/result.json")}


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells run here instead of in processes of their own."""

    def here(cells: list[Cell], folder: Path, **options: object) -> None:
        for cell in cells:
            options["on_start"](cell)  # type: ignore[operator]
            options["on_done"](cell, run_cell(cell, folder))  # type: ignore[operator]

    monkeypatch.setattr("fedrad.experiments.sweep.run_pool", here)


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_the_table_has_a_row_for_each_cell_and_floor(tmp_path: Path) -> None:
    head = 'command = "simulate"\nseeds = [0, 1]\nfloors = ["prior", "all-negative", "probe", "alone"]'
    file = write(tmp_path, head=head, **{"sites.count": "2"})

    assert run(file, tmp_path / "out") == 0
    table, text = pd.read_parquet(tmp_path / "out/results.parquet"), pd.read_csv(tmp_path / "out/results.csv")
    assert len(table) == len(text) == 4 + 2 + 2 + 2 + 8
    assert (table["status"] == "finished").all()
    grid = table[table["floor"] == ""]
    assert grid["privacy.epsilon"].tolist() == [1.0, 1.0, 8.0, 8.0]
    for _, row in grid.iterrows():
        result = json.loads((tmp_path / "out/cells" / row["run"] / "result.json").read_text())
        assert row["weighted_f1"] == result["weighted_f1"]
        assert row["f1:Edema"] == result["per_label"]["Edema"]
        assert row["before:weighted_f1"] == result["before"]["weighted_f1"]
        assert row["epsilon:site-001"] == result["epsilon"]["site-001"] <= row["privacy.epsilon"]
        assert row["digest"] == result["experiment"]
    prior = table[table["floor"] == "prior"]
    assert prior["weighted_f1"].tolist() == grid["prior:weighted_f1"].tolist()[:2]
    assert (table.loc[table["floor"] == "all-negative", "weighted_f1"] == 0).all()
    alone = table[table["floor"] == "alone"]
    assert sorted(alone["hospital"].unique()) == [1, 2]
    assert table.loc[table["floor"] == "probe", "epsilon_max"].isna().all()


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_few_examples_are_scored_before_any_step(tmp_path: Path) -> None:
    decoder = tiny.save_decoder(tmp_path / "decoder", "llama", max_position_embeddings=2000, initializer_range=0.05)
    changes = {"data.name": '"protocol"', "data.max-length": "400", "lora.targets": '"query"', "model.task": CAUSAL}
    file = write(tmp_path, head='floors = ["few-shot"]', **changes, **{"model.name": json.dumps(decoder)})
    out = tmp_path / "out"
    assert run(file, out) == 0
    *cells, floor = pd.read_parquet(out / "results.parquet").to_dict("records")
    assert floor["floor"] == "few-shot"
    result = json.loads((out / "cells" / floor["run"] / "result.json").read_text())
    names = ("weighted_f1", "micro_f1", "macro_f1", "top_3")
    assert {name: floor[name] for name in names} == {name: result["before"][name] for name in names}
    assert all(cell["before:top_3"] >= cell["before:micro_f1"] for cell in cells)
    adapter = json.loads((out / "cells" / floor["run"] / "adapter" / MANIFEST).read_text())
    assert adapter["outputs"]["instruction"].count("Answer:") == 8


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_what_has_finished_is_not_run_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(write(tmp_path), out)
    before = times(out)
    victim, survivor = sorted(before)
    (out / "cells" / victim / "result.json").unlink()  # as a kill leaves it

    run(write(tmp_path), out)

    after = times(out)
    assert after[survivor] == before[survivor]
    assert after[victim] > before[victim]
    changed = out / "cells" / survivor / "result.json"
    changed.write_text(changed.read_text().replace('"experiment": "', '"experiment": "0'))
    run(write(tmp_path), out)
    assert times(out)[survivor] > before[survivor]  # control: a result of another configuration is none
    out.rename(tmp_path / "elsewhere")
    last = times(tmp_path / "elsewhere")
    run(write(tmp_path), tmp_path / "elsewhere")
    assert times(tmp_path / "elsewhere") == last


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_a_cell_that_fails_is_recorded_and_ends_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = cells_module._run

    def fails(cell: Cell, experiment: object) -> None:
        if cell.experiment.privacy.epsilon == 1.0:
            raise ValueError(SECRET)
        real(cell, experiment)  # type: ignore[arg-type]

    monkeypatch.setattr(cells_module, "_run", fails)
    out = tmp_path / "out"
    assert run(write(tmp_path), out) == 1
    table = pd.read_parquet(out / "results.parquet").set_index("privacy.epsilon")
    assert table["status"].tolist() == ["failed", "finished"]
    assert table.loc[1.0, "error"].startswith("ValueError: at ")
    assert not any(SECRET in path.read_text(errors="ignore") for path in out.rglob("*") if path.is_file())

    monkeypatch.setattr(cells_module, "_run", real)
    assert run(write(tmp_path), out) == 0
    assert (pd.read_parquet(out / "results.parquet")["status"] == "finished").all()


def test_two_sweeps_in_one_folder_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with locked(out / "sweep.lock", "busy"), pytest.raises(ConfigError, match="another sweep is at work"):
        run(write(tmp_path), out)
    with locked(out / "sweep.lock", "busy"), pytest.raises(ConfigError, match="another sweep is at work"):
        run_one(write(tmp_path), out, 0)
    with locked(out / "sweep.lock", "busy", shared=True), locked(out / "sweep.lock", "busy", shared=True):
        pass  # tasks of an array


def test_a_cell_is_run_by_one_process_at_a_time(tmp_path: Path) -> None:
    (cell, _) = read_sweep(write(tmp_path)).cells
    with locked(tmp_path / f"{cell.name}.lock", "busy"), pytest.raises(ConfigError, match="being run by another"):
        run_cell(cell, tmp_path)


@pytest.mark.slow
def test_a_process_that_is_killed_is_its_cells_failure(tmp_path: Path) -> None:
    cells = read_sweep(write(tmp_path)).cells
    ended: dict[str, object] = {}

    def kill_first(cell: Cell) -> None:
        if cell is cells[0]:
            (worker,) = [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]
            worker.kill()

    run_pool(
        cells,
        tmp_path,
        jobs=1,
        memory=1,
        on_start=kill_first,
        on_done=lambda cell, failure: ended.update({cell.name: failure}),
    )

    assert "signal 9" in str(ended[cells[0].name])
    assert ended[cells[1].name] is None
    assert finished(cells[1], tmp_path) is not None
    assert list(table_of(read_sweep(write(tmp_path)).rows, ["privacy.epsilon"], tmp_path, {})["status"]) == [
        "failed",
        "finished",
    ]


def rounds_in(directory: Path) -> int:
    """The last round that was evaluated."""
    path = directory / "metrics.jsonl"
    return max((json.loads(line)["round"] for line in path.read_text().splitlines()), default=0) if path.exists() else 0


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """Its finished cells are not repeated, and the one that was at work goes on after its last finished round."""
    out = tmp_path / "out"
    file = write(tmp_path, grid="privacy.epsilon = [1.0, 8.0]", **{"train.rounds": "40"})
    first, second = (out / "cells" / cell.name for cell in read_sweep(file).cells)
    command = [sys.executable, "-m", "fedrad", "sweep", str(file), "--out", str(out), "--jobs", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 300
        while rounds_in(second) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        workers = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    before = times(out)
    assert list(before) == [first.name]
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []  # nobody goes on in the folder

    assert subprocess.run(command, capture_output=True, check=False, timeout=400).returncode == 0
    assert times(out)[first.name] == before[first.name]
    assert re.search(r"going on after round [1-9]", second.with_suffix(".log").read_text())
    assert len(pd.read_csv(out / "results.csv")) == 2
    # Seeded noise: the cell is what it would have been.
    experiment = Experiment.load(second / "experiment.toml")
    _, whole = centralized.train(replace(experiment, run=replace(experiment.run, out=str(tmp_path / "whole"))))
    assert (whole / "metrics.jsonl").read_text() == (second / "metrics.jsonl").read_text()
    names = ["predictions.parquet", "predictions-before.parquet"]
    assert [(whole / name).read_bytes() for name in names] == [(second / name).read_bytes() for name in names]


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (None, [True]),  # it was cut short
        (Failure("ProcessDied", "out of memory"), [True]),
        (Failure("LedgerError", "damaged"), [False]),  # the same would happen again
    ],
)
def test_only_a_cell_that_was_cut_short_goes_on(
    last: Failure | None, expected: list[bool], tries: list[bool], tmp_path: Path
) -> None:
    (cell, _) = read_sweep(write(tmp_path)).cells
    left_behind(cell, tmp_path)
    if last is not None:
        note_failure(cell, tmp_path, last)
    assert run_cell(cell, tmp_path) is None
    assert tries == expected
    assert (tmp_path / cell.name / "ledger").exists() == expected[0]


def test_a_cell_that_cannot_go_on_is_begun_anew(
    tries: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_version(cell: Cell, experiment: Experiment) -> None:
        tries.append(experiment.run.resume)
        if experiment.run.resume:
            raise ConfigError("run.resume: was begun with torch 1.0")
        assert not (tmp_path / cell.name).exists()

    monkeypatch.setattr(cells_module, "_run", other_version)
    (cell, _) = read_sweep(write(tmp_path)).cells
    left_behind(cell, tmp_path)
    assert run_cell(cell, tmp_path) is None
    assert tries == [True, False]


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each run of a cell was to go on; none is really run."""
    found: list[bool] = []
    monkeypatch.setattr(cells_module, "_run", lambda cell, experiment: found.append(experiment.run.resume))
    return found


def left_behind(cell: Cell, folder: Path) -> None:
    """What a run that was cut short leaves, in part."""
    (folder / cell.name / "ledger").mkdir(parents=True)
    (folder / cell.name / "experiment.toml").write_text(cell.experiment.to_toml())


def test_slurm_gets_an_array_of_what_is_left(tmp_path: Path) -> None:
    file, out = write(tmp_path), tmp_path / "out"
    assert sweep(file, out, Console(quiet=True), executor="slurm", jobs=3) == 0
    script = (out / "sweep.sbatch").read_text()
    assert "#SBATCH --array=0,1%3\n" in script
    assert f'--out {out} --cell "$SLURM_ARRAY_TASK_ID"' in script
    assert subprocess.run(["bash", "-n", str(out / "sweep.sbatch")], check=False).returncode == 0
    with pytest.raises(ConfigError, match="every cell has finished"):
        sbatch([], file, out, threads=1, gpus=False, jobs=0, memory=0)
    with pytest.raises(ConfigError, match="the sweep has cells 0 to 1"):
        run_one(file, out, 2)


@pytest.mark.slow
def test_cells_of_an_array_are_the_sweeps(tmp_path: Path) -> None:
    out = tmp_path / "out"
    sweep(write(tmp_path), out, Console(quiet=True), executor="slurm")
    task = ["bash", str(out / "sweep.sbatch")]  # as SLURM runs it
    for number, code in ((0, 0), (7, 2)):  # there is no cell 7
        environment = os.environ | {"SLURM_ARRAY_TASK_ID": str(number)}
        ended = subprocess.run(task, env=environment, capture_output=True, text=True, check=False, timeout=400)
        assert ended.returncode == code, ended.stderr
    assert len(times(out)) == 1
    run_one(out / "sweep.toml", out, 1)
    before = times(out)
    assert len(before) == 2
    assert run(write(tmp_path), out) == 0  # nothing is left: the table alone is written
    assert times(out) == before
    assert (pd.read_csv(out / "results.csv")["status"] == "finished").all()


@pytest.mark.slow
def test_ray_runs_the_cells(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert sweep(write(tmp_path), out, Console(quiet=True), executor="ray", jobs=1) == 0
    assert len(times(out)) == 2


def test_memory_is_what_the_control_group_leaves(tmp_path: Path) -> None:
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("5000\n")
    assert free_memory(tmp_path) == 4000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) > 5000
