"""The run directory: nothing is overwritten, nothing is half there, and what it promises is true."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrad.config import Experiment
from fedrad.errors import ConfigError
from fedrad.tasks.metrics import Comparison
from fedrad.tasks.multi_label import MultiLabel
from fedrad.training.result import privacy_statement, rounded_up
from fedrad.training.run_directory import (
    append_metrics,
    create_run_directory,
    finish,
)
from fedrad.training.setup import Setup, set_up
from tests import small
from tests.model import tiny

PRIVATE = {"site-000": 7.5}


def setup_of(exp: Experiment) -> Setup:
    return set_up(exp, small.TASK)


# The folder


def test_the_folder_and_the_experiment_in_it(tmp_path: Path) -> None:
    exp = small.experiment(run__out=str(tmp_path / "a" / "b"))
    directory = create_run_directory(exp, tmp_path)

    assert directory == tmp_path / "a" / "b"
    assert Experiment.load(directory / "experiment.toml") == exp
    assert (directory / "ledger").stat().st_mode & 0o777 == 0o700


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    assert create_run_directory(small.experiment(run__out=str(tmp_path / "empty")), tmp_path).is_dir()


@pytest.mark.parametrize("kind", ["file", "full folder", "below a file"])
def test_nothing_is_overwritten(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "full folder":
        out.mkdir()
        (out / "theirs.txt").write_text("mine")
    else:
        out.write_text("mine")
    with pytest.raises(ConfigError, match=r"run\.out"):
        create_run_directory(small.experiment(run__out=str(out / "x" if kind == "below a file" else out)), tmp_path)

    assert (out / "theirs.txt" if out.is_dir() else out).read_text() == "mine"
    assert [path.name for path in tmp_path.rglob("*.toml")] == []


def test_runs_of_one_second_get_folders_of_their_own(tmp_path: Path) -> None:
    exp = small.experiment(run__name="trial")
    directories = {create_run_directory(exp, tmp_path) for _ in range(4)}

    assert len(directories) == 4
    assert {path.parent for path in directories} == {tmp_path / "runs"}
    assert all("-trial" in path.name for path in directories)


# Metrics and result


def test_one_line_for_each_evaluation(tmp_path: Path) -> None:
    scores = small.result(PRIVATE).scores
    append_metrics(tmp_path, small.TASK, round=0, step=0, scores=scores, epsilon={"site-000": 0.0})
    append_metrics(tmp_path, small.TASK, round=1, step=3, scores=scores, epsilon={"site-000": float("inf")})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]

    assert [set(line) for line in lines] == [
        {"round", "step", "split", "weighted_f1", "micro_f1", "macro_f1", "per_label", "epsilon"}
    ] * 2
    assert [line["epsilon"] for line in lines] == [{"site-000": 0.0}, {"site-000": None}]


def finished(tmp_path: Path, epsilon: dict[str, float], **changes: object) -> tuple[Path, dict[str, object]]:
    exp = small.experiment(run__out=str(tmp_path / "out"), **changes)
    directory = create_run_directory(exp, tmp_path)
    setup = setup_of(exp)
    tiny.randomise(setup.classifier)
    finish(directory, exp, setup, small.result(epsilon), lambda: None)

    def refuse(word: str) -> None:
        pytest.fail(f"{word} is no JSON")

    return directory, json.loads((directory / "result.json").read_text(), parse_constant=refuse)


def test_the_result_has_the_promised_figures(tmp_path: Path) -> None:
    directory, figures = finished(tmp_path, {"site-000": 7.5, "site-001": 7.25})

    assert (directory / "adapter" / "adapter_config.json").is_file()
    assert figures["weighted_f1"] == 0.75
    assert figures["epsilon"] == {"site-000": 7.5, "site-001": 7.25}
    assert figures["epsilon_max"] == 7.5
    assert figures["delta"] == small.DELTA
    assert (figures["unit"], figures["private"], figures["noise"]) == ("report", True, "seeded")
    assert (figures["steps"], figures["seconds"]) == (6, 1.5)
    assert figures["reports"] == {"declared": {"site-000": 40, "site-001": 40}, "test": 12}
    assert {"fedrad", "torch", "python"} <= set(figures["versions"])  # type: ignore[call-overload]


def test_the_result_stands_beside_what_it_is_compared_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = small.result(PRIVATE)
    before, prior = (replace(plain.scores, figures={"weighted F1": value}) for value in (0.5, 0.25))
    scores = replace(plain.scores, positives={"Edema": 3})
    compared = replace(
        plain, scores=scores, comparison=Comparison(before, prior, reports=12, changed=7), notes=("Take more.",)
    )
    monkeypatch.setattr(small, "result", lambda epsilon: compared)
    _, figures = finished(tmp_path / "compared", PRIVATE)

    assert figures["before"] == before.as_dict()
    assert figures["label_prior"] == prior.as_dict()
    assert (figures["positives"], figures["decisions_changed"]) == ({"Edema": 3}, 7)
    assert figures["notes"] == ["Take more."]


def test_a_result_that_was_compared_with_nothing_says_so(tmp_path: Path) -> None:
    _, figures = finished(tmp_path, PRIVATE)

    assert [figures[key] for key in ("before", "label_prior", "decisions_changed", "notes")] == [None, None, None, []]


def test_an_infinite_epsilon_is_null(tmp_path: Path) -> None:
    _, figures = finished(tmp_path, {"site-000": float("inf")}, privacy__epsilon=0.0)

    assert figures["epsilon"] == {"site-000": None}
    assert figures["epsilon_max"] is None
    assert figures["private"] is False


def test_the_result_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(*args: object, **kwargs: object) -> None:
        assert not list(tmp_path.rglob("result.json"))
        raise OSError("disk full")

    monkeypatch.setattr(MultiLabel, "export", disk_full)
    with pytest.raises(OSError, match="disk full"):
        finished(tmp_path, PRIVATE)

    assert not list(tmp_path.rglob("result.json*"))


def statement(epsilon: dict[str, float], **changes: object) -> str:
    experiment = small.experiment(**changes)
    return privacy_statement(experiment, replace(small.result(epsilon), delta=experiment.privacy.delta))


def test_without_privacy_it_says_so() -> None:
    text = statement({"site-000": float("inf")}, privacy__epsilon=0.0)

    assert "WITHOUT" in text
    assert "guarantee" not in text
    assert "-differential" not in text


def test_seeded_noise_is_called_a_simulation() -> None:
    assert statement(PRIVATE, privacy__noise="seeded").startswith("Seeded noise: simulation only.")
    assert "simulation" not in statement(PRIVATE, privacy__noise="system")


def test_it_names_unit_relation_and_figures() -> None:
    text = statement(PRIVATE, privacy__noise="system")

    assert text.startswith("report-level (7.5, 0.001)-differential privacy, adding or removing one report")
    assert "hospitals" not in text


def test_for_several_hospitals_it_names_the_assumption_and_the_sum() -> None:
    text = statement({"site-000": 7.5, "site-001": 7.25, "site-002": 1.0}, privacy__noise="system")

    assert "(7.5, 0.001)" in text
    assert "no patient is in two" in text
    assert "(15.75, 0.003)" in text


def test_figures_are_never_rounded_down() -> None:
    text = statement({"site-000": 7.3456712}, privacy__noise="system", privacy__delta=1.23456712e-5)

    assert "(7.34568, 1.23457e-05)" in text
    assert f"{7.3456712:.6g}" == "7.34567"  # control: what ordinary rounding would have promised


@given(value=st.floats(0, 1e12), digits=st.integers(1, 8))
def test_rounding_up_is_never_below_and_never_far(value: float, digits: int) -> None:
    shown = float(rounded_up(value, digits))

    assert value <= shown
    assert shown <= value * (1 + 10 ** (1 - digits)) * (1 + 1e-12) + 1e-320


def test_a_statement_says_when_the_sizes_were_not_stated_in_public() -> None:
    result = small.result(PRIVATE)
    assert "not stated in public" in privacy_statement(small.experiment(), result)
    assert "not stated in public" not in privacy_statement(small.experiment(), replace(result, sizes_stated=True))


def test_a_statement_says_when_the_arithmetic_blurs_the_guarantee() -> None:
    result = small.result(PRIVATE)
    assert "bfloat16" not in privacy_statement(small.experiment(), result)
    assert "bfloat16" in privacy_statement(small.experiment(), result, "bfloat16")
    federated, auto = replace(result, bytes_up=(8,)), small.experiment(train__precision="auto")
    assert "bfloat16" in privacy_statement(auto, federated)  # the hospitals' machines decide for themselves
    assert "bfloat16" not in privacy_statement(auto, result)


def test_no_site_is_not_epsilon_zero() -> None:
    with pytest.raises(ValueError, match="empty"):
        privacy_statement(small.experiment(), small.result({}))
