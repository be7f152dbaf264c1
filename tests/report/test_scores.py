"""The score tables: everything is there, and they fit."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console, RenderableType

from fedrad.corpora import CHEXPERT, CT_RATE
from fedrad.report.scores import label_table, score_table
from fedrad.tasks.metrics import F1_FIGURES, Comparison, Scores
from tests import small


def text(table: RenderableType, width: int = 100) -> str:
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(table)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def three(names: tuple[str, ...]) -> tuple[Scores, Comparison]:
    def of(value: float) -> Scores:
        positives = {name: k for k, name in enumerate(names)}
        return Scores(dict.fromkeys(F1_FIGURES, value), dict.fromkeys(names, value), positives)

    return of(0.625), Comparison(of(0.5), of(0.25), reports=1200, changed=7)


@pytest.mark.parametrize("names", [CHEXPERT, CT_RATE])
def test_every_label_has_a_line_of_its_own_within_80_columns(names: tuple[str, ...]) -> None:
    lines = text(label_table(*three(names)), 80).splitlines()

    assert "1,200 evaluated reports" in lines[0]
    assert lines[1].split() == ["label", "positives", "label", "prior", "before", "after"]
    assert [line.split()[-4:] for line in lines[2:]] == [[str(k), "0.250", "0.500", "0.625"] for k in range(len(names))]
    assert all(len(line) <= 80 for line in lines)
    assert all(name in line for name, line in zip(names, lines[2:], strict=True))  # none is cut


def test_a_long_name_is_cut_and_markup_is_shown() -> None:
    lines = text(label_table(*three(("[red]x", "protocol " * 20))), 80).splitlines()

    assert len(lines) == 4
    assert "[red]x" in lines[2]
    assert "…" in lines[3]


def test_of_very_many_classes_the_frequent_ones_are_shown() -> None:
    shown = text(label_table(*three(tuple(f"class-{k:02d}" for k in range(50)))))

    assert "class-49" in shown
    assert "class-19" not in shown
    assert "... 20 more in result.json" in shown


def test_prior_start_and_result_stand_below_each_other() -> None:
    final, compared = three(("a",))
    lines = text(score_table(replace(small.result({"s": 1.0}), scores=final, comparison=compared)), 80).splitlines()

    assert [line.split()[-3:] for line in lines[1:]] == [["0.2500"] * 3, ["0.5000"] * 3, ["0.6250"] * 3]
    assert [line.strip().split("  ")[0] for line in lines[1:]] == [
        "label prior (reads no text)",
        "before training",
        "after training",
    ]
    assert len(text(score_table(replace(small.result({"s": 1.0}), scores=final))).splitlines()) == 2
