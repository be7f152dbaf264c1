"""``fedrad compare`` on run directories whose predictions are known, so that its answers are."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from sklearn.metrics import f1_score
from typer.testing import CliRunner

from fedrad.cli.app import app
from fedrad.config import Experiment
from fedrad.errors import ConfigError, DataError
from fedrad.evidence.predictions import Predictions, write_predictions
from fedrad.experiments.compare import ALL_LABELS, compare
from fedrad.experiments.runs import conditions_of, load_runs

NAMES = ("Edema", "Fracture", "Nodule")
REPORTS = 240


def reports_of(split: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(1000 + split)
    return draw.random((REPORTS, len(NAMES))) < 0.4, np.arange(REPORTS) // 2


def write(path: Path, truth: np.ndarray, patients: np.ndarray, decisions: np.ndarray) -> None:
    path.unlink(missing_ok=True)
    rows, probabilities = np.arange(REPORTS), np.where(decisions, 0.9, 0.1)
    found = Predictions(rows, [str(p) for p in patients], NAMES, truth.astype(np.int8), probabilities)
    write_predictions(found, path)


def a_run(folder: Path, wrong: float, seed: int, split: int = 0, **settings: object) -> Path:
    """A finished run with this share of wrong decisions."""
    truth, patients = reports_of(split)
    draw = np.random.default_rng([seed, round(wrong * 1000)])
    decisions = truth ^ (draw.random(truth.shape) < wrong)
    folder.mkdir(parents=True)
    flat = {key.replace("__", ".").replace("_", "-"): value for key, value in settings.items()}
    experiment = Experiment.from_flat({**flat, "train.seed": seed, "data.seed": split, "run.out": str(folder)})
    (folder / "experiment.toml").write_text(experiment.to_toml())
    score = f1_score(truth, decisions, average="weighted")
    (folder / "result.json").write_text(json.dumps({"weighted_f1": score, "label_prior": {"weighted_f1": 0.5}}))
    (folder / "adapter").mkdir()
    (folder / "adapter/fedrad.json").write_text(json.dumps({"outputs": {"task": "multi-label"}}))
    for name in ("predictions", "predictions-before"):
        write(folder / f"{name}.parquet", truth, patients, decisions)
    return folder


def runs_of(folder: Path, wrongs: dict[float, float], seeds: int = 6) -> list[Path]:
    """Runs by epsilon, each with its share of wrong decisions, over seeds."""
    return [
        a_run(folder / f"{epsilon}-{seed}", wrong, seed, privacy__epsilon=epsilon)
        for epsilon, wrong in wrongs.items()
        for seed in range(seeds)
    ]


def compared(paths: Sequence[Path], **options: object) -> object:
    axes, runs = load_runs(paths)
    return compare(axes, conditions_of(runs), draws=400, **options)  # type: ignore[arg-type]


def test_what_is_worse_is_found_and_what_is_the_same_is_not(tmp_path: Path) -> None:
    found = compared(runs_of(tmp_path, {0.0: 0.02, 8.0: 0.02, 0.1: 0.3}))

    assert found.scores["privacy.epsilon"].tolist() == [0.0, 8.0, 0.1]
    assert found.scores["seeds"].tolist() == [6, 6, 6]
    runs = [json.loads((tmp_path / f"0.1-{seed}/result.json").read_text())["weighted_f1"] for seed in range(6)]
    last = found.scores.iloc[2]
    assert last["weighted F1"] == pytest.approx(np.mean(runs))
    assert last["sd"] == pytest.approx(np.std(runs, ddof=1))
    assert last["low"] < last["weighted F1"] < last["high"]
    same, worse = found.differences.to_dict("records")
    assert (same["compared"], worse["compared"]) == ("epsilon 8", "epsilon 0.1")
    assert (same["difference"], same["p boot"], same["p rand"]) == (0.0, 1.0, 1.0)
    assert same["p equal"] < 0.01
    assert worse["difference"] < -0.2
    assert max(worse["p boot Holm"], worse["p rand Holm"]) < 0.02
    assert worse["p rank"] == pytest.approx(2 / 2**6)
    assert worse["p no loss"] > 0.9
    assert found.warnings == ()
    table = found.mcnemar
    assert len(table) == 2 * (len(NAMES) + 1)
    assert (table.loc[table["compared"] == "epsilon 8", ["only_first", "only_second"]] == 0).all(axis=None)
    bad = table[(table["compared"] == "epsilon 0.1") & (table["label"] == ALL_LABELS)].iloc[0]
    assert bad["exact"] <= bad["exact Holm"] < 0.001
    assert (bad["seeds"], bad["first_ahead"], bad["second_ahead"]) == (6, 6, 0)
    assert bad["only_first"] > 3 * REPORTS  # of six times as many


def test_few_seeds_are_warned_of(tmp_path: Path) -> None:
    found = compared(runs_of(tmp_path, {1.0: 0.1, 8.0: 0.1}, seeds=5))
    assert "can't go below p = 0.0625" in found.warnings[0]


def test_the_baseline_may_be_any_value(tmp_path: Path) -> None:
    paths = runs_of(tmp_path, {1.0: 0.1, 8.0: 0.3}, seeds=1)
    one, other = (compared(paths, baseline=value).differences.iloc[0] for value in ("1", "8"))
    assert one["difference"] == -other["difference"] < 0
    with pytest.raises(ConfigError, match="has the values 1, 8"):
        compared(paths, baseline="2")
    with pytest.raises(ConfigError, match="is not swept here"):
        compared(paths, by="lora.rank")


def test_conditions_are_paired_that_agree_in_all_else(tmp_path: Path) -> None:
    paths = [
        a_run(tmp_path / f"{epsilon}-{rank}", 0.1, 0, privacy__epsilon=epsilon, lora__rank=rank)
        for epsilon in (1.0, 8.0)
        for rank in (2, 4)
    ]
    found = compared(paths, by="lora.rank").differences
    assert found[["baseline", "compared"]].to_numpy().tolist() == [
        ["rank 2, epsilon 1", "rank 4, epsilon 1"],
        ["rank 2, epsilon 8", "rank 4, epsilon 8"],
    ]


def test_runs_on_other_reports_are_not_paired(tmp_path: Path) -> None:
    one = a_run(tmp_path / "a", 0.1, 0, privacy__epsilon=1.0)
    other = a_run(tmp_path / "b", 0.1, 0, privacy__epsilon=8.0)
    truth, patients = reports_of(split=1)
    write(other / "predictions.parquet", truth, patients, truth)
    with pytest.raises(DataError, match="was tested on other reports"):
        compared([one, other])


def test_seeds_may_have_test_sets_of_their_own(tmp_path: Path) -> None:
    paths = [
        a_run(tmp_path / f"{epsilon}-{seed}", wrong, seed, split=seed, privacy__epsilon=epsilon)
        for epsilon, wrong in ((1.0, 0.1), (8.0, 0.02))
        for seed in range(6)
    ]
    (row,) = compared(paths).differences.to_dict("records")
    assert row["low"] > 0.05
    assert row["p boot"] < 0.01


def test_what_can_not_be_compared_says_why(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a", 0.1, 0)
    with pytest.raises(DataError, match="no finished run"):
        load_runs([tmp_path])
    with pytest.raises(ConfigError, match="same settings and seed"):
        conditions_of(load_runs([run, a_run(tmp_path / "b", 0.1, 0)])[1])
    (run / "predictions.parquet").unlink()
    with pytest.raises(DataError, match="predictions=true"):
        compared([run])


def a_sweep(folder: Path) -> Path:
    """A sweep's folder with two epsilons and a floor."""
    rows = []
    for epsilon, wrong in ((1.0, 0.2), (8.0, 0.05)):
        for seed in range(2):
            name = f"{epsilon}-{seed}"
            a_run(folder / "cells" / name, wrong, seed, privacy__epsilon=epsilon)
            entry = {"run": name, "keys": {"privacy.epsilon": epsilon}, "seed": seed, "hospital": 0}
            rows.append({**entry, "floor": ""})
            if epsilon == 1.0:
                rows += [{**entry, "keys": {"privacy.epsilon": None}, "floor": floor} for floor in ("prior", "probe")]
                rows.append({**entry, "keys": {"privacy.epsilon": None}, "floor": "all-negative"})
    (folder / "sweep.json").write_text(json.dumps({"axes": ["privacy.epsilon"], "rows": rows}))
    return folder


def test_a_sweep_has_its_floors(tmp_path: Path) -> None:
    found = compared([a_sweep(tmp_path)])
    scores = found.scores.set_index("floor")["weighted F1"]
    truth, _ = reports_of()
    assert scores["all-negative"] == 0
    assert scores["prior"] == pytest.approx(f1_score(truth, np.ones_like(truth), average="weighted"))
    against = compared([tmp_path], baseline="probe").differences
    assert against["baseline"].tolist() == ["probe", "probe"]
    assert against.iloc[0]["difference"] == 0  # the floor is that very run here
    assert against.iloc[1]["difference"] > 0.05


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["compare", *(str(argument) for argument in arguments)])


def test_the_command_writes_tables(tmp_path: Path) -> None:
    a_sweep(tmp_path / "sweep")
    files = tmp_path / "c.json", tmp_path / "c.csv"
    said = call(tmp_path / "sweep", "--draws", 200, "--json", files[0], "--csv", files[1])

    assert said.exit_code == 0, said.output
    assert "fewer than 6 seeds" in said.output
    found = json.loads(files[0].read_text())
    assert {len(found[name]) for name in ("differences",)} == {1}
    assert found["scores"][0]["privacy.epsilon"] == 1.0
    with files[1].open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["difference"]) == found["differences"][0]["difference"] > 0
    assert call(tmp_path).exit_code == 3


def test_the_command_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    said = call(a_sweep(tmp_path / "sweep"), "--draws", 200, "--plot", tmp_path / "plots")

    assert said.exit_code == 0, said.output
    assert {file.name for file in (tmp_path / "plots").iterdir()} == {
        f"{name}.{kind}" for name in ("utility", "labels") for kind in ("svg", "png")
    }
    picture = (tmp_path / "plots/utility.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
