"""The sets, rivals and attacks of ``benchmarks.privatise``, on tiny files and tables."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.privatise_attacks import Attacker, linked
from benchmarks.privatise_rivals import Given, customised
from benchmarks.privatise_sets import classified, movies, read_classes, read_squad
from fedrad.privacy.randomness import Stream
from fedrad.privatise.budgets import Choice
from fedrad.privatise.embeddings import Table, load_table
from fedrad.privatise.privatiser import Privatiser
from tests.privatise.tables import random_table


def test_classes_are_read_as_they_are_published(tmp_path: Path) -> None:
    for name in ("train", "test"):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["3", "Wall St.", "Bears claw\\nback"], ["1", "Peace", "Talks"]])
    assert read_classes(str(tmp_path), "test", 9) == (["Wall St. Bears claw back", "Peace Talks"], [2, 0])
    news = classified("AG News", str(tmp_path), "topic", 4, 1)
    assert news.labels.tolist() == [[False, False, True, False]]
    assert len(news.learnt) == 2

    stored = tmp_path / "parquet"
    stored.mkdir()
    pq.write_table(pa.table({"text": ["Good food", "Bad"], "label": [4, 0]}), stored / "test-00000-of-00001.parquet")
    assert read_classes(str(stored), "test", 1) == (["Good food"], [4])
    with pytest.raises(SystemExit, match="neither"):
        read_classes(str(stored), "train", 1)


def test_questions_are_read_with_their_answers(tmp_path: Path) -> None:
    asked = [
        {"question": "Who?", "id": "1", "answers": [{"text": "Ada", "answer_start": 0}]},
        {"question": "Why?", "id": "2", "answers": [], "is_impossible": True},
    ]
    data = {"data": [{"title": "t", "paragraphs": [{"context": "Ada wrote it.", "qas": asked}]}]}
    file = tmp_path / "dev.json"
    file.write_text(json.dumps(data))
    assert read_squad(str(file), 9) == [("Ada wrote it.", "Who?", ("Ada",))]


def test_movies_are_for_or_against(tmp_path: Path) -> None:
    file = tmp_path / "movies.txt"
    file.write_text("1\t2.5\tLovely.\n2\t-0.1\tSo so.\n3\t-3\tDull.\n4\t1\tFine.\n")
    found = movies(file, 1)
    both = dict(zip([*found.learnt, *found.texts], [*found.learnt_labels[:, 1], *found.labels[:, 1]], strict=True))
    assert both == {"Lovely.": True, "Dull.": False, "Fine.": True}


def test_custext_answers_from_the_tokens_own_set_within_its_bound() -> None:
    table, draws, epsilon = random_table(40, 8), 20_000, 1.0
    rival = customised(table, 5)
    assert rival.sets.shape == (8, 5)
    assert sorted(rival.sets.ravel().tolist()) == list(range(40))
    one, other = rival.sets[3][:2]
    counts = [
        np.bincount(rival.draw(np.full(draws, w), np.full(draws, epsilon), Stream.seeded(k, "c")), minlength=40)
        for k, w in enumerate((one, other))
    ]
    assert set(np.flatnonzero(counts[0]).tolist()) == set(rival.sets[3].tolist())
    ratios = np.log(counts[0][rival.sets[3]] / counts[1][rival.sets[3]])
    assert np.abs(ratios).max() <= epsilon + 0.1
    assert np.abs(ratios).max() > 0.2  # it does depend on the token


def test_a_grid_may_have_any_budgets() -> None:
    choice = Given(1.0, "full", "polar", "code", given=(150, 50, 450, 350))
    assert choice.budgets == (150, 50, 450, 350)


@pytest.fixture(scope="module")
def table() -> Table:
    return load_table(coarse=False)


def test_attacks_undo_what_is_hardly_perturbed_and_nothing_else(table: Table) -> None:
    public = ["the lungs are clear . no effusion is seen .", "the heart is normal . no edema is seen ."] * 20
    texts = ["the lungs are normal . no edema is seen .", "small nodule in the left lung ."]
    attacker = Attacker(table, public)
    found = {}
    for epsilon in (1.0, 1e4):
        privatiser = Privatiser(table, Choice(epsilon, "uniform"), "chest", seed=0)
        walks = privatiser.walks(texts)
        right = attacker.success(privatiser, walks)
        found[epsilon] = {name: float(guessed.mean()) for name, guessed in right.items()}
        found[epsilon]["linked"] = linked(table, public, walks, 2)
    assert all(value > 0.9 for value in found[1e4].values())
    assert found[1.0]["nearest"] < 0.2
    assert found[1.0]["linked"] <= 1
    assert not math.isnan(found[1.0]["bigram"])


def test_a_known_phrase_is_completed_by_the_bigram_attack(table: Table) -> None:
    """Words that no answer tells are guessed by what stands around them."""
    public = ["no evidence of pneumothorax is seen"] * 50
    attacker = Attacker(table, public)
    privatiser = Privatiser(table, Choice(75.0, "uniform"), "chest", seed=1)
    walks = privatiser.walks(public[:40])
    right = attacker.success(privatiser, walks)
    assert right["bigram"].mean() > right["nearest"].mean() + 0.2
