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

from benchmarks.privatise_attacks import Attacker, Fits, linked
from benchmarks.privatise_language import Linguist
from benchmarks.privatise_pairs import Pairs, Posterior, guesses
from benchmarks.privatise_rivals import Given, customised
from benchmarks.privatise_sets import classified, movies, read_classes, read_squad
from fedrad.model.base import load_base
from fedrad.privacy.randomness import Stream
from fedrad.privatise.budgets import Choice
from fedrad.privatise.embeddings import Table, load_table
from fedrad.privatise.privatiser import Privatiser
from tests.model import tiny
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


def different(*phrases: str) -> list[str]:
    """Sixty of each phrase, no two alike, since a text that is held out is left out wherever it comes."""
    return [f"{phrase} {k}" for k in range(60) for phrase in phrases]


def test_the_posterior_by_pairs_beats_the_bigram_attack_on_a_known_phrase(table: Table) -> None:
    """Both ways round: the words after a token tell as much as those before it."""
    public = different("no evidence of pneumothorax is seen", "the heart is normal in size")
    pairs, privatiser = Pairs(table, public), Privatiser(table, Choice(65.0, "uniform"), "chest", seed=1)
    walks = privatiser.walks(public[-20:])
    likely = pairs.likelihood(privatiser)
    assert likely.own > likely.steps.max()  # a token is likelier than all others to be its own answer
    assert likely.steps[38] > likely.steps[25] > likely.steps[20]  # and near ones are than far ones
    found = pairs.posteriors(Fits.of(pairs.counts, walks), likely, pairs.weight(pairs.known(privatiser), likely))

    right = np.mean(np.concatenate(guesses(found)) == np.concatenate([walk.tokens for walk in walks]))

    assert right > 0.75  # a seventh of the tokens are numbers, which nothing tells
    assert right > Attacker(table, public).success(privatiser, walks)["nearest"].mean() + 0.4


def test_the_sum_over_all_texts_is_what_it_says(table: Table) -> None:
    pairs = Pairs(table, different("no edema is seen", "no edema", "effusion is seen"))
    words = [["no", "effusion"], ["edema", "is"], ["is", "seen"]]
    tokens = np.array([table.tokenizer.convert_tokens_to_ids(two) for two in words])
    fit = np.log(np.array([[0.2, 0.9], [0.3, 0.5], [0.6, 0.1]]))

    found = pairs.both_ways(tokens, fit)

    every = np.zeros((2, 2, 2))
    for path in np.ndindex(every.shape):
        ids, before = tokens[np.arange(3), path], -1
        for k, token in enumerate(ids):
            every[path] += fit[k, path[k]] + pairs.follows(np.array([before]), np.array([[token]]))[0, 0]
            before = token
    sums = np.exp(every)
    expected = np.array([sums.sum((1, 2)), sums.sum((0, 2)), sums.sum((0, 1))])
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-6)


def test_a_language_model_decides_where_the_posterior_does_not(table: Table, tmp_path: Path) -> None:
    """It is used only if it helps on texts that are held out, and then as far as its power says."""
    base = load_base(tiny.save_decoder(tmp_path / "decoder", "llama", max_position_embeddings=400))
    linguist = Linguist(Pairs(table, different("no edema is seen", "the lungs are clear")), base)
    ids = np.array(table.tokenizer.convert_tokens_to_ids(["edema", "clear", "lungs", "seen"]))
    flat = Posterior(ids[None, :], np.zeros((1, 4)))
    likely = [linguist.reader.log_probability(ids[k : k + 1]) for k in range(4)]
    favourite = int(np.argmax(likely))

    assert linguist.guesses([flat], 0.5)[0].tolist() == [ids[favourite]]
    other = np.zeros((1, 4))
    other[0, favourite - 1] = 0.6 * (max(likely) - likely[favourite - 1])
    assert linguist.guesses([Posterior(ids[None, :], other)], 0.5)[0].tolist() == [ids[favourite - 1]]
    assert linguist.guesses([Posterior(ids[None, :], other)], 1.0)[0].tolist() == [ids[favourite]]
