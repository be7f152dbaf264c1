"""The sets, rivals and attacks of ``benchmarks.privatise``, on tiny files and tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.privatise_attacks import linked
from benchmarks.privatise_language import Linguist
from benchmarks.privatise_pairs import MIX, Pairs, Posterior
from benchmarks.privatise_rivals import Given, customised
from benchmarks.privatise_sets import classified, movies, read_classes, read_squad
from benchmarks.privatise_utility import Row, ahead
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

    likely = [rival.log_likelihood(v, np.array([one, rival.sets[4][0]]), epsilon) for v in rival.sets[3].tolist()]
    np.testing.assert_allclose(np.exp(np.array(likely)[:, 0]), counts[0][rival.sets[3]] / draws, atol=0.015)
    assert np.isneginf(np.array(likely)[:, 1]).all()  # an answer betrays the set


def test_the_rivals_score_is_taken_where_an_attack_succeeds_as_often() -> None:
    def row(epsilon: float, score: float, success: float) -> Row:
        times = 1 + np.array([0.0, 0.02, -0.02])  # the figure, and two resamples
        return Row("m", epsilon, {"score": score * times, "pairs": success * times})

    polar, rivals = row(80, 0.5, 0.4), [row(1, 0.2, 0.2), row(2, 0.6, 0.6), row(3, 0.7, 0.9)]
    found = ahead(polar, rivals, "pairs")
    assert found is not None
    np.testing.assert_allclose(found, 0.1 * (1 + np.array([0.0, 0.02, -0.02])))
    assert ahead(polar, rivals[1:], "pairs") is None  # no budget of the rival is attacked so seldom


def test_a_grid_may_have_any_budgets() -> None:
    choice = Given(1.0, "full", "polar", "code", given=(150, 50, 450, 350))
    assert choice.budgets == (150, 50, 450, 350)


@pytest.fixture(scope="module")
def table() -> Table:
    return load_table(coarse=False)


def test_attacks_undo_what_is_hardly_perturbed_and_nothing_else(table: Table) -> None:
    public = ["the lungs are clear . no effusion is seen .", "the heart is normal . no edema is seen ."] * 20
    texts = ["the lungs are normal . no edema is seen .", "small nodule in the left lung ."]
    pairs = Pairs(table, different(*public[:2]))
    found = {}
    for epsilon in (1.0, 1e4):
        privatiser = Privatiser(table, Choice(epsilon, "uniform"), "chest", seed=0)
        walks = privatiser.walks(texts)
        right = pairs.success(privatiser, pairs.likely(privatiser), walks)
        found[epsilon] = {name: float(np.concatenate(guessed).mean()) for name, guessed in right.items()}
        found[epsilon]["linked"] = float(linked(table, public, walks, 2).mean())
    assert all(value > 0.9 for value in found[1e4].values())
    assert found[1.0]["nearest"] < 0.2
    assert found[1.0]["linked"] <= 1
    assert found[1.0]["pairs"] < 0.5


def different(*phrases: str) -> list[str]:
    """Sixty of each phrase, no two alike, since a text that is held out is left out wherever it comes."""
    return [f"{phrase} {k}" for k in range(60) for phrase in phrases]


def test_a_known_phrase_is_completed_by_pairs(table: Table) -> None:
    """Words that no answer tells are guessed by what stands around them, on both sides."""
    public = different("no evidence of pneumothorax is seen", "the heart is normal in size")
    pairs, privatiser = Pairs(table, public), Privatiser(table, Choice(65.0, "uniform"), "chest", seed=1)
    likely = pairs.counted(privatiser, 65.0)
    assert likely.own > likely.steps.max()  # a token is likelier than all others to be its own answer
    assert likely.steps[38] > likely.steps[25] > likely.steps[20]  # and near ones are than far ones

    found = pairs.success(privatiser, pairs.likely(privatiser), privatiser.walks(public[-20:]))

    shares = {attack: np.concatenate(right).mean() for attack, right in found.items()}
    assert shares["pairs"] > 0.75  # a seventh of the tokens are numbers, which nothing tells
    assert shares["pairs"] > shares["prior"] + 0.2
    assert shares["pairs"] > shares["nearest"] + 0.4


def test_the_sum_over_all_texts_is_what_it_says(table: Table) -> None:
    pairs = Pairs(table, different("no edema is seen", "no edema", "effusion is seen"))
    known = pairs.counts.known.tolist()
    answers = np.array(table.tokenizer.convert_tokens_to_ids(["no", "sofa", "seen"]))  # a sofa is in no public text
    fit = np.random.default_rng(0).normal(size=(3, len(known) + 1))

    found = pairs.both_ways(answers, fit)

    columns = [[*known, answer] for answer in answers.tolist()]
    frequency, follows = np.exp(pairs.counts.prior.astype(float)), np.zeros((len(known) + 1, len(known) + 1))
    follows[:-1, :-1] = pairs.counts.follows.toarray()
    steps = [MIX * follows + (1 - MIX) * frequency[columns[k]] for k in (1, 2)]
    first, second, third = np.exp(fit)
    every = np.einsum("a,ab,bc->abc", first * frequency[columns[0]], steps[0] * second, steps[1] * third)
    expected = np.array([every.sum((1, 2)), every.sum((0, 2)), every.sum((0, 1))])
    shares = np.exp(found) / np.exp(found).sum(1, keepdims=True)
    np.testing.assert_allclose(shares, expected / expected.sum(1, keepdims=True), rtol=1e-6)
    is_, seen = (known.index(k) for k in table.tokenizer.convert_tokens_to_ids(["is", "seen"]))
    assert follows[is_, seen] == 1  # nothing else follows it
    assert follows[seen, is_] == 0


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
