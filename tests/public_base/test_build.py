"""How a public base is made: it learns, it is the same every time, and what it is made of stays as it is."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from fedrad.corpora import BANKS, CHEXPERT, CT_RATE, NO_OTHER_LABEL
from fedrad.data.batches import Tokenized
from fedrad.data.synthetic import generate
from fedrad.errors import ConfigError
from fedrad.model.base import BaseModel, load_base
from fedrad.public_base import build as public_base
from fedrad.public_base.build import Line, score_base, train_base
from fedrad.public_base.text import COLUMNS, SEED_OFFSET, SITES, BaseRecipe, labels_of, of_collection, read_text
from tests import small

XRAY = (("chest-xray", 1.0),)
BRIEF = BaseRecipe(reports=64, epochs=1, batch=16, max_length=48)


@pytest.fixture(autouse=True)
def _few_for_the_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public_base, "_AXES_FROM", 150)


def ids_of(text: Tokenized) -> list[list[int]]:
    return [text.ids[start:stop].tolist() for start, stop in itertools.pairwise(text.offsets)]


@pytest.fixture
def tiny() -> BaseModel:
    return load_base(small.model_folder())


def test_it_learns_what_generated_reports_say(tiny: BaseModel) -> None:
    """More than the labels' prior, on reports that it was not trained on."""
    recipe = replace(BRIEF, reports=600, epochs=5, learning_rate=5e-3, banks=XRAY)
    lines: list[str] = []
    trained, head = train_base(tiny, recipe, lines.append)
    unseen = read_text(recipe, tiny.tokenizer, reports=300, seed=2)
    truth = unseen.labels[:, COLUMNS["chexpert"]]
    prior = truth.mean(0)
    entropy = float(-(prior * np.log(prior) + (1 - prior) * np.log(1 - prior)).mean())
    guessed = f1_score(truth, np.broadcast_to(prior >= 0.5, truth.shape), average="weighted", zero_division=0)

    losses = [float(found[1]) for line in lines if (found := re.search(r"loss ([\d.]+)", line))]
    assert losses[0] > 2 * losses[-1]
    assert losses[-1] < 0.9 * entropy
    scores = score_base(trained, head, recipe, reports=300)
    assert scores.keys() == {"chexpert"}
    assert scores["chexpert"] > guessed + 0.08
    assert (
        scores["chexpert"] > score_base(tiny, head, recipe, reports=300)["chexpert"]
    )  # the encoder has learnt as well


def test_all_weights_are_trained_but_the_embeddings(tiny: BaseModel) -> None:
    trained, _ = train_base(tiny, BRIEF)
    before, after = tiny.module.state_dict(), trained.module.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    kept = {name for name in before if name.startswith("pooler.") or re.search("embeddings.*embeddings", name)}
    # A bias of the keys adds the same number to all scores of a token, so that nothing depends on it but by rounding.
    assert {name for name in before if not name.endswith("key.bias")} - changed == kept
    assert (trained.name, trained.public_head) == (tiny.name, None)
    assert trained.sha256 != tiny.sha256
    assert not any(parameter.requires_grad for parameter in trained.module.parameters())
    assert not any(part.training for part in trained.module.modules())


def test_what_it_is_made_of_stays_as_it_is(tiny: BaseModel) -> None:
    held = {name: tensor.clone() for name, tensor in tiny.module.state_dict().items()}
    trained, head = train_base(tiny, BRIEF)
    score_base(trained, head, BRIEF, reports=20)
    score_base(tiny, head, BRIEF, reports=20)
    assert small.same(tiny.module.state_dict(), held)
    assert not any(parameter.requires_grad for parameter in tiny.module.parameters())


def test_it_is_the_same_for_a_seed_whatever_torch_s_generator(tiny: BaseModel) -> None:
    made = []
    for seed, start in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(start)
        state = torch.random.get_rng_state()
        trained, head = train_base(tiny, replace(BRIEF, seed=seed))
        assert torch.equal(torch.random.get_rng_state(), state)
        made.append((trained, head))
    (first, head), (again, same_head), (other, _) = made
    assert first.sha256 == again.sha256 != other.sha256
    assert small.same(dict(head.weight), dict(same_head.weight))
    assert small.same(dict(head.bias), dict(same_head.bias))
    for name in ("mean", "directions", "spread"):
        assert torch.equal(getattr(head, name), getattr(same_head, name)), name


def test_progress_says_steps_and_time_left(tiny: BaseModel) -> None:
    lines: list[str] = []
    train_base(tiny, replace(BRIEF, epochs=2), lines.append)
    steps = [found.groups() for line in lines if (found := re.search(r"step (\d+) of (\d+), .*, \d+ s left$", line))]
    assert steps == [(str(step), "8") for step in range(1, 9)]
    assert lines[-1].endswith("0 s left") is False  # what comes after the last step is said, too
    assert "step 8 of 8" in lines[-2]
    assert lines[-2].endswith(", 0 s left")


def test_lines_go_to_standard_error_and_not_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    line = Line()
    for step in range(50):
        line(f"step {step}")
    line.end()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("step 0\n")
    assert len(err.splitlines()) < 50


def test_on_a_terminal_the_line_is_replaced_and_cleared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    line = Line()
    line("one")
    line("two")
    line.end()
    assert capsys.readouterr().err == "\r\x1b[Kone\r\x1b[Ktwo\r\x1b[K"


# The head


def test_the_head_has_a_row_for_each_label_and_orthonormal_directions(tiny: BaseModel) -> None:
    trained, head = train_base(tiny, BRIEF)
    assert head.labels == {"chexpert": (*CHEXPERT, NO_OTHER_LABEL), "ct-rate": CT_RATE}
    assert tuple(head.weight["chexpert"].shape) == (15, 32)
    assert tuple(head.weight["ct-rate"].shape) == (18, 32)
    axes = head.directions.double()
    assert tuple(axes.shape) == (32, 32)
    assert torch.allclose(axes @ axes.T, torch.eye(32, dtype=torch.float64), atol=1e-5)
    assert bool((head.spread[:-1] >= head.spread[1:]).all())
    # Mean and spread are those of stock mean pooling on generated text.
    text = read_text(BRIEF, tiny.tokenizer, reports=150, seed=1)
    pooled = torch.stack([trained.module(torch.tensor([ids])).last_hidden_state[0].mean(0) for ids in ids_of(text)])
    assert torch.allclose(pooled.mean(0), head.mean, atol=0.03)  # bfloat16 where the processor has it
    projected = (pooled - head.mean) @ head.directions.T
    assert torch.allclose(projected.std(0, correction=0)[:3], head.spread[:3], rtol=0.05)


def test_scores_are_by_collection_and_of_reports_that_were_not_trained_on(tiny: BaseModel) -> None:
    trained, head = train_base(tiny, BRIEF)
    scores = score_base(trained, head, BRIEF, reports=60)
    assert scores.keys() == {"chexpert", "ct-rate"}
    assert all(0 <= score <= 1 for score in scores.values())
    seen, unseen = (set(map(tuple, ids_of(read_text(BRIEF, tiny.tokenizer, reports=60, seed=seed)))) for seed in (0, 2))
    assert len(seen & unseen) < 0.3 * len(unseen)  # short reports of so few words may coincide


def test_the_score_of_a_head_that_always_says_yes_is_known(tiny: BaseModel) -> None:
    _, head = train_base(tiny, BRIEF)
    text = read_text(replace(BRIEF, banks=XRAY), tiny.tokenizer, reports=60, seed=2)
    truth = text.labels[:, COLUMNS["chexpert"]]
    certain = replace(
        head,
        weight={key: torch.zeros_like(weight) for key, weight in head.weight.items()},
        bias={key: torch.ones_like(bias) for key, bias in head.bias.items()},
    )
    expected = f1_score(truth, np.ones_like(truth), average="weighted", zero_division=0)
    assert score_base(tiny, certain, replace(BRIEF, banks=XRAY), reports=60) == {"chexpert": pytest.approx(expected)}


# The text


def row(**positive: int) -> dict[str, int]:
    return {name: positive.get(name.replace(" ", "_"), 0) for name in CHEXPERT}


@pytest.mark.parametrize(
    ("given", "other"),
    [
        (row(), 1),
        (row(No_Finding=1), 1),
        (row(Support_Devices=1), 1),  # CheXpert's No Finding allows them
        (row(No_Finding=1, Support_Devices=1), 1),
        (row(Edema=1), 0),
        (row(Edema=1, Support_Devices=1), 0),
    ],
)
def test_no_finding_as_chexpert_means_it(given: dict[str, int], other: int) -> None:
    labels = labels_of(given, "chest-xray")
    assert labels[COLUMNS["chexpert"]].tolist() == [*(given[name] for name in CHEXPERT), other]
    assert np.isnan(labels[COLUMNS["ct-rate"]]).all()


def test_labels_of_ct_have_no_such_row() -> None:
    given = dict.fromkeys(reversed(CT_RATE), 0) | {"Emphysema": 1}  # whatever their order
    labels = labels_of(given, "chest-ct")
    assert np.isnan(labels[COLUMNS["chexpert"]]).all()
    assert labels[COLUMNS["ct-rate"]].tolist() == [float(name == "Emphysema") for name in CT_RATE]


def test_all_banks_but_that_of_the_hospitals_are_read_by_their_share(tiny: BaseModel) -> None:
    recipe = BaseRecipe()
    assert {bank for bank, _ in recipe.banks} == set(BANKS) - {"chest-xray-hospitals"}
    assert math.isclose(sum(share for _, share in recipe.banks), 1.0)
    text = read_text(recipe, tiny.tokenizer, reports=200)
    assert len(text) == len(text.labels) == 200
    ct = sum(share for bank, share in recipe.banks if bank.startswith("chest-ct"))
    assert len(of_collection(text, "ct-rate")) == round(200 * ct)
    assert {int(count) for count in text.mask.sum(1)} == {15, 18}


@pytest.mark.parametrize("which", [0, 1])
def test_one_half_says_only_its_own_phrases(which: int) -> None:
    read: list[str] = []

    def spy(texts: list[str], **options: object) -> dict[str, list[list[int]]]:
        read.extend(texts)
        return {"input_ids": [[2, 3] for _ in texts]}

    read_text(replace(BRIEF, banks=XRAY, half=which), spy, reports=40)
    assert read == [row["text"] for row in generate(40, SEED_OFFSET, SITES, half=which)]
    assert read != [row["text"] for row in generate(40, SEED_OFFSET, SITES)]


def test_reports_are_cut(tiny: BaseModel) -> None:
    text = read_text(replace(BRIEF, max_length=9), tiny.tokenizer)
    assert text.lengths.max() == 9


def test_batches_hold_each_report_once_and_those_of_a_length_together(tiny: BaseModel) -> None:
    text = read_text(replace(BRIEF, banks=XRAY), tiny.tokenizer)
    batches = list(public_base._batches(text, BRIEF, np.random.default_rng(0)))
    assert sorted(int(row) for rows in batches for row in rows) == list(range(64))
    assert {len(rows) for rows in batches} == {16}
    lengths = sorted((sorted(text.lengths[rows]) for rows in batches), key=lambda ls: (ls[0], ls[-1]))
    assert all(one[-1] <= other[0] for one, other in itertools.pairwise(lengths))


def test_few_reports_are_one_batch(tiny: BaseModel) -> None:
    lines: list[str] = []
    trained, _ = train_base(tiny, replace(BRIEF, reports=7, banks=XRAY), lines.append)
    assert trained.sha256 != tiny.sha256
    assert any("step 1 of 1" in line for line in lines)


def test_what_can_not_be_is_refused(tiny: BaseModel) -> None:
    with pytest.raises(ConfigError, match="reads at most 48 tokens, and max_length is 256"):
        train_base(tiny, BaseRecipe())
    with pytest.raises(ConfigError, match="1 generated reports are too few"):
        train_base(tiny, replace(BRIEF, reports=1))
