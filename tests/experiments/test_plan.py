"""A sweep's file: which cells and floors it means, and that every mistake is told at once, before any of them runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrad.errors import ConfigError
from fedrad.experiments.plan import Sweep, read_sweep

GRID = """
command = "simulate"
seeds = [0, 1, 2]
[base]
sites.count = 3
[grid]
privacy.epsilon = [0.0, 1.0]
[[grid.trained]]
name = "head"
lora.targets = ""
[[grid.trained]]
name = "LoRA"
lora.targets = "query,value"
lora.rank = 8
"""


def sweep(tmp_path: Path, text: str) -> Sweep:
    file = tmp_path / "sweep.toml"
    file.write_text(text)
    return read_sweep(file)


def problems(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        sweep(tmp_path, text)
    return str(caught.value)


def test_every_combination_is_a_cell(tmp_path: Path) -> None:
    found = sweep(tmp_path, GRID)

    assert found.axes == ("privacy.epsilon", "trained")
    assert len(found.rows) == len(found.cells) == 2 * 2 * 3
    row = found.rows[-1]
    assert (row.keys, row.seed, row.floor) == ({"privacy.epsilon": 1.0, "trained": "LoRA"}, 2, "")
    experiment = row.cell.experiment
    assert (experiment.privacy.epsilon, experiment.lora.rank, experiment.train.seed) == (1.0, 8, 2)
    assert (experiment.sites.count, experiment.data.bank) == (3, "chest-xray-hospitals")  # of the file, of the app
    assert experiment.run.predictions


def test_a_cells_name_is_its_configuration(tmp_path: Path) -> None:
    names = [cell.name for cell in sweep(tmp_path, GRID).cells]
    others = [cell.name for cell in sweep(tmp_path, GRID.replace("sites.count = 3", "sites.count = 2")).cells]

    assert names == [cell.name for cell in sweep(tmp_path, GRID).cells]
    assert len({*names, *others}) == len(names) + len(others)
    more = sweep(tmp_path, GRID.replace("[0, 1, 2]", "[0, 1, 2, 3]"))
    assert set(names) < {cell.name for cell in more.cells}  # a seed more repeats nothing


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    text = """
    comand = "simulate"
    sites = 3
    transport = "fuse"
    memory-gb = -1
    """
    found = problems(tmp_path, text)
    assert "comand: no entry of a sweep; did you mean command?" in found
    assert "sites: no entry of a sweep; did you mean base.sites?" in found
    assert "transport" in found
    assert "did you mean fused?" in found
    assert "memory-gb: must be above 0" in found

    text = """
    seeds = [0, 0]
    floors = ["prob", "alone"]
    [base]
    train.sed = 1
    train.seed = 1
    run.out = "here"
    [grid]
    privacy.epsilom = [1.0]
    train.rounds = 3
    train.batch = [8, 8]
    [[grid.size]]
    lora.rank = 1
    """
    found = problems(tmp_path, text)
    assert "base: train.sed: unknown key; did you mean train.seed?" in found
    assert "base: train.seed: is set from the seeds" in found
    assert "base: run.out: the sweep sets it itself" in found
    assert "grid: privacy.epsilom: unknown key; did you mean privacy.epsilon?" in found
    assert "grid: train.rounds: write a list" in found
    assert "grid: train.batch: 8 stands there twice" in found
    assert "grid: size: each group needs a name" in found
    assert "seeds = [0, 0]: one stands there twice" in found
    assert 'floors: "prob": unknown; did you mean probe?' in found
    assert "alone and pooled go with command" in found


def test_a_cell_that_can_not_be_run_is_told_with_its_place(tmp_path: Path) -> None:
    found = problems(tmp_path, GRID.replace("[0.0, 1.0]", '[-1.0, 1.0, "much"]'))
    assert "privacy.epsilon = -1.0: must be at least 0 (6 of 18 cells, first: privacy.epsilon=-1.0" in found
    assert 'privacy.epsilon: expected number, got "much" (6 of 18 cells' in found

    at_server = GRID.replace('command = "simulate"', "").replace("sites.count = 3", 'strategy.name = "fedadam"')
    assert "strategy.name: fedadam runs an optimizer at the server" in problems(tmp_path, at_server)
    assert "sites.alone: for `fedrad centralized`" in problems(tmp_path, GRID.replace("count = 3", "alone = 1"))


def test_cells_that_are_the_same_run_are_refused(tmp_path: Path) -> None:
    same = GRID.replace("lora.rank = 8", "").replace('"query,value"', '""')
    assert "the same run as an earlier cell (6 of 12 cells, first: privacy.epsilon=0.0, trained=LoRA" in problems(
        tmp_path, same
    )


def test_two_axes_must_not_set_one_key(tmp_path: Path) -> None:
    twice = GRID.replace("[0.0, 1.0]", "[0.0, 1.0]\nlora.rank = [1, 2]")
    assert "grid: lora.rank: is set by" in problems(tmp_path, twice)


# Floors


def floors(tmp_path: Path, *names: str, text: str = GRID) -> Sweep:
    return sweep(tmp_path, f"floors = {list(names)}\n{text}".replace("'", '"'))


def test_floors_are_further_cells_and_each_stands_once(tmp_path: Path) -> None:
    found = floors(tmp_path, "prior", "probe", "pooled", "alone")
    count = {name: len([row for row in found.rows if row.floor == name]) for name in ("prior", "probe", "pooled")}
    alone = [row for row in found.rows if row.floor == "alone"]

    assert count == {"prior": 3, "probe": 3, "pooled": 12}  # by seed; by seed; by cell
    assert len(alone) == 12 * 3
    assert {row.hospital for row in alone} == {1, 2, 3}
    probe = next(row for row in found.rows if row.floor == "probe")
    assert probe.keys == {"privacy.epsilon": None, "trained": None}  # under all cells
    experiment = probe.cell.experiment
    assert (experiment.privacy.epsilon, experiment.adapted.targets, experiment.strategy.name) == (0.0, (), "head")
    assert probe.cell.command == "centralized"


def test_the_prior_is_read_off_a_cell_of_the_grid(tmp_path: Path) -> None:
    found = floors(tmp_path, "prior", "all-negative")
    assert len(found.cells) == 12
    assert [row.floor for row in found.rows].count("all-negative") == 3


def test_a_hospital_alone_has_its_own_budget_and_reports(tmp_path: Path) -> None:
    text = GRID.replace("sites.count = 3", 'sites.count = 2\nsites.batches = [8, 16]\nsites.partition = "dirichlet"')
    found = [row for row in floors(tmp_path, "alone", text=text).rows if row.floor == "alone"]
    for row in found:
        sites = row.cell.experiment.sites
        assert (sites.alone, sites.count, sites.partition, sites.batches) == (row.hospital, 2, "dirichlet", ())
        assert row.cell.experiment.train.batch == 8 * row.hospital


def test_a_public_base_is_a_floor_of_a_cold_start_too(tmp_path: Path) -> None:
    cold = GRID.replace("sites.count = 3", 'train.warm-start = "none"')
    found = [row.cell for row in floors(tmp_path, "public-base", "probe", text=cold).rows if row.floor]
    assert {cell.experiment.warm_start for cell in found} == {"none", "synthetic"}
    assert len({cell.name for cell in found}) == 6


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[2] / "experiments").glob("*.toml")), ids=lambda f: f.stem
)
def test_every_grid_of_the_repository_can_be_planned(file: Path) -> None:
    assert len(read_sweep(file).cells) > 10


DECODERS = """
floors = ["few-shot"]
command = "simulate"
app = "protocol"
seeds = [0, 1]
[grid]
privacy.epsilon = [0, 8]
train.learning-rate = [0.1, 1.0]
[[grid.model]]
name = "head"
[[grid.model]]
name = "decoder"
model.task = "causal-lm"
model.name = "smollm2"
lora.targets = "all-linear"
"""


def test_few_examples_are_a_floor_of_decoders_whatever_they_are_trained_by(tmp_path: Path) -> None:
    found = [row for row in sweep(tmp_path, DECODERS).rows if row.floor]
    assert [(row.floor, row.seed) for row in found] == [("few-shot", 0), ("few-shot", 1)]
    assert found[0].keys == {"privacy.epsilon": None, "train.learning-rate": None, "model": "decoder"}
    experiment = found[0].cell.experiment
    assert (experiment.model.shots, experiment.data.max_length) == (8, 128 + 8 * 128)
    assert experiment.warm_start == "none"
    shown = sweep(tmp_path, DECODERS + "model.shots = 3\ndata.max-length = 400\n")  # the cell's own number
    experiment = next(row for row in shown.rows if row.floor).cell.experiment
    assert (experiment.model.shots, experiment.data.max_length) == (3, 400)
