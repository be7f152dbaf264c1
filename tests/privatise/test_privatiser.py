"""Groups, budgets and answers of texts, with the embedded table."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from fedrad.errors import ConfigError, ModelError
from fedrad.privatise.budgets import PROFILES, Choice
from fedrad.privatise.embeddings import Table, load_table
from fedrad.privatise.privatiser import DROPPED, Privatiser
from fedrad.privatise.report import guarantee_lines, manifest
from tests.privatise.test_identifiers import MISSED, labelled

TASK = "chest"
TEXT = "Dr. Anna Kowalska saw a small pleural effusion of the chest on 03/14/2021."


@pytest.fixture(scope="module")
def table() -> Table:
    return load_table()


def privatiser(table: Table, profile: str = "full", epsilon: float = 50.0, seed: int | None = 0) -> Privatiser:
    return Privatiser(table, Choice(epsilon, profile), TASK, seed=seed)


def names(of: Privatiser, ids: np.ndarray) -> list[str]:
    found: list[str] = of.table.tokenizer.convert_ids_to_tokens(ids.tolist())
    return found


def test_tokens_are_grouped_by_span_and_by_task(table: Table) -> None:
    of = privatiser(table)
    (walk,) = of.walks([TEXT])

    groups = dict(zip(names(of, walk.tokens), walk.groups.tolist(), strict=True))

    assert {groups[name] for name in ("dr", "anna", "ko", "##wal", "##ska", "03", "2021")} == {1}
    assert groups["chest"] == 2
    assert {groups[name] for name in ("small", "saw", "of")} == {3}


def test_a_span_is_important_only_if_all_of_it_is(table: Table) -> None:
    of = privatiser(table)
    (walk,) = of.walks(["Seen by Dr. Chest, and Mr. Chest Smith."])

    assert set(walk.groups[np.isin(names(of, walk.tokens), ["dr", "chest"])].tolist()) == {1}


def test_the_default_profile_keeps_no_identifier(table: Table) -> None:
    of = Privatiser(table, Choice(1e6), TASK)  # a budget at which every other token stays itself
    for text, spans in labelled():
        (walk,) = of.walks([text])
        offsets = table.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        for span in spans:
            if text[span.start : span.end] in MISSED:
                continue
            inside = [start < span.end and end > span.start for start, end in offsets]
            letters = [any(char.isalnum() for char in text[start:end]) for start, end in offsets]
            assert (walk.answers[np.array(inside) & np.array(letters)] == DROPPED).all(), text
        assert (walk.answers[walk.groups >= 2] == walk.tokens[walk.groups >= 2]).mean() > 0.9  # control


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_a_budget_of_0_drops_and_an_infinite_one_keeps(table: Table, profile: str) -> None:
    of = privatiser(table, profile, epsilon=0.01)  # a budget at which hardly a token stays itself
    (walk,) = of.walks([TEXT])
    for group in range(4):
        mine = walk.groups == group
        budget = of.choice.budgets[group]
        if budget == 0:
            assert (walk.answers[mine] == DROPPED).all()
        elif budget == math.inf:
            assert (walk.answers[mine] == walk.tokens[mine]).all()
        elif mine.any():
            assert (walk.answers[mine] == walk.tokens[mine]).mean() < 0.5


def test_a_large_budget_leaves_the_text_and_a_small_one_does_not(table: Table) -> None:
    plain = "no pneumothorax is seen"
    assert privatiser(table, "uniform", epsilon=1e5).texts([plain]) == [plain]
    assert privatiser(table, "uniform", epsilon=1.0).texts([plain]) != [plain]


def test_spelling_of_the_original_is_not_copied(table: Table) -> None:
    of = privatiser(table, "uniform", epsilon=1e5)
    assert of.texts(["No   PNEUMOTHORAX\nis seen", "no pneumothorax is seen"]) == ["no pneumothorax is seen"] * 2


def test_randomness_is_fresh_unless_it_is_seeded(table: Table) -> None:
    seeded, system = privatiser(table, epsilon=5.0), privatiser(table, epsilon=5.0, seed=None)
    assert seeded.texts([TEXT]) == seeded.texts([TEXT]) == pickle.loads(pickle.dumps(seeded)).texts([TEXT])
    assert seeded.texts([TEXT]) != seeded.texts([TEXT], part=1)
    assert system.texts([TEXT]) != system.texts([TEXT])
    (one, other) = seeded.texts([TEXT, TEXT])
    assert one != other


def test_datasets_map_can_call_it(table: Table) -> None:
    of = privatiser(table, "uniform", epsilon=1e5)
    rows = datasets.Dataset.from_dict({"text": ["No pneumothorax is seen", "Small effusion."], "label": [0, 1]})
    found = rows.map(lambda batch: {"text": of.texts(batch["text"])}, batched=True, keep_in_memory=True)
    assert found.to_dict() == {"text": ["no pneumothorax is seen", "small effusion."], "label": [0, 1]}


def test_processes_of_datasets_map_draw_anew(table: Table) -> None:
    """A privatiser travels to worker processes; no two rows, batches or processes share their randomness."""
    of = privatiser(table, "uniform", epsilon=1.0, seed=None)
    rows = datasets.Dataset.from_dict({"text": ["No pneumothorax is seen"] * 12})
    found = rows.map(_privatised, batched=True, batch_size=3, num_proc=2, fn_kwargs={"of": of}, keep_in_memory=True)
    again = rows.map(_privatised, batched=True, fn_kwargs={"of": of}, keep_in_memory=True)
    assert len({*found["text"], *again["text"]}) == 24


def _privatised(batch: dict[str, list[str]], of: Privatiser) -> dict[str, list[str]]:
    return {"text": of.texts(batch["text"])}


def test_what_a_text_gives_away_is_the_sum_over_its_tokens(table: Table) -> None:
    for profile, worst in (("full", (200, 100, 400, 300)), ("drop", (0, 0, 400, 300)), ("private-low", (0, 100, 0, 0))):
        of = privatiser(table, profile)
        (walk,) = of.walks([TEXT])
        assert of.worst(walk) == pytest.approx(sum(worst[group] for group in walk.groups))
    assert of.worst(replace(walk, groups=walk.groups[:0])) == 0


def test_every_figure_comes_with_its_distance(table: Table) -> None:
    of = privatiser(table)
    lines = guarantee_lines(of)
    assert all("distance" in line and "over all pairs" in line for line in lines[:4])
    assert "8,000 for 20 tokens" in lines[4]
    said = manifest(of, 3, "0" * 64)
    assert said["randomness"] == "seed 0: simulation only, protects nobody"
    assert [group["worst_case_over_all_pairs"] for group in said["groups"]] == [200, 100, 400, 300]
    assert manifest(privatiser(table, seed=None), 3, "")["randomness"] == "operating system"


def test_nothing_and_blank_texts_are_fine(table: Table) -> None:
    assert privatiser(table).texts([]) == []
    assert privatiser(table).texts(["", "  "]) == ["", ""]


def test_all_wrong_choices_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as found:
        Choice(-1.0, "none", "noise", threshold=2)
    assert len(found.value.problems) == 4
    with pytest.raises(ConfigError, match="no other mechanism has a kappa"):
        Choice(1.0, mechanism="laplace", kappa="code")


def test_a_task_without_words_is_refused(table: Table) -> None:
    with pytest.raises(ModelError, match="describe it"):
        Privatiser(table, Choice(1.0), "  ")


def test_the_table_of_a_local_decoder_can_be_used(table: Table, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("decoder")
    config = LlamaConfig(
        vocab_size=len(table.tokenizer) + 6, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    LlamaModel(config).save_pretrained(folder)
    table.tokenizer.save_pretrained(folder)

    found = load_table(str(folder))

    assert found.unit.shape == (len(table.tokenizer), 16)
    assert torch.allclose(found.unit.norm(dim=1), torch.ones(len(found.unit)), atol=1e-5)
    assert found.fingerprint != table.fingerprint
    assert len(privatiser(found).texts([TEXT])) == 1
    with pytest.raises(ModelError, match="no such folder"):
        load_table(str(folder / "nothing"), "")
